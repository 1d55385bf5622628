"""Rendered documents: tables, charts, forms and figures in several fonts and layouts, with questions about them.

What a question asks about is drawn, not written where a lexical retriever could read it: the text layer of a page
holds its title and kind. A number in a table or form is small, the tallest bar of a chart is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from palaestra.envs.retrieval.corpus import Corpus, Page, Question, Region
from palaestra.envs.retrieval.views import Box

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Kind = Literal["table", "bar", "line", "form", "figure"]
KINDS: tuple[Kind, ...] = ("table", "bar", "line", "form", "figure")
PLACES = [
    "Arlen",
    "Bexley",
    "Corran",
    "Dunmore",
    "Elstow",
    "Farley",
    "Garth",
    "Hollin",
    "Ibsley",
    "Jarrow",
    "Kelso",
    "Larne",
    "Marlow",
    "Nairn",
    "Orford",
    "Penrith",
    "Quorn",
    "Rothley",
    "Selby",
    "Thirsk",
]
SUBJECTS = [
    "harvest",
    "rainfall",
    "ferries",
    "bicycles",
    "libraries",
    "orchards",
    "tramways",
    "lighthouses",
    "bakeries",
    "apiaries",
    "quarries",
    "windmills",
    "harbours",
    "meadows",
    "theatres",
    "museums",
]
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun")
FONTS = {"train": ("DejaVuSans", "DejaVuSerif"), "test": ("DejaVuSansMono", "DejaVuSerif-Italic")}
"""Of matplotlib, which brings them along."""
PAPERS = {"train": ("#ffffff", "#fbf7ec"), "test": ("#eef3f8",)}
SIDES = {"train": ((640, 480), (480, 640), (600, 600)), "test": ((720, 540), (540, 720))}
"""Width and height of pages: layouts and fonts, like documents, belong to one split."""
TOPS = {"train": (16, 40), "test": (28,)}
"""How far down titles stand."""
INKS = ("#1f2937", "#0b3d63", "#5b1a1a")


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What a figure on a page asks for."""

    question: str
    """Without its page's title."""
    answer: str
    box: Box
    """Where the answer stands."""
    kind: str
    """"zoom" where it is small."""


@dataclass(frozen=True, slots=True)
class _Look:
    """How a document looks."""

    size: tuple[int, int]
    """Width and height of its pages."""
    paper: str
    font: str
    top: int
    """Of its titles."""

    def letters(self, size: int) -> Any:
        """Return its font in a size."""
        from matplotlib import get_data_path
        from PIL import ImageFont

        return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{self.font}.ttf", size)


def document_corpus(seed: int = 0, *, train: int = 40, test: int = 20, pages: int = 3) -> Corpus:
    """Make documents of `pages` pages each, with a question a page and one over two pages a document.

    Train and test are disjoint in documents, in fonts, and in layouts (sizes and papers of pages, places of titles).

    Raises:
        ValueError: More documents than there are titles.
    """
    titles = [f"{place} {subject}" for place in PLACES for subject in SUBJECTS]
    if min(train, test) < 0 or train + test > len(titles) or not 1 <= pages <= len(KINDS):
        raise ValueError(
            f"at most {len(titles)} documents of 1 to {len(KINDS)} pages, got {train} + {test} of {pages}."
        )
    generator = np.random.default_rng((seed, 0x646F))
    order = generator.permutation(len(titles))
    made: list[Page] = []
    splits: dict[str, tuple[Question, ...]] = {}
    for split, numbers in (("train", range(train)), ("test", range(train, train + test))):
        asked: list[Question] = []
        for number in numbers:
            asked += _document(f"document{number:03d}", titles[order[number]], split, pages, generator, made)
        splits[split] = tuple(asked)
    return Corpus(tuple(made), splits)


def _document(
    name: str, title: str, split: str, pages: int, generator: np.random.Generator, made: list[Page]
) -> list[Question]:
    """Add a document's pages and return its questions."""
    of_split: tuple[Sequence[Any], ...] = SIDES[split], PAPERS[split], FONTS[split], TOPS[split]
    look = _Look(*(some[int(generator.integers(len(some)))] for some in of_split))
    kinds: list[Kind] = [KINDS[index] for index in generator.permutation(len(KINDS))[:pages]]
    questions, totals = [], []
    for number, kind in enumerate(kinds, start=1):
        id = f"{name}_{number}"
        pixels, drawn, total = _page(title, kind, number, look, generator)
        made.append(Page(id, f"{title} {kind}", pixels, name))
        totals.append(total)
        questions.append(
            Question(
                id=f"{id}-{drawn.kind}",
                text=f"In the {kind} on {title}: {drawn.question}",
                answer=drawn.answer,
                gold=(id,),
                kind=drawn.kind,
                regions=(Region(id, drawn.box),),
                queries=(f"{title} {kind}",),
                naive=title,
                thought=kind,
            )
        )
    if pages > 1:
        gold = (f"{name}_1", f"{name}_2")
        questions.append(
            Question(
                id=f"{name}-multi",
                gold=gold,
                kind="multi",
                naive=title,
                text=f"{title}: what is the sum of the numbers marked 'total' in the {kinds[0]} and in the {kinds[1]}?",
                answer=str(totals[0][0] + totals[1][0]),
                thought="total",
                regions=tuple(Region(id, total[1]) for id, total in zip(gold, totals, strict=False)),
                queries=tuple(f"{title} {kind}" for kind in kinds[:2]),
            )
        )
    return questions


def _page(
    title: str, kind: Kind, number: int, look: _Look, generator: np.random.Generator
) -> tuple[torch.Tensor, _Drawn, tuple[int, Box]]:
    """Return a page's pixels [H, W, 3], what it asks for, and its total with where that stands."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", look.size, look.paper)
    draw = ImageDraw.Draw(image)
    ink = INKS[generator.integers(len(INKS))]
    width, height = look.size
    draw.text((24, look.top), title, fill=ink, font=look.letters(int(generator.integers(20, 27))))
    draw.text((24, look.top + 36), f"{kind}, page {number}", fill=ink, font=look.letters(13))
    frame = (40.0, look.top + 74.0, width - 40.0, height - 70.0)
    values = (
        10 + 6 * generator.permutation(15)[: len(MONTHS)]
    ).tolist()  # far enough apart to be told apart in a chart
    drawn = _DRAWERS[kind](draw, frame, values, ink, look.letters(10))
    total = sum(values)
    place = (40.0, height - 52.0)
    draw.text(place, f"total {total}", fill=ink, font=look.letters(10))
    box = draw.textbbox(place, f"total {total}", font=look.letters(10))
    pixels = torch.from_numpy(np.array(image, np.uint8))
    return pixels, drawn, (total, (float(box[0]), float(box[1]), float(box[2]), float(box[3])))


def _table(draw: ImageDraw, frame: Box, values: Sequence[int], ink: str, font: Any) -> _Drawn:
    """Draw a row a month, and ask for one number."""
    x1, y1, x2, y2 = frame
    step, asked = (y2 - y1) / len(values), sum(values) % len(values)
    for row, (month, value) in enumerate(zip(MONTHS, values, strict=True)):
        top = y1 + row * step
        draw.rectangle((x1, top, x2, top + step), outline=ink)
        draw.text((x1 + 8, top + step / 3), month, fill=ink, font=font)
        draw.text(((x1 + x2) / 2, top + step / 3), str(value), fill=ink, font=font)
    box = (x1, y1 + asked * step, x2, y1 + (asked + 1) * step)
    return _Drawn(f"what is the number of {MONTHS[asked]}?", str(values[asked]), box, "zoom")


def _bar(draw: ImageDraw, frame: Box, values: Sequence[int], ink: str, font: Any) -> _Drawn:
    """Draw a bar a month, and ask for the tallest."""
    x1, y1, x2, y2 = frame
    step = (x2 - x1) / len(values)
    for column, (month, value) in enumerate(zip(MONTHS, values, strict=True)):
        left = x1 + column * step
        draw.rectangle((left + 0.15 * step, y2 - value / 110 * (y2 - y1), left + 0.85 * step, y2), fill=ink)
        draw.text((left + 0.3 * step, y2 + 4), month, fill=ink, font=font)
    best = max(range(len(values)), key=values.__getitem__)
    return _Drawn(
        "which month is highest?", MONTHS[best], (x1 + best * step, y1, x1 + (best + 1) * step, y2 + 16), "single"
    )


def _line(draw: ImageDraw, frame: Box, values: Sequence[int], ink: str, font: Any) -> _Drawn:
    """Draw a line through the months, and ask for its lowest point."""
    x1, y1, x2, y2 = frame
    step = (x2 - x1) / len(values)
    points = [(x1 + (n + 0.5) * step, y2 - value / 110 * (y2 - y1)) for n, value in enumerate(values)]
    draw.line(points, fill=ink, width=3)
    for (x, _), month in zip(points, MONTHS, strict=True):
        draw.text((x - 0.2 * step, y2 + 4), month, fill=ink, font=font)
    worst = min(range(len(values)), key=values.__getitem__)
    return _Drawn(
        "which month is lowest?", MONTHS[worst], (x1 + worst * step, y1, x1 + (worst + 1) * step, y2 + 16), "single"
    )


def _form(draw: ImageDraw, frame: Box, values: Sequence[int], ink: str, font: Any) -> _Drawn:
    """Draw fields that are filled in, and ask for one."""
    x1, y1, x2, y2 = frame
    names = ("reference", "permit", "parcel", "licence", "ledger", "docket")
    step, asked = (y2 - y1) / len(names), sum(values) % len(names)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        top = y1 + row * step
        draw.text((x1, top), f"{name} no.", fill=ink, font=font)
        draw.rectangle((x1 + 0.4 * (x2 - x1), top - 3, x2, top + 17), outline=ink)
        draw.text((x1 + 0.4 * (x2 - x1) + 6, top), f"{value}-{row}", fill=ink, font=font)
    top = y1 + asked * step
    return _Drawn(
        f"what is the {names[asked]} number?", f"{values[asked]}-{asked}", (x1, top - 3, x2, top + 17), "zoom"
    )


def _figure(draw: ImageDraw, frame: Box, values: Sequence[int], ink: str, font: Any) -> _Drawn:
    """Draw stations along a winding way, and ask which one follows another."""
    x1, y1, x2, y2 = frame
    order = sorted(range(len(values)), key=values.__getitem__)
    step = (x2 - x1) / len(values)
    middles = [(x1 + (n + 0.5) * step, y1 + (0.3 + 0.4 * (n % 2)) * (y2 - y1)) for n in range(len(values))]
    for (ax, ay), (bx, by) in pairwise(middles):
        draw.line((ax, ay, bx, by), fill=ink, width=2)
        (x, y), length = ((ax + bx) / 2, (ay + by) / 2), ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
        u, v = 6 * (bx - ax) / length, 6 * (by - ay) / length
        draw.polygon([(x + 2 * u, y + 2 * v), (x - v, y + u), (x + v, y - u)], fill=ink)  # an arrow's head
    boxes = [(x - 24, y - 13, x + 24, y + 13) for x, y in middles]
    for box, month in zip(boxes, order, strict=True):
        draw.rounded_rectangle(box, 6, fill="#ffffff", outline=ink, width=2)
        draw.text((box[0] + 11, box[1] + 7), MONTHS[month], fill=ink, font=font)
    asked = sum(values) % (len(order) - 1)
    question = f"which station comes after {MONTHS[order[asked]]}?"
    return _Drawn(question, MONTHS[order[asked + 1]], boxes[asked + 1], "single")


_DRAWERS: dict[Kind, Callable[[Any, Box, Sequence[int], str, Any], _Drawn]] = {
    "table": _table,
    "bar": _bar,
    "line": _line,
    "form": _form,
    "figure": _figure,
}
