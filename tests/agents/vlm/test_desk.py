"""The rules of the queue, with no threads and a clock that the test winds: random stories, and each rule by hand."""

from concurrent.futures import Future
from dataclasses import fields

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from palaestra.agents.vlm.core import (
    Answer,
    Ask,
    EngineError,
    Generate,
    LateError,
    Message,
    OverloadedError,
    Reply,
    ServerLostError,
    Text,
    digest,
)
from palaestra.agents.vlm.desk import Batch, Desk, Outcomes
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.agents.vlm.metrics import Metrics
from palaestra.agents.vlm.queue import Waiter


def say(text: str) -> Generate:
    return Generate((Message("user", (text,)),))


def waiter_of(text: str, now: float = 0.0, deadline: float | None = None, priority: int = 0, size: int = 1) -> Waiter:
    ask = say(text)
    waiter = Waiter(ask, digest(ask), size, priority, Future(), None)
    waiter.arrive(now, deadline)
    return waiter


def desk_of(max_batch: int = 4, max_queue: int = 8, cache_bytes: int = 0) -> Desk:
    return Desk(EchoEngine(version="v0"), "echo", max_batch, max_queue, 0.5, cache_bytes)


def arrive(desk: Desk, waiter: Waiter, wait: bool = False) -> Waiter:
    assert desk.kept(waiter) is None
    desk.let_in(waiter, wait)
    return waiter


def serve(desk: Desk, now: float = 0.0) -> Outcomes:
    """Start a batch and end it with the engine's own answers."""
    batch, dropped = desk.start(now)
    return dropped + end(desk, batch)


def end(desk: Desk, batch: Batch, error: Exception | None = None, seconds: float = 0.5) -> Outcomes:
    jobs = list(batch.jobs)
    if not jobs:
        return []
    answers: list[Answer | Exception] = [error or Text(f"{text_of(job.ask)} of {batch.version}") for job in jobs]
    return desk.finish(batch, jobs, answers, seconds)


def text_of(ask: Ask) -> str:
    assert isinstance(ask, Generate)
    return str(ask.messages[0].content[0])


def replied(outcomes: Outcomes) -> dict[Waiter, str]:
    return {w: o.answer.text for w, o in outcomes if isinstance(o, Reply) and isinstance(o.answer, Text)}


def balance(desk: Desk) -> tuple[int, int]:
    counts = desk.counts
    ended = counts.answered + counts.refused + counts.late + counts.cancelled + counts.failed
    return counts.submitted, ended + desk.depth + len(desk.lobby) + desk.in_flight


SELDOM = st.sampled_from([False, False, False, False, True])


class Stories(RuleBasedStateMachine):
    """Anything in any order: asks, twins, deadlines, cancellations, swaps, batches that succeed, fail, are given up."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = desk_of(max_batch=3, max_queue=5, cache_bytes=2500)
        self.now = 0.0
        self.open: dict[Waiter, str] = {}
        self.cancelled: set[Waiter] = set()
        self.batch: Batch | None = None
        self.swaps = 0

    def end_with(self, outcomes: Outcomes) -> None:
        """Every outcome is the first for its waiter, and is about its own ask."""
        for waiter, outcome in outcomes:
            text = self.open.pop(waiter)
            waiter.future.set_result(None)  # type: ignore[arg-type]  # raises if there is an outcome already
            if isinstance(outcome, Reply):
                assert isinstance(outcome.answer, Text)
                assert outcome.answer.text == f"{text} of {outcome.version}"
            elif isinstance(outcome, LateError):
                assert waiter.deadline is not None and waiter.deadline <= self.now

    @rule(
        texts=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4),
        deadline=st.none() | st.floats(0, 5),
        priority=st.integers(-10, 10),
        size=st.integers(1, 9),
        wait=st.booleans(),
    )
    def ask(self, texts: str, deadline: float | None, priority: int, size: int, wait: bool) -> None:
        for text in texts:
            self.ask_one(text, deadline, priority, size, wait)

    def ask_one(self, text: str, deadline: float | None, priority: int, size: int, wait: bool) -> None:
        waiter = waiter_of(text, self.now, deadline, priority, size)
        kept = self.desk.kept(waiter)
        if kept is not None:
            assert kept.answer == Text(f"{text} of v{self.swaps}") and kept.kept
            return
        full = self.desk.depth == self.desk.max_queue
        try:
            self.desk.let_in(waiter, wait)
            assert wait or not full
            self.open[waiter] = text
        except OverloadedError as error:
            assert full and not wait and error.retry_after > 0

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.open:
            waiter = data.draw(st.sampled_from(list(self.open)))
            assert waiter.future.cancel() == waiter.waiting
            if data.draw(st.booleans(), label="the desk hears of it at once"):
                self.desk.take_back(waiter)
            if waiter.future.cancelled():
                self.cancelled.add(waiter)
                del self.open[waiter]

    @rule(seconds=st.floats(0, 2))
    def tick(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def drop_late(self) -> None:
        self.end_with(self.desk.drop_late(self.now))
        assert self.desk.next_deadline() > self.now

    @rule()
    def start(self) -> None:
        if self.batch is None and len(self.desk.queue):
            self.batch, dropped = self.desk.start(self.now)
            self.end_with(dropped)
            for job in self.batch.jobs:
                assert not self.cancelled & set(job.waiters)
                # Later ones joined from the lobby: nobody has looked at their deadlines, and they cost nothing.
                assert all(w.deadline is None or w.deadline > self.now for w in job.waiters[: job.begun])
            if not self.batch.jobs:
                self.batch = None

    @rule(cut=st.integers(1, 3), failing=SELDOM)
    def finish(self, cut: int, failing: bool) -> None:
        if self.batch is not None:
            jobs = list(self.batch.jobs)[:cut]
            version = self.batch.version
            results: list[Answer | Exception] = [
                EngineError("no") if failing else Text(f"{text_of(job.ask)} of {version}") for job in jobs
            ]
            self.end_with(self.desk.finish(self.batch, jobs, results, 0.1))
            if not self.batch.jobs:
                self.batch = None

    @rule()
    def serve(self) -> None:
        """A batch from beginning to end."""
        self.start()
        self.finish(3, failing=False)

    @rule(now=SELDOM)
    def give_up(self, now: bool) -> None:
        if now and self.batch is not None:
            self.end_with(self.desk.fail(self.batch, EngineError("hung")))
            self.batch = None

    @rule(now=SELDOM)
    def swap(self, now: bool) -> None:
        self.swaps += now
        self.desk.engine = EchoEngine(version=f"v{self.swaps}")

    @rule(now=SELDOM)
    def empty(self, now: bool) -> None:
        if not now:
            return
        self.end_with(self.desk.empty(ServerLostError("closed")))
        assert not len(self.desk.queue) and not len(self.desk.lobby)

    @invariant()
    def nothing_is_lost(self) -> None:
        submitted, accounted = balance(self.desk)
        assert submitted == accounted
        assert 0 <= self.desk.depth <= self.desk.max_queue
        assert not len(self.desk.lobby) or self.desk.depth == self.desk.max_queue
        assert self.desk.in_flight >= 0 and self.desk._cache.bytes <= 2500

    def teardown(self) -> None:
        """At the end everyone who did not cancel has had one outcome."""
        if self.batch is not None:
            self.end_with(end(self.desk, self.batch))
        while len(self.desk.queue):
            self.end_with(serve(self.desk, self.now))
        assert not self.open and self.desk.depth == self.desk.in_flight == len(self.desk.lobby) == 0
        assert self.desk.counts.cancelled == len(self.cancelled)
        assert not self.desk._twins


Stories.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestStories = Stories.TestCase


def test_twins_share_a_turn() -> None:
    desk = desk_of()
    left, other, right = (arrive(desk, waiter_of(text)) for text in "aba")
    assert len(desk.queue) == 2 and desk.depth == 3
    outcomes = replied(serve(desk))
    assert outcomes == {left: "a of v0", right: "a of v0", other: "b of v0"}
    assert (desk.counts.merged, desk.counts.answered) == (1, 3)


def test_a_twin_may_join_while_the_model_is_at_it_but_not_across_versions() -> None:
    desk = desk_of()
    first = arrive(desk, waiter_of("a"))
    batch, _ = desk.start(0.0)
    joined = arrive(desk, waiter_of("a", 0.2))
    desk.engine = EchoEngine(version="v1")
    after = arrive(desk, waiter_of("a", 0.3))
    assert not joined.future.cancel(), "the model is at it"
    assert replied(end(desk, batch)) == {first: "a of v0", joined: "a of v0"}
    assert replied(serve(desk, 0.4)) == {after: "a of v1"}


def test_a_twin_brings_its_urgency() -> None:
    desk = desk_of(max_batch=1)
    arrive(desk, waiter_of("a", 0.0))
    twin = arrive(desk, waiter_of("b", 0.1))
    urgent = arrive(desk, waiter_of("b", 0.2, priority=5))
    assert set(replied(serve(desk))) == {twin, urgent}


def test_each_twin_has_its_own_deadline_and_its_own_way_out() -> None:
    """A turn is given up only when all who share it have gone."""
    desk = desk_of()
    hurried, patient, fickle = (arrive(desk, waiter_of("a", 0.0, deadline)) for deadline in (1.0, 3.0, None))
    fickle.future.cancel()
    ((late, error),) = desk.drop_late(1.5)
    assert late is hurried and isinstance(error, LateError) and "after 1.500 s" in str(error)
    assert desk.next_deadline() == 3.0
    assert replied(serve(desk, 2.0)) == {patient: "a of v0"}
    assert (desk.counts.late, desk.counts.cancelled, desk.counts.answered) == (1, 1, 1)


def test_a_late_ask_never_reaches_the_model() -> None:
    desk = desk_of()
    arrive(desk, waiter_of("a", 0.0, deadline=1.0))
    batch, ((_, error),) = desk.start(1.0)
    assert isinstance(error, LateError) and not batch.jobs and not len(desk.queue)


def test_room_goes_to_the_most_urgent_in_the_lobby() -> None:
    desk = desk_of(max_batch=1, max_queue=1)
    arrive(desk, waiter_of("a"))
    arrive(desk, waiter_of("b", 0.1), wait=True)
    urgent = arrive(desk, waiter_of("c", 0.2, priority=3), wait=True)
    with pytest.raises(OverloadedError, match="1 asks wait, and max_queue is 1"):
        desk.let_in(waiter_of("d"), wait=False)
    serve(desk)
    assert set(replied(serve(desk))) == {urgent}


def test_cancelling_makes_room() -> None:
    desk = desk_of(max_queue=1)
    first = arrive(desk, waiter_of("a"))
    second = arrive(desk, waiter_of("b"), wait=True)
    first.future.cancel()
    desk.take_back(first)
    assert desk.depth == 1 and not len(desk.lobby)
    assert replied(serve(desk)) == {second: "b of v0"}


def test_a_cancelled_ask_from_the_lobby_joins_nobody() -> None:
    """Its caller has cancelled but not yet said so, when room is made and its twin is with the model."""
    desk = desk_of(max_batch=1, max_queue=1)
    first = arrive(desk, waiter_of("a"))
    cancelled = arrive(desk, waiter_of("a", 0.1), wait=True)
    cancelled.future.cancel()
    batch, _ = desk.start(0.2)
    desk.take_back(cancelled)
    assert replied(end(desk, batch)) == {first: "a of v0"} and desk.counts.cancelled == 1
    assert desk.depth == len(desk.lobby) == 0


def test_merged_asks_count_against_the_bound() -> None:
    """Else a flood of equal asks would fill the memory with futures."""
    desk = desk_of(max_queue=3)
    for _ in range(3):
        arrive(desk, waiter_of("a"))
    with pytest.raises(OverloadedError):
        desk.let_in(waiter_of("a"), wait=False)


def test_retry_after_is_the_time_that_the_queue_takes() -> None:
    desk = desk_of(max_batch=1, max_queue=2)
    for _ in range(100):
        batch, _ = desk.start(0.0)
        arrive(desk, waiter_of("a"))
        batch, _ = desk.start(0.0)
        end(desk, batch, seconds=2.0)
    arrive(desk, waiter_of("a"))
    arrive(desk, waiter_of("b"))
    with pytest.raises(OverloadedError) as refusal:
        desk.let_in(waiter_of("c"), wait=False)
    assert refusal.value.retry_after == pytest.approx(4.0, rel=1e-3)


def test_when_a_batch_is_due() -> None:
    desk = desk_of(max_batch=2)
    assert desk.due(0.0, 0.0) is None
    arrive(desk, waiter_of("a", 1.0))
    assert desk.due(1.2, 0.0) == 0
    assert desk.due(1.2, 0.5) == pytest.approx(0.3)
    arrive(desk, waiter_of("b", 1.1))
    assert desk.due(1.2, 0.5) == 0, "full"


def test_kept_answers_are_of_the_present_version() -> None:
    desk = desk_of(cache_bytes=10_000)
    arrive(desk, waiter_of("a"))
    serve(desk)
    again = desk.kept(waiter_of("a"))
    assert again is not None and again.answer == Text("a of v0") and again.kept and again.queue_seconds == 0
    desk.engine = EchoEngine(version="v1")
    assert desk.kept(waiter_of("a")) is None
    assert (desk.counts.kept, desk.counts.answered, desk.counts.submitted) == (1, 2, 3)


def test_errors_are_not_kept() -> None:
    desk = desk_of(cache_bytes=10_000)
    arrive(desk, waiter_of("a"))
    batch, _ = desk.start(0.0)
    end(desk, batch, EngineError("no"))
    assert desk.kept(waiter_of("a")) is None and desk.counts.failed == 1


def test_seconds_are_counted_apart() -> None:
    desk = desk_of(max_batch=4)
    arrive(desk, waiter_of("a", 1.0))
    arrive(desk, waiter_of("b", 2.0, size=2))
    batch, _ = desk.start(4.0)
    replies = {w: o for w, o in end(desk, batch) if isinstance(o, Reply)}
    assert sorted((reply.queue_seconds, reply.model_seconds, reply.batch) for reply in replies.values()) == [
        (2.0, 0.5, 2),
        (3.0, 0.5, 2),
    ]
    counts = desk.counts
    assert (counts.queue_seconds.sum, counts.queue_seconds.count) == (5.0, 2)
    assert (counts.model_seconds.sum, counts.fill.sum, counts.padding.sum) == (0.5, 0.5, 0.25)


def test_a_snapshot_does_not_change() -> None:
    counts = Metrics()
    before = counts.snapshot(1, 2, 3)
    counts.submitted += 1
    counts.fill.observe(0.5)
    assert (before.submitted, before.depth, before.waiting, before.in_flight) == (0, 1, 2, 3)
    for name in (field.name for field in fields(Metrics)):
        value = getattr(before, name)
        assert isinstance(value, int) or value.count == 0
    assert counts.fill.counts[counts.fill.bounds.index(0.5)] == 1 and counts.fill.mean == 0.5
