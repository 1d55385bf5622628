"""Turns single asks from anywhere into batches for one engine: threads, event loops and training loops on one queue.

A batch starts as soon as the engine is free: with `max_wait` = 0 the batch before is the clock, which gave the least
latency at every load we tried. One thread, the runner, runs the engine; another, the keeper, minds deadlines and hangs
and, under load, hands out replies while the engine is at the next batch.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Literal

from palaestra.agents.vlm.core import Answer, Ask, AskError, Engine, EngineError, Reply, ServerLostError, digest
from palaestra.agents.vlm.desk import Batch, Desk, Outcomes
from palaestra.agents.vlm.metrics import Metrics
from palaestra.agents.vlm.outcomes import KINDS, call, settle
from palaestra.agents.vlm.queue import PRIORITIES, Job, Promise, Waiter

TICK = 0.002
"""Seconds that a late ask may wait to hear so, lest the keeper be busy with nothing else."""
MOST_STUCK = 8
"""After so many hangs in calls that never came back the engine is given up."""


Answered = tuple[Batch, list[Job], list[Answer | Exception], float]
"""A part of a batch, what the engine returned, and in how many seconds."""


class _Future(Future[Reply]):
    """A future that takes its ask back when cancelled, so that the ask holds no room in the queue."""

    def __init__(self, batcher: Batcher) -> None:
        super().__init__()
        self.batcher = batcher
        self.waiter: Waiter | None = None

    def cancel(self) -> bool:
        """Cancel the ask unless the model is at it, and return whether it is cancelled."""
        cancelled = super().cancel()
        if cancelled and self.waiter is not None:
            self.batcher._take_back(self.waiter)
        return cancelled


class Batcher:
    """One model: one engine, one queue, one thread that runs the engine. Any thread may call any method."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int = 32,
        max_wait: float = 0.0,
        max_queue: int = 1024,
        max_padding: float = 0.5,
        cache_bytes: int = 0,
        hang_seconds: float | None = None,
        name: str = "model",
    ) -> None:
        """Start serving.

        Args:
            engine: What answers.
            max_batch: The most asks that it answers at once.
            max_wait: Seconds that an ask may wait for companions while the engine is idle.
            max_queue: The most asks that wait for the engine; further ones are refused, or wait for room.
            max_padding: The largest share of a batch's room (see `Engine.size`) that may be padding, in [0, 1].
            cache_bytes: About how much memory kept answers may take; 0 keeps none.
            hang_seconds: After so long a call of the engine counts as hung and its asks fail; None waits for ever.
            name: Of the model, for messages.
        """
        for option, value, least in (
            ("max_batch", max_batch, 1),
            ("max_wait", max_wait, 0),
            ("max_queue", max_queue, 1),
            ("cache_bytes", cache_bytes, 0),
        ):
            if not value >= least:
                raise ValueError(f"{option} is {value}; it must be at least {least}.")
        if not 0 <= max_padding <= 1:
            raise ValueError(f"max_padding is {max_padding}; it is a share, in [0, 1].")
        if hang_seconds is not None and not hang_seconds > 0:
            raise ValueError(f"hang_seconds is {hang_seconds}; it must be above 0, or None for no limit.")
        self.max_wait, self.hang_seconds, self.name = max_wait, hang_seconds, name
        self._desk = Desk(engine, name, max_batch, max_queue, max_padding, cache_bytes)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # wakes the runner
        self._watch = threading.Condition(self._lock)  # wakes the keeper
        self._rest = threading.Condition(self._lock)  # wakes who waits for the end of the work
        self._loading = threading.Lock()
        self._running: Batch | None = None
        self._refusing = self._closed = False
        self._stuck: list[threading.Thread] = []
        self._alarm = math.inf
        self._answered: list[Answered] = []  # for the keeper to hand out
        self._handing_out = False
        self._keeper: threading.Thread | None = None
        with self._lock:
            self._runner = self._start(self._run)
            if hang_seconds is not None:
                self._set_alarm(monotonic() + hang_seconds)

    @property
    def version(self) -> str:
        """The version of the present weights."""
        return self._desk.engine.version

    @property
    def engine(self) -> Engine:
        """The present engine."""
        return self._desk.engine

    @property
    def state(self) -> Literal["open", "draining", "closed"]:
        """Whether it takes asks, finishes its last ones, or does nothing more (because it was told to, or hung)."""
        return "closed" if self._closed else "draining" if self._refusing else "open"

    @property
    def full(self) -> bool:
        """Whether there is no room in the queue now."""
        return self._desk.depth >= self._desk.max_queue

    @property
    def depth(self) -> int:
        """How many asks wait in the queue."""
        return self._desk.depth

    def metrics(self) -> Metrics:
        """Return a copy of all counts."""
        with self._lock:
            desk = self._desk
            return desk.counts.snapshot(desk.depth, len(desk.lobby), desk.in_flight)

    def ask_nowait(
        self, ask: Ask, *, deadline: float | None = None, priority: int = 0, wait: bool = False
    ) -> Future[Reply]:
        """Ask and return at once with a future; cancelling it takes the ask back unless the model is at it.

        Args:
            ask: The question.
            deadline: Seconds from now by which the model must have begun.
            priority: One of `PRIORITIES`, higher is more urgent.
            wait: Whether the ask (not the caller) waits for room where the queue is full, instead of being refused.

        Raises:
            AskError: The engine can never answer this.
            OverloadedError: The queue is full.
            ServerLostError: The batcher is closed or draining.
        """
        future = _Future(self)
        future.waiter = self._submit(ask, future, None, deadline, priority, wait)
        return future

    def ask(self, ask: Ask, *, deadline: float | None = None, priority: int = 0, wait: bool = True) -> Reply:
        """Ask and wait for the reply; also for room in the queue, unless `wait` is False.

        Raises:
            LateError: The deadline passed before the model began.
            EngineError: The engine failed on this ask.
            AskError, OverloadedError, ServerLostError: As for `ask_nowait`.
        """
        future = _Future(self)
        future.waiter = self._submit(ask, future, None, deadline, priority, wait)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def ask_async(
        self, ask: Ask, *, deadline: float | None = None, priority: int = 0, wait: bool = True
    ) -> Reply:
        """Ask from an event loop, which never blocks; otherwise as `ask`. Cancelling the task takes the ask back."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        waiter = self._submit(ask, future, loop, deadline, priority, wait)
        try:
            return await future
        except asyncio.CancelledError:
            self._take_back(waiter)
            raise

    def _submit(
        self,
        ask: Ask,
        future: Promise,
        loop: asyncio.AbstractEventLoop | None,
        deadline: float | None,
        priority: int,
        wait: bool,
    ) -> Waiter:
        """Hand an ask to the desk and wake who must know."""
        if priority not in PRIORITIES:
            raise AskError(f"priority is {priority}; it is an integer from {PRIORITIES[0]} to {PRIORITIES[-1]}.")
        if deadline is not None and not deadline >= 0:
            raise AskError(f"deadline is {deadline}; it is in seconds from now, at least 0.")
        if type(ask) not in KINDS:
            raise AskError(f"{type(ask).__name__} is no ask; there are {', '.join(kind.__name__ for kind in KINDS)}.")
        engine = self._desk.engine
        engine.check(ask)
        waiter = Waiter(ask, digest(ask), max(engine.size(ask), 1), priority, future, loop)
        with self._lock:
            if self._refusing:
                raise ServerLostError(f"{self.name} is {'closed' if self._closed else 'draining'}: it takes no asks.")
            desk = self._desk
            reply = desk.kept(waiter)
            if reply is None:
                waiter.arrive(monotonic(), deadline)
                desk.let_in(waiter, wait)
                if self._running is None and len(desk.queue) in (1, desk.max_batch):
                    self._work.notify()
                if waiter.deadline is not None:
                    self._set_alarm(waiter.deadline)
                return waiter
        future.set_result(reply)
        return waiter

    def _take_back(self, waiter: Waiter) -> None:
        """Drop an ask that its caller has cancelled."""
        with self._lock:
            self._desk.take_back(waiter)
            self._rest.notify_all()

    def load(self, path: Path) -> str:
        """Load other weights in this thread, let them take over between two batches, and return their version.

        Raises:
            WeightsError: They do not fit. The present ones stay.
        """
        with self._loading:
            engine = self._desk.engine.load(path)
            with self._lock:
                self._desk.engine = engine
            return engine.version

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more asks, finish those that are here, and return whether all were within `timeout` seconds."""
        with self._lock:
            self._refusing = True
            return self._rest.wait_for(self._at_rest, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Take no more asks and fail those that wait; the model has `timeout` seconds for what it is at.

        Safe to call twice, and from a callback of a future.
        """
        with self._lock:
            self._refusing = self._closed = True
            outcomes = self._desk.empty(ServerLostError(f"{self.name} was closed before it came to this ask."))
            self._work.notify()
            self._watch.notify()
        settle(outcomes)
        if threading.current_thread() in (self._runner, self._keeper):
            return
        with self._lock:
            self._rest.wait_for(self._at_rest, timeout)
            outcomes = self._give_up(ServerLostError(f"{self.name} was closed while it was at this ask."))
        settle(outcomes)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _at_rest(self) -> bool:
        busy = self._running is not None or self._handing_out or self._answered
        return not busy and not len(self._desk.queue) and not len(self._desk.lobby)

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"palaestra {self.name}", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        """Run batch after batch: the runner's thread."""
        while True:
            with self._lock:
                if self._runner is not threading.current_thread():
                    return  # a call of ours hung, and another thread has taken over
                self._running = None
                while (due := self._desk.due(monotonic(), self.max_wait)) is None or due > 0:
                    self._rest.notify_all()
                    if self._closed:
                        self._watch.notify()
                        return
                    self._work.wait(due)
                batch, dropped = self._desk.start(monotonic())
                self._running = batch
            settle(dropped)
            if batch.jobs:
                self._answer(batch)

    def _answer(self, batch: Batch) -> None:
        """Answer a batch; where it fails as a whole, its halves, until what is at fault fails alone."""
        parts = [list(batch.jobs)]
        while parts:
            jobs = parts.pop()
            batch.called = began = monotonic()
            answers = call(batch.engine, [job.ask for job in jobs], self.name)
            seconds = monotonic() - began
            with self._lock:
                if self._running is not batch:
                    return  # given up meanwhile: its asks have failed
                batch.called = math.inf
                if answers is None:
                    self._desk.count_call(jobs, seconds)
                    half = len(jobs) // 2
                    parts += [jobs[half:], jobs[:half]]
                    continue
                due = self._desk.due(began + seconds, self.max_wait)
                if not parts and due is not None and due <= 0:  # the engine need not wait until callers know
                    self._answered.append((batch, jobs, answers, seconds))
                    self._running = None
                    self._wake_keeper()
                    return
                outcomes = self._desk.finish(batch, jobs, answers, seconds)
            settle(outcomes)

    def _wake_keeper(self) -> None:
        """Tell the keeper that something has changed; the lock is held."""
        if self._keeper is None:
            self._keeper = self._start(self._keep)
        self._watch.notify()

    def _set_alarm(self, at: float) -> None:
        """See that the keeper looks round by that time; the lock is held."""
        if at < self._alarm:
            self._alarm = at
            self._wake_keeper()

    def _keep(self) -> None:
        """Hand out replies, drop late asks in time and give up calls that hang: the keeper's thread."""
        while True:
            with self._lock:
                self._handing_out = False
                self._rest.notify_all()
                while not self._answered and monotonic() < self._alarm:
                    if self._closed and self._running is None:
                        return
                    self._watch.wait(None if self._alarm == math.inf else self._alarm - monotonic())
                answered, self._answered = self._answered, []
                outcomes = [outcome for each in answered for outcome in self._desk.finish(*each)]
                if monotonic() >= self._alarm:
                    outcomes += self._look_round(monotonic())
                self._handing_out = True
            settle(outcomes)

    def _look_round(self, now: float) -> Outcomes:
        """Drop what is late, give up a call that hangs, and set the alarm for the next time; the lock is held."""
        outcomes = self._desk.drop_late(now)
        self._alarm = max(self._desk.next_deadline(), now + TICK)
        if self.hang_seconds is not None:
            began = now if self._running is None else min(self._running.called, now)
            if began + self.hang_seconds <= now:
                outcomes += self._replace_runner()
                began = now
            self._alarm = min(self._alarm, began + self.hang_seconds)
        return outcomes

    def _replace_runner(self) -> Outcomes:
        """Leave the runner to its hung call and start another, unless that goes on and on; the lock is held."""
        assert self._running is not None
        why = f"{self.name} hung: no answer to a batch of {len(self._running.jobs)} in {self.hang_seconds:g} s."
        outcomes = self._give_up(EngineError(why))
        self._stuck = [*(thread for thread in self._stuck if thread.is_alive()), self._runner]
        if len(self._stuck) < MOST_STUCK:
            self._runner = self._start(self._run)
            return outcomes
        self._refusing = self._closed = True
        return outcomes + self._desk.empty(ServerLostError(f"{self.name} is lost: {MOST_STUCK} of its calls hang."))

    def _give_up(self, why: Exception) -> Outcomes:
        """Fail what the model is at, whatever may still come of it; the lock is held."""
        batch, self._running = self._running, None
        self._rest.notify_all()
        return [] if batch is None else self._desk.fail(batch, why)
