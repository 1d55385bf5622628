"""Rubrics by hand."""

import math

import pytest

from palaestra.envs.retrieval.core import Record
from palaestra.rewards.rubric import Item, Rubric, saturate


def record() -> Record:
    return Record(None, answer="x", outcome="answered")


def test_weights_veto_and_saturation() -> None:
    """(2 · 0.5 + 1 · 1) / 3; the veto is on a criterion of no weight."""
    items = [
        Item("a", lambda _: 0.5, 2.0),
        Item("b", lambda _: 1.0),
        Item("c", lambda r: float(r.answer == "x"), 0.0, veto=1.0),
    ]
    graded = Rubric(items)(record())
    assert graded is not None and graded.total == pytest.approx(2 / 3) and graded.vetoed == ()
    other = record()
    other.answer = "y"
    vetoed = Rubric(items)(other)
    assert vetoed is not None and vetoed.total == 0 and vetoed.vetoed == ("c",) and vetoed.scores["a"] == 0.5


def test_saturation() -> None:
    assert [saturate(score, 3.0) for score in (0.0, 1.0)] == [0, 1]
    assert saturate(0.5, 2.0) == pytest.approx((1 - math.exp(-1)) / (1 - math.exp(-2)))
    assert saturate(0.25, 0) == 0.25
    assert saturate(0.5, 3.0) - saturate(0.4, 3.0) > saturate(1.0, 3.0) - saturate(0.9, 3.0)


def test_a_criterion_that_breaks_is_no_zero() -> None:
    def broken(_: Record) -> float:
        raise ConnectionError("down")

    for criterion in (broken, lambda _: 1.5, lambda _: float("nan")):
        one = record()
        assert Rubric([Item("judge", criterion)])(one) is None
        assert one.outcome == "judge" and one.error.startswith("judge:")
    void = record()
    void.outcome = "environment"
    assert Rubric([Item("a", lambda _: 1.0)])(void) is None


def test_wrong_rubrics_are_refused() -> None:
    for items in ([], [Item("a", lambda _: 1.0, 0.0)], [Item("a", lambda _: 1.0), Item("a", lambda _: 1.0)]):
        with pytest.raises(ValueError, match="different names and some weight"):
            Rubric(items)
    with pytest.raises(ValueError, match="at least 0"):
        Item("a", lambda _: 1.0, -1.0)
