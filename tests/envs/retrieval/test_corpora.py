"""Corpora: rendered documents, and folders of anybody's pages."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from palaestra.envs.retrieval.corpus import Corpus, Page, Question, read_folder
from palaestra.envs.retrieval.documents import FONTS, KINDS, PAPERS, TOPS, document_corpus
from palaestra.envs.retrieval.retrievers import BM25


def test_documents_are_reproducible_and_disjoint() -> None:
    corpus, again = (document_corpus(2, train=6, test=4) for _ in range(2))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(corpus.pages, again.pages, strict=True))
    documents = {
        split: {corpus.pages[corpus.numbers[id]].document for question in of_split for id in question.gold}
        for split, of_split in corpus.splits.items()
    }
    assert len(documents["train"]) == 6 and len(documents["test"]) == 4
    assert not documents["train"] & documents["test"]
    layouts = {
        split: {tuple(corpus.pages[corpus.numbers[q.gold[0]]].pixels.shape) for q in of_split}
        for split, of_split in corpus.splits.items()
    }
    assert not layouts["train"] & layouts["test"] and not set(PAPERS["train"]) & set(PAPERS["test"])
    assert not set(FONTS["train"]) & set(FONTS["test"]) and not set(TOPS["train"]) & set(TOPS["test"])


def test_questions_of_documents() -> None:
    """Every kind occurs, gold pages are found by the teacher's queries, and an answer stands where it should."""
    corpus = document_corpus(1, train=12, test=2)
    questions = corpus.splits["train"]
    assert {question.kind for question in questions} == {"zoom", "single", "multi"}
    assert {question.thought for question in questions if question.kind != "multi"} == set(KINDS)
    retriever = BM25(corpus.texts)
    for question in questions:
        for query, gold in zip(question.queries, question.gold, strict=True):
            assert corpus.pages[retriever.search([query], 1)[0][0].page].id == gold
        for region in question.regions:
            x1, y1, x2, y2 = (int(value) for value in region.box)
            page = corpus.pages[corpus.numbers[region.page]].pixels
            assert 0 <= x1 < x2 <= page.shape[1] and 0 <= y1 < y2 <= page.shape[0]
            assert len(page[y1:y2, x1:x2].flatten(0, 1).unique(dim=0)) > 2, question.text  # something is drawn there
        if question.kind == "multi":
            assert len(question.gold) == len(question.regions) == len(question.queries) == 2
        assert question.answer not in " ".join(corpus.texts).split()
    with pytest.raises(ValueError, match="320 documents"):
        document_corpus(train=300, test=40)


def test_a_folder_is_a_corpus(tmp_path: Path) -> None:
    for name, colour in (("report_1", "red"), ("report_2", "blue")):
        Image.new("RGB", (6, 4), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "report_1.txt").write_text("annual figures")
    row = {"text": "How much?", "answer": "7", "gold": ["report_2"], "split": "train"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n\n")
    corpus = read_folder(tmp_path)
    assert [(page.id, page.text, page.document) for page in corpus.pages] == [
        ("report_1", "annual figures", "report"), ("report_2", "report 2", "report"),
    ]  # fmt: skip
    assert corpus.pages[1].pixels.shape == (4, 6, 3) and corpus.pages[1].pixels[0, 0].tolist() == [0, 0, 255]
    assert corpus.splits["train"] == (Question("1", "How much?", "7", ("report_2",)),)
    (tmp_path / "questions.jsonl").write_text('{"text": "?", "answer": "7"}\n')
    with pytest.raises(ValueError, match=r"line 1 is no question.*'gold'"):
        read_folder(tmp_path)
    (tmp_path / "report_3.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"report_3.png is not an image"):
        read_folder(tmp_path)


def test_wrong_corpora_are_refused(tmp_path: Path) -> None:
    page = Page("a", "", torch.zeros(2, 2, 1, dtype=torch.uint8), "a")
    with pytest.raises(ValueError, match="empty"):
        Corpus((), {})
    with pytest.raises(ValueError, match="'a' occurs twice"):
        Corpus((page, page), {})
    with pytest.raises(ValueError, match="names page 'b'"):
        Corpus((page,), {"test": (Question("q", "?", "1", ("b",)),)})
    with pytest.raises(ValueError, match="would be empty"):
        read_folder(tmp_path)


def test_pdfs_are_pages(tmp_path: Path) -> None:
    """Each page a picture with the PDF's own text; what is no PDF is named."""
    pytest.importorskip("pypdfium2")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with PdfPages(tmp_path / "report.pdf") as pdf:
        for text, colour in (("annual figures", "red"), ("outlook", "blue")):
            figure = Figure(figsize=(2, 3), facecolor=colour)
            figure.text(0.1, 0.5, text, fontsize=12)
            pdf.savefig(figure, facecolor=colour)
    row = {"text": "How much?", "answer": "7", "gold": ["report_2"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row))
    corpus = read_folder(tmp_path)
    assert [(page.id, page.document, page.text.strip()) for page in corpus.pages] == [
        ("report_1", "report", "annual figures"), ("report_2", "report", "outlook"),
    ]  # fmt: skip
    assert corpus.pages[0].pixels.shape == (432, 288, 3)  # 144 dots an inch
    assert corpus.pages[0].pixels[0, 0].tolist() == [255, 0, 0] and corpus.splits["test"][0].gold == ("report_2",)
    (tmp_path / "broken.pdf").write_text("no pdf")
    with pytest.raises(ValueError, match=r"broken.pdf is not a PDF"):
        read_folder(tmp_path)


def test_pages_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a_1.png")
    monkeypatch.setattr("palaestra.envs.retrieval.corpus.MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"a_1.png has 60 x 40 pixels, 1,000 are allowed"):
        read_folder(tmp_path)
