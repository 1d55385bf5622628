"""Rendered questions: disjoint splits, nothing to guess, and pictures that show what is asked about."""

from collections import Counter, defaultdict
from math import sqrt

import numpy as np
import pytest
import torch

from palaestra.agents.vlm.questions import (
    ANSWERS,
    COLOURS,
    FAMILIES,
    NAMES,
    PLACES,
    SHAPES,
    SIDES,
    Family,
    Question,
    Questions,
    Split,
    Thing,
    blind_rate,
    render,
    shuffled,
)

SPLITS: tuple[Split, Split] = ("train", "held-out")


def test_a_question_depends_on_seed_split_and_index_alone() -> None:
    whole = Questions(50, "train", seed=3)
    for index in (0, 17, -1):
        again = Questions(1000, "train", seed=3)[index % 50]
        assert torch.equal(whole[index].picture.pixels, again.picture.pixels)
        assert (whole[index].question, whole[index].answer) == (again.question, again.answer)
    assert [one.question for one in whole[10:13]] == [whole[i].question for i in (10, 11, 12)]
    others = (Questions(50, "train", seed=4), Questions(50, "held-out", seed=3))
    for other in others:
        assert any(a.things != b.things for a, b in zip(whole, other, strict=True))
    with pytest.raises(IndexError, match="question 50 of 50"):
        whole[50]
    with pytest.raises(ValueError, match="describe, colour, shape, place, count, side"):
        Questions(5, "train", families=["size"])  # type: ignore[list-item]


def test_splits_share_no_combination() -> None:
    """No training picture shows a held-out combination; every held-out question is about one."""
    shown = {thing for question in Questions(1000, "train") for thing in question.things}
    asked = {question.things[0] for question in Questions(1000, "held-out")}
    assert not shown & asked
    assert len(asked) == len(SHAPES) * len(NAMES), "one place of each shape and colour is held out"
    assert len(shown) == len(SHAPES) * len(NAMES) * 3


def guess(seen: Counter[str], family: Family) -> str:
    """Return what a model without eyes says: the likeliest answer that it has seen to a question, if any."""
    return seen.most_common(1)[0][0] if seen else ANSWERS.get(family, ("",))[0]


@pytest.mark.parametrize("split", SPLITS)
def test_a_blind_model_cannot_exceed_its_rate(split: Split) -> None:
    """The likeliest answer to each question in one half is right in `blind_rate` of the other, give or take 4 σ."""
    questions = Questions(1600, split, seed=1)[:]
    half = len(questions) // 2
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions[:half]:
        counts[question.question][question.answer] += 1
    for family in FAMILIES:
        tried = [guess(counts[q.question], family) == q.answer for q in questions[half:] if q.family == family]
        rate = blind_rate(family)
        assert len(tried) >= half // len(FAMILIES)
        margin = 4 * sqrt(rate * (1 - rate) / len(tried))
        assert rate - margin < np.mean(tried) < rate + margin, family


def test_the_picture_is_needed_and_is_enough() -> None:
    """A reader of the objects in the picture answers every question rightly."""
    for split in SPLITS:
        for question in Questions(200, split, seed=2):
            assert question.answer in ANSWERS.get(question.family, (question.answer,))
            assert answer_of(question) == question.answer


def answer_of(question: Question) -> str:
    """Answer from the list of things and the words of the question."""
    words = question.question.rstrip("?").split()
    things = question.things
    if question.family == "describe":
        seen = {thing.place: f"{NAMES[thing.colour]} {SHAPES[thing.shape]}" for thing in things}
        return ", ".join(seen.get(place, "nothing") for place in (0, 1, 2, 3))
    if question.family in ("colour", "shape"):
        (found,) = [thing for thing in things if PLACES[thing.place] == " ".join(words[-2:])]
        return NAMES[found.colour] if question.family == "colour" else SHAPES[found.shape]
    if question.family == "place":
        (found,) = [thing for thing in things if NAMES[thing.colour] == words[3]]
        return PLACES[found.place]
    if question.family == "count":
        return str(sum(words[2] == NAMES[thing.colour] for thing in things))
    (first,) = [thing for thing in things if NAMES[thing.colour] == words[2]]
    (other,) = [thing for thing in things if NAMES[thing.colour] == words[9]]
    assert first.place % 2 != other.place % 2
    return "left" if first.place % 2 < other.place % 2 else "right"


def test_pictures_show_their_things() -> None:
    """An object's colour is in its place alone, and fills its shape's share of it."""
    generator = np.random.default_rng(0)
    shares: dict[int, list[float]] = defaultdict(list)
    for _ in range(100):
        thing = Thing(*(int(generator.integers(n)) for n in (4, 8, 4)))
        pixels = render([thing], generator).pixels.float()
        height, width, _ = pixels.shape
        assert max(height, width) in SIDES
        quarters = pixels[: height // 2 * 2, : width // 2 * 2].unflatten(0, (2, -1)).unflatten(2, (2, -1))
        near = (quarters - torch.tensor(COLOURS[NAMES[thing.colour]])).abs().amax(-1) <= 15
        row, column = divmod(thing.place, 2)
        inside = near[row, :, column].float().mean().item()
        assert near.float().mean().item() * 4 == pytest.approx(inside), "it stays in its place"
        shares[thing.shape].append(inside)
    # Areas over the square of side 2 around a shape of radius 1, times the mean square of a radius in [0.75, 0.9].
    areas = {"circle": np.pi, "square": 1.7**2, "triangle": 1.9**2 / 2, "cross": 2 * 2 * 0.6 - 0.6**2}
    for shape, area in areas.items():
        assert np.mean(shares[SHAPES.index(shape)]) == pytest.approx(area / 4 * 0.6825, rel=0.12), shape


def test_shuffled_pictures_answer_nothing() -> None:
    """The control keeps every question and every picture, and gives no question its own."""
    questions = Questions(40, "held-out")[:]
    control = shuffled(questions, seed=0)
    assert [q.question for q in control] == [q.question for q in questions]
    assert [q.answer for q in control] == [q.answer for q in questions]
    before, after = ([id(q.picture) for q in some] for some in (questions, control))
    assert sorted(before) == sorted(after)
    assert not any(a == b for a, b in zip(before, after, strict=True))
