"""VRAG's world, its actions and what it shows."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from palaestra.envs.retrieval.actions import Act, parse
from palaestra.envs.retrieval.corpus import Corpus, Page, Question
from palaestra.envs.retrieval.expert import ExpertConfig, plan
from palaestra.envs.retrieval.retrievers import BM25, Hit
from palaestra.envs.retrieval.tiny import cell_box, tiny_corpus
from palaestra.envs.retrieval.views import TINY, Budget, View, cut, render, to_raw, to_shown, whole
from palaestra.envs.retrieval.world import PageWorldConfig, PageWorlds


class Ranked:
    """A retriever that finds all pages in order, whatever is asked, and counts its calls."""

    def __init__(self, size: int) -> None:
        self.size, self.calls = size, 0

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        self.calls += 1
        return [[Hit(page, 1.0) for page in range(min(k, self.size))] for _ in queries]


class Down:
    """A retriever whose server is down."""

    size = 12

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        raise ConnectionError("connection refused")


def twelve(size: int = 96) -> Corpus:
    pages = [Page(f"d_{n}", f"word{n}", torch.full((size, size, 1), n * 10, dtype=torch.uint8), "d") for n in range(12)]
    return Corpus(tuple(pages), {"test": (Question("q", "what?", "7", ("d_1",)),)})


def started(corpus: Corpus, count: int = 1, **rules: float) -> PageWorlds:
    worlds = PageWorlds(corpus, Ranked(12), PageWorldConfig(**{"noise": 0.0, "turns": 50, **rules}))  # type: ignore[arg-type]
    worlds.reset([corpus.splits["test"][0]] * count)
    return worlds


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("<think> a </think><search> cats </search>", "search"),
        ("<search>a</search><answer>b</answer>", "search"),  # the first of two wins
        ("<bbox>[1, 2, 3, 4]</bbox>", "bbox"),
        ("<bbox> 1 2 3 4</bbox>", "bbox"),
        ("<answer> Beijing </answer>", "answer"),
        ("<think><search>not yet</search></think><answer>x</answer>", "answer"),  # thoughts are not actions
        ("<search>open <answer>x</answer>", "answer"),  # an unclosed tag is none
        ("<search>a <search>b</search> c</search>", "search"),  # of nested ones the inner
        ("<think><search>a</search>", "search"),
        ("<search>a <bbox>[1, 2, 3, 4]</bbox></search>", "bbox"),
    ],
)
def test_actions_are_read(said: str, kind: str) -> None:
    act = parse(said)
    assert isinstance(act, Act) and act.kind == kind


@pytest.mark.parametrize(
    "said",
    [
        "", "no tag", "</search>a<search>", "<SEARCH>a</SEARCH>", "<search>unclosed", "<search>a</answer>",
        "<search>  </search>", "<answer></answer>",
        "<bbox>[1, 2, 3]</bbox>", "<bbox>[1, 2, 3, -4]</bbox>", "<bbox>[a, b, c, d]</bbox>",
        "<bbox>[5, 5, 5, 9]</bbox>",
        "<bbox>[9, 9, 1, 1]</bbox>", "<bbox>[1, 2, 3, nan]</bbox>", "<bbox>[1, 2, 3, inf]</bbox>",
        f"<search>{'a' * 100_000}</search>", f"<bbox>[{'1,' * 100_000}1]</bbox>",
    ],
)  # fmt: skip
def test_what_is_no_action(said: str) -> None:
    assert isinstance(parse(said), str)


def test_box_round_trip() -> None:
    """A raw rectangle, mapped to shown pixels and back, is itself; eq. 2 of the paper by hand."""
    page = torch.zeros(400, 200, 1, dtype=torch.uint8)
    view = whole("p", page, Budget(least=1, most=20_000))
    assert view.size == (200, 100)  # 80,000 pixels to 20,000: halved
    assert to_raw((10, 20, 30, 40), view) == (20, 40, 60, 80)
    assert to_shown(to_raw((10, 20, 30, 40), view), view) == (10, 20, 30, 40)


def test_cut_of_a_cut_composes() -> None:
    """What a second box shows is what one box in raw pixels would: the released trainer maps it elsewhere."""
    generator = torch.Generator().manual_seed(0)
    page = torch.randint(0, 256, (96, 96, 1), dtype=torch.uint8, generator=generator)
    first = cut(whole("p", page, TINY), (0, 0, 12, 12), TINY)  # raw 0 to 48
    assert first is not None and first.box == (0, 0, 48, 48)
    second = cut(first, (12, 0, 24, 12), TINY)
    assert second is not None and second.box == (24, 0, 48, 24)
    assert torch.equal(render(second, page), page[0:24, 24:48])


def test_small_cuts_are_scaled_up_and_clamped() -> None:
    view = View("p", (0, 0, 96, 96), (24, 24))
    assert cut(view, (20, 20, 90, 90), TINY) == View("p", (80, 80, 96, 96), (24, 24))
    assert cut(view, (30, 30, 40, 40), TINY) is None
    assert cut(view, (3, 3, 3.1, 3.1), TINY) is None  # less than a raw pixel
    assert Budget().size(28, 28) == (448, 448)  # VRAG scales up to 256 tokens' worth
    assert Budget().size(2800, 2800) == (633, 633)


def test_queries_page_down_and_then_are_invalid() -> None:
    """(d) of the checks: a repeated query shows the next page; the eleventh finds nothing new."""
    worlds = started(twelve())
    for number in range(10):
        (reply,) = worlds.step([0], ["<search>a</search>"])
        assert reply.turn is not None and not reply.turn.invalid
        assert int(reply.turn.images[0][0, 0, 0]) == number * 10
    (reply,) = worlds.step([0], ["<search>a</search>"])
    assert reply.turn is not None and reply.turn.invalid and reply.outcome is None
    assert worlds.records[0].shown == [f"d_{n}" for n in range(10)]
    assert worlds.records[0].invalid == 1


def test_a_box_before_any_page_is_invalid() -> None:
    worlds = started(twelve())
    (reply,) = worlds.step([0], ["<bbox>[0, 0, 8, 8]</bbox>"])
    assert reply.turn is not None and reply.turn.invalid


def test_turn_limit() -> None:
    """After the limit one more action is heard, and only an answer counts."""
    worlds = started(twelve(), count=2, turns=2)
    for _ in range(2):
        worlds.step([0, 1], ["<search>a</search>", "nonsense"])
    first, second = worlds.step([0, 1], ["<search>a</search>", "<answer>7</answer>"])
    assert (first.outcome, second.outcome) == ("turns", "answered")
    assert len(worlds.records[0].shown) == 2 and worlds.records[1].answer == "7"
    with pytest.raises(ValueError, match="episode is over"):
        worlds.step([0], ["<answer>7</answer>"])


def test_a_step_is_one_search_and_rows_do_not_meet() -> None:
    corpus = twelve()
    retriever = Ranked(12)
    worlds = PageWorlds(corpus, retriever, PageWorldConfig(noise=0.0))
    worlds.reset([corpus.splits["test"][0]] * 3)
    worlds.step([0, 1, 2], ["<search>a</search>"] * 3)
    worlds.step([0, 2], ["<search>a</search>", "<bbox>[0, 0, 8, 8]</bbox>"])
    assert retriever.calls == 2
    assert [len(record.shown) for record in worlds.records] == [2, 1, 1]


def test_a_huge_query_is_refused_and_the_episode_goes_on() -> None:
    """100 kB: an invalid action, told so, and never sent to the retriever."""
    worlds = started(twelve())
    (reply,) = worlds.step([0], [f"<search>{'cat ' * 25_000}</search>"])
    assert reply.turn is not None and reply.turn.invalid and reply.outcome is None
    (reply,) = worlds.step([0], ["<search>cat</search>"])
    assert reply.turn is not None and reply.turn.images and worlds.records[0].invalid == 1


def test_a_broken_retriever_voids_the_episode_alone() -> None:
    corpus = twelve()
    worlds = PageWorlds(corpus, Down())
    worlds.reset([corpus.splits["test"][0]] * 2)
    first, second = worlds.step([0, 1], ["<search>a</search>", "<answer>7</answer>"])
    assert first.outcome == "environment" and "connection refused" in first.error
    assert second.outcome == "answered"


def test_without_crop_boxes_are_invalid() -> None:
    worlds = started(twelve(), crop=False)
    _, (reply,) = (worlds.step([0], [said]) for said in ("<search>a</search>", "<bbox>[0, 0, 8, 8]</bbox>"))
    assert reply.turn is not None and reply.turn.invalid and worlds.records[0].crops == 0


def test_equal_states_have_equal_anchors() -> None:
    worlds = started(twelve(), count=3)
    replies = worlds.step([0, 1, 2], ["<search>a</search>", "<search>b</search>", "nothing"])
    anchors = [reply.turn.anchor for reply in replies if reply.turn]
    assert anchors[0] == anchors[1] != anchors[2]


def test_wrong_retriever_is_refused() -> None:
    with pytest.raises(ValueError, match=r"knows 3 pages, the corpus has 12"):
        PageWorlds(twelve(), Ranked(3))


def test_tiny_corpus_is_disjoint_and_reproducible() -> None:
    corpus, again = (tiny_corpus(3, sft=20, rl=20, test=20) for _ in range(2))
    assert all(
        torch.equal(a.pixels, b.pixels) and a.text == b.text for a, b in zip(corpus.pages, again.pages, strict=True)
    )
    golds = [{question.gold[0] for question in of_split} for of_split in corpus.splits.values()]
    assert all(len(gold) == 20 for gold in golds) and len(set.union(*golds)) == 60
    assert len(set(corpus.texts)) == 60
    with pytest.raises(ValueError, match="780"):
        tiny_corpus(sft=700, rl=70, test=70)


def test_digits_are_seen_in_a_cut_alone() -> None:
    """Zoom is no decoration: two pages that differ in one number look almost alike whole, and not when cut out."""
    corpus = tiny_corpus(0, sft=5, rl=5, test=5)
    question = corpus.splits["test"][0]
    page = corpus.pages[corpus.numbers[question.gold[0]]]
    view = whole(page.id, page.pixels, TINY)
    box = to_shown(question.regions[0].box, view)
    close = cut(view, box, TINY)
    assert close is not None and close.box == question.regions[0].box
    assert question.regions[0].box in [cell_box(place) for place in range(9)]
    x1, y1, x2, y2 = (int(part) for part in box)
    assert (x2 - x1, y2 - y1) == (8, 8)  # 64 pixels of a cell whole, 576 of it cut out
    assert render(close, page.pixels).shape == (24, 24, 1)


def test_the_teacher_is_always_right() -> None:
    """(j): the oracle scores 1; it often searches twice and often does not look closely."""
    corpus = tiny_corpus(0, sft=20, rl=5, test=5)
    pages = {page.id: page for page in corpus.pages}
    worlds, generator = PageWorlds(corpus, BM25(corpus.texts)), np.random.default_rng(0)
    questions = corpus.splits["sft"]
    plans = [plan(question, pages, TINY, ExpertConfig(), generator) for question in questions]
    worlds.reset(questions)
    for turn in range(5):
        rows = [row for row, said in enumerate(plans) if turn < len(said)]
        if rows:
            worlds.step(rows, [plans[row][turn] for row in rows])
    assert all(record.answer == record.task.answer for record in worlds.records)
    assert all(record.task.gold[0] in record.shown and not record.invalid for record in worlds.records)
    assert 0.3 < np.mean([record.crops for record in worlds.records]) < 0.6
    assert 0.45 < np.mean([len(record.shown) == 2 for record in worlds.records]) < 0.75
