"""Corpora: page images with what a lexical retriever reads of them, and questions about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.envs.retrieval.views import Box

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of files that are pages."""
MOST_PIXELS = 16_000_000
"""Of a page."""


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One page."""

    id: str
    """Unique in the corpus: VRAG's are document_number."""
    text: str
    """What lexical retrievers index."""
    pixels: Tensor
    """[H, W, C] uint8, raw."""
    document: str
    """The document it belongs to; splits share no document."""


@dataclass(frozen=True, slots=True)
class Region:
    """Where on a page an answer stands."""

    page: str
    box: Box
    """In raw pixels."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of an agent, and what only its judge and its teacher know."""

    id: str
    text: str
    """The question as the user puts it."""
    answer: str
    gold: tuple[str, ...]
    """Ids of the pages that hold the answer."""
    kind: str = ""
    """Such as "single", "multi" or "zoom"."""
    regions: tuple[Region, ...] = ()
    """Where the answer stands, one or more a gold page."""
    queries: tuple[str, ...] = ()
    """For the teacher: a query in the corpus's own words for each gold page."""
    naive: str = ""
    """For the teacher: the query that the user's own wording suggests."""
    thought: str = ""
    """For the teacher: what to look for on the page."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pages, and questions by split."""

    pages: tuple[Page, ...]
    splits: dict[str, tuple[Question, ...]]
    numbers: dict[str, int] = field(init=False, compare=False)
    """Page id to its number, as retrievers count."""

    def __post_init__(self) -> None:
        if not self.pages:
            raise ValueError("the corpus is empty: it needs at least one page.")
        numbers = {page.id: number for number, page in enumerate(self.pages)}
        if len(numbers) < len(self.pages):
            ids = [page.id for page in self.pages]
            twice = next(id for id in numbers if ids.count(id) > 1)
            raise ValueError(f"page id {twice!r} occurs twice; ids are unique.")
        for name, questions in self.splits.items():
            for question in questions:
                if lost := [id for id in question.gold if id not in numbers]:
                    raise ValueError(
                        f"question {question.id!r} of split {name!r} names page {lost[0]!r}: no such page."
                    )
        object.__setattr__(self, "numbers", numbers)

    @property
    def texts(self) -> list[str]:
        """What lexical retrievers index, page by page."""
        return [page.text for page in self.pages]


def read_folder(folder: Path, questions: Path | None = None) -> Corpus:
    """Read page images and PDFs from a folder, and questions from a JSON-lines file.

    Pages are the folder's PNG, JPEG and WebP files, in the order of their names; `name.txt` beside `name.png` is the
    page's text, the name itself where there is none; the document is the name up to its last underscore. Each page of
    `name.pdf` is a page name_1, name_2 …, with the text that the PDF holds. A line of
    `questions` (by default the folder's `questions.jsonl`) holds "text", "answer" and "gold" (page names), and
    perhaps "id", "kind" and "split".

    Raises:
        ValueError: No page, a file that is no image or no PDF, or a line that is no question; each named.
        ImportError: There is a PDF, and pypdfium2 is not installed.
    """
    pages: list[Page] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            pages.append(_read_picture(path))
        elif path.suffix.lower() == ".pdf":
            pages += _read_pdf(path)
    if not pages:
        raise ValueError(f"{folder} holds no PNG, JPEG, WebP or PDF file: the corpus would be empty.")
    source = questions or folder / "questions.jsonl"
    return Corpus(tuple(pages), _read_questions(source) if questions or source.exists() else {})


def _read_picture(path: Path) -> Page:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{path} has {image.width} x {image.height} pixels, {MOST_PIXELS:,} are allowed.")
            picture = image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{path} is not an image: {error}. Remove it from the corpus.") from error
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    text = path.with_suffix(".txt")
    words = text.read_text() if text.exists() else path.stem.replace("_", " ")
    document = path.stem.rpartition("_")[0] or path.stem
    return Page(path.stem, words, data.view(picture.height, picture.width, 3), document)


def _read_pdf(path: Path) -> list[Page]:
    """Render a PDF's pages at 144 dots an inch, less where a page would be too large."""
    try:
        import pypdfium2
    except ImportError as error:
        raise ImportError(f"{path} is a PDF, which needs pypdfium2: pip install 'palaestra[retrieval]'.") from error
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        raise ValueError(f"{path} is not a PDF: {error}. Remove it from the corpus.") from error
    pages = []
    try:
        for number, sheet in enumerate(document, start=1):
            width, height = sheet.get_size()
            scale = min(2.0, (MOST_PIXELS / max(width * height, 1.0)) ** 0.5)
            picture = torch.from_numpy(sheet.render(scale=scale, rev_byteorder=True).to_numpy()[..., :3].copy())
            text = sheet.get_textpage().get_text_bounded()
            pages.append(Page(f"{path.stem}_{number}", text, picture, path.stem))
    finally:
        document.close()
    return pages


def _read_questions(path: Path) -> dict[str, tuple[Question, ...]]:
    splits: dict[str, list[Question]] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            gold = tuple(str(id) for id in row["gold"])
            question = Question(
                str(row.get("id", number)), str(row["text"]), str(row["answer"]), gold, str(row.get("kind", ""))
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}, line {number} is no question ({error!r}): each line is an object with text, answer and gold."
            ) from error
        splits.setdefault(str(row.get("split", "test")), []).append(question)
    return {name: tuple(of_split) for name, of_split in splits.items()}


def of_kind(questions: Sequence[Question], kind: str) -> list[Question]:
    """Return the questions of one kind."""
    return [question for question in questions if question.kind == kind]
