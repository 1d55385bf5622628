"""Who is next: urgency, ageing, and batches of like size."""

from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.vlm.core import Embed
from palaestra.agents.vlm.queue import AGE, PRIORITIES, Job, Line, Waiter, padding, pick


def job(arrived: float, priority: int = 0, size: int = 1) -> Job:
    waiter = Waiter(Embed("a"), None, size, priority, Future(), None)
    waiter.arrive(arrived, None)
    return Job(waiter)


def line_of(jobs: list[Job]) -> Line[Job]:
    line: Line[Job] = Line()
    for item in jobs:
        line.add(item)
    return line


JOBS = st.lists(
    st.tuples(st.floats(0, 3), st.sampled_from([-10, -1, 0, 0, 0, 1, 10]), st.integers(1, 300)), min_size=1, max_size=60
).map(lambda rows: [job(*row) for row in sorted(rows)])


def test_an_urgent_ask_overtakes_what_came_less_than_its_priority_earlier() -> None:
    """With one second a level, priority 2 at t = 10 ranks as t = 8: behind what came at 7.9, before what did at 8.1."""
    early, late, urgent = job(7.9), job(8.1), job(10.0, priority=2)
    assert line_of([early, late, urgent]).first(3) == [early, urgent, late]


@given(JOBS)
def test_the_line_is_sorted_by_rank(jobs: list[Job]) -> None:
    line = line_of(jobs)
    assert [item.rank for item in line] == sorted(item.rank for item in jobs)
    line.remove(jobs[0])
    assert len(line) == len(jobs) - 1 and jobs[0] not in list(line)


@settings(max_examples=200, deadline=None)
@given(JOBS, st.integers(1, 8), st.floats(0, 1))
def test_laws_of_a_batch(jobs: list[Job], most: int, max_padding: float) -> None:
    """The most urgent is in it; it is no larger than allowed, pads no more than allowed, and holds nobody twice."""
    line = line_of(jobs)
    batch = pick(line, most, max_padding)
    assert line.first(1)[0] in batch and len(set(batch)) == len(batch) <= most and set(batch) <= set(jobs)
    assert padding([item.size for item in batch]) <= max_padding + 1e-9
    if max_padding == 1:
        assert len(batch) == min(most, len(jobs))
    assert len(line) == len(jobs)


@settings(max_examples=100, deadline=None)
@given(JOBS, st.integers(1, 8), st.floats(0, 1))
def test_nobody_waits_for_more_batches_than_are_ahead(jobs: list[Job], most: int, max_padding: float) -> None:
    """The n-th most urgent is served by the n-th batch, whatever its size."""
    line = line_of(jobs)
    order, turn = line.first(len(jobs)), 0
    while len(line):
        for item in pick(line, most, max_padding):
            line.remove(item)
        turn += 1
        assert all(item not in list(line) for item in order[:turn])


def test_ageing_lets_nobody_starve() -> None:
    """Under a flood of the most urgent, twice what can be served, the least urgent ask has its turn in the end."""
    low = job(0.0, priority=PRIORITIES[0])
    line, served, now = line_of([low]), [], 0.0
    while low not in served:
        line.add(job(now, priority=PRIORITIES[-1]))
        line.add(job(now, priority=PRIORITIES[-1]))  # two come for every one that is served
        served = pick(line, 1, 0.5)
        line.remove(served[0])
        now += 0.05
        assert now < 100
    wait = AGE * (PRIORITIES[-1] - PRIORITIES[0])
    assert wait <= now <= 2 * wait + 0.2  # all who came in the first `wait` seconds are ahead: twice what is served


def test_companions_are_of_like_size() -> None:
    """Of 4 long and 4 short asks in turn, batches of 4 hold the long or the short ones, not both."""
    jobs = [job(float(i), size=100 if i % 2 else 10) for i in range(8)]
    assert pick(line_of(jobs), 4, 1.0) == jobs[::2]


def test_the_nearest_in_size_keep_the_lead_company() -> None:
    sizes = [50, 10, 49, 90, 52, 51, 20]
    jobs = [job(float(i), size=size) for i, size in enumerate(sizes)]
    assert sorted(item.size for item in pick(line_of(jobs), 4, 1.0)) == [49, 50, 51, 52]


@pytest.mark.parametrize(("max_padding", "count"), [(1.0, 3), (0.6, 3), (0.59, 2), (0.45, 2), (0.44, 1)])
def test_padding_is_bounded_even_if_the_batch_stays_small(max_padding: float, count: int) -> None:
    """100 + 10: 110 of 200 used, 45 % padding. With another 10: 120 of 300 used, 60 %."""
    jobs = [job(0.0, size=100), job(1.0, size=10), job(2.0, size=10)]
    assert len(pick(line_of(jobs), 32, max_padding)) == count
