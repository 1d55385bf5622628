"""Queries: who is asked about, and never more than allowed."""

from __future__ import annotations

import pytest
import torch

from palaestra.agents.found_rl.config import QueryConfig
from palaestra.agents.found_rl.queries import TOGETHER, Query


def test_every_kth_view_of_each_world() -> None:
    query = Query(QueryConfig(every=3), 6)
    asked = torch.zeros(6)
    for decision in range(30):
        rows = query.choose(decision, None, 0)
        assert len(rows) == 2  # spread over the worlds, so that the server's load is even
        asked[rows] += 1
    assert asked.tolist() == [10] * 6


def test_a_random_share() -> None:
    query = Query(QueryConfig(kind="random", share=0.3), 100)
    count = sum(len(query.choose(decision, None, 0)) for decision in range(100))
    assert 0.27 < count / 10_000 < 0.33


def test_only_those_in_danger() -> None:
    danger = torch.tensor([False, True, False, True])
    assert Query(QueryConfig(kind="unsafe"), 4, lambda: danger).choose(0, None, 0).tolist() == [1, 3]
    with pytest.raises(ValueError, match="tells danger"):
        Query(QueryConfig(kind="unsafe"), 4)


def test_where_the_critics_disagree_most() -> None:
    query = Query(QueryConfig(kind="disagreement", share=0.5), 4)
    assert query.choose(0, torch.tensor([0.1, 3.0, 0.2, 2.0]), 0).tolist() == [1, 3]


def test_no_more_than_may_be_outstanding() -> None:
    query = Query(QueryConfig(outstanding=10), 8)
    assert [len(query.choose(0, None, waiting)) for waiting in (0, 5, 10, 99)] == [8, 5, 0, 0]


def test_no_more_than_so_many_a_second() -> None:
    now = [0.0]
    query = Query(QueryConfig(most_a_second=20), 8, clock=lambda: now[0])
    asked = 0
    for decision in range(1000):
        now[0] += 0.01
        asked += len(query.choose(decision, None, 0))
    assert 200 - TOGETHER <= asked <= 201
    now[0] += 100  # a long pause saves up one second's worth, no more
    assert sum(len(query.choose(decision, None, 0)) for decision in range(10)) <= 20


def test_what_is_allowed_a_second_is_asked_together() -> None:
    now = [0.0]
    query = Query(QueryConfig(most_a_second=50), 64, clock=lambda: now[0])
    sizes = []
    for decision in range(1000):
        now[0] += 0.01
        sizes.append(len(query.choose(decision, None, 0)))
    assert sum(sizes) > 480 and set(sizes) == {0, TOGETHER}
    slow = Query(QueryConfig(most_a_second=2), 64, clock=lambda: now[0])  # less than that is ever saved up
    now[0] += 1
    assert len(slow.choose(0, None, 0)) == 2


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"share": 0.0}, {"share": 1.5}, {"most_a_second": -1.0}, {"outstanding": 0}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QueryConfig(**wrong)  # type: ignore[arg-type]
