"""The two threads of a batcher. Between their steps the rules are `Desk`'s, under one lock.

The runner runs the engine. The keeper minds deadlines and hangs and, under load, hands out replies while the engine is
at the next batch: the time between two batches is what a saturated engine loses.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping
from time import monotonic

from palaestra.agents.vlm.core import Answer, Audience, Engine, EngineError, Reply, ServerLostError
from palaestra.agents.vlm.desk import Batch, Desk, Outcomes
from palaestra.agents.vlm.metrics import Metrics
from palaestra.agents.vlm.outcomes import call, hand_out, settle
from palaestra.agents.vlm.queue import Job, Waiter

TICK = 0.002
"""Seconds that a late ask may wait to hear so, lest the keeper be busy with nothing else."""
MOST_STUCK = 8
"""After so many hangs in calls that never came back the engine is given up."""

Answered = tuple[Batch, list[Job], list[Answer | Exception], float]
"""A part of a batch, what the engine returned, and in how many seconds."""


class Workers:
    """A desk at work."""

    def __init__(self, desk: Desk, max_wait: float, hang_seconds: float | None) -> None:
        """Start the threads.

        Args:
            desk: Whose asks are served.
            max_wait: Seconds that an ask may wait for companions while the engine is idle.
            hang_seconds: After so long a call of the engine counts as hung; None waits for ever.
        """
        self.desk, self.max_wait, self.hang_seconds, self.name = desk, max_wait, hang_seconds, desk.name
        self.refusing = self.closed = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # wakes the runner
        self._watch = threading.Condition(self._lock)  # wakes the keeper
        self._rest = threading.Condition(self._lock)  # wakes who waits for the end of the work
        self._running: Batch | None = None
        self._stuck: list[threading.Thread] = []
        self._alarm = math.inf
        self._answered: list[Answered] = []  # for the keeper to hand out
        self._handing_out = False
        self._keeper: threading.Thread | None = None
        with self._lock:
            self._runner = self._start(self._run)
            if hang_seconds is not None:
                self._set_alarm(monotonic() + hang_seconds)

    def submit(self, waiter: Waiter, deadline: float | None, wait: bool) -> Reply | None:
        """Queue an ask, or return its reply if there is one already.

        Raises:
            OverloadedError: There is no room and the caller would not wait.
            ServerLostError: No asks are taken any more.
        """
        with self._lock:
            if self.refusing:
                raise ServerLostError(f"{self.name} is {'closed' if self.closed else 'draining'}: it takes no asks.")
            desk = self.desk
            reply = desk.kept(waiter)
            if reply is None:
                waiter.arrive(monotonic(), deadline)
                desk.let_in(waiter, wait)
                if self._running is None and len(desk.queue) in (1, desk.max_batch):
                    self._work.notify()
                if waiter.deadline is not None:
                    self._set_alarm(waiter.deadline)
            return reply

    def take_back(self, waiter: Waiter) -> None:
        """Drop an ask that its caller has cancelled."""
        with self._lock:
            self.desk.take_back(waiter)
            self._rest.notify_all()

    def swap(self, engine: Engine) -> None:
        """Let another engine answer from the next batch on."""
        with self._lock:
            self.desk.engine = engine

    def metrics(self) -> Metrics:
        """Return a copy of all counts."""
        with self._lock:
            desk = self.desk
            return desk.counts.snapshot(desk.depth, len(desk.lobby), desk.in_flight)

    def drain(self, timeout: float | None) -> bool:
        """Take no more asks, finish those that are here, and return whether all were within `timeout` seconds."""
        with self._lock:
            self.refusing = True
            return self._rest.wait_for(self._at_rest, timeout)

    def close(self, timeout: float) -> None:
        """Take no more asks and fail those that wait; the engine has `timeout` seconds for what it is at."""
        with self._lock:
            self.refusing = self.closed = True
            outcomes = self.desk.empty(ServerLostError(f"{self.name} was closed before it came to this ask."))
            self._work.notify()
            self._watch.notify()
        settle(outcomes)
        if threading.current_thread() in (self._runner, self._keeper):
            return
        with self._lock:
            self._rest.wait_for(self._at_rest, timeout)
            outcomes = self._give_up(ServerLostError(f"{self.name} was closed while it was at this ask."))
        settle(outcomes)

    def _at_rest(self) -> bool:
        busy = self._running is not None or self._handing_out or self._answered
        return not busy and not len(self.desk.queue) and not len(self.desk.lobby)

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
                while (due := self.desk.due(monotonic(), self.max_wait)) is None or due > 0:
                    self._rest.notify_all()
                    if self.closed:
                        self._watch.notify()
                        return
                    self._work.wait(due)
                batch, dropped = self.desk.start(monotonic())
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
            answers = call(batch.engine, [job.ask for job in jobs], self.name, self._audience(batch, jobs))
            seconds = monotonic() - began
            with self._lock:
                if self._running is not batch:
                    return  # given up meanwhile: its asks have failed
                batch.called = math.inf
                if answers is None:
                    self.desk.count_call(jobs, seconds)
                    half = len(jobs) // 2
                    parts += [jobs[half:], jobs[:half]]
                    continue
                due = self.desk.due(began + seconds, self.max_wait)
                if not parts and due is not None and due <= 0:  # the engine need not wait until callers know
                    self._answered.append((batch, jobs, answers, seconds))
                    self._running = None
                    self._wake_keeper()
                    return
                outcomes = self.desk.finish(batch, jobs, answers, seconds)
            settle(outcomes)

    def _audience(self, batch: Batch, jobs: list[Job]) -> Audience | None:
        """Return who listens to some jobs of a batch, None if nobody does."""
        listening = [any(waiter.hear is not None for waiter in job.waiters) for job in jobs]
        if not any(listening):
            return None
        for job in jobs:
            job.said = ""

        def tell(pieces: Mapping[int, str]) -> Collection[int]:
            with self._lock:
                if self._running is not batch:
                    return range(len(jobs))  # given up meanwhile
                batch.called = monotonic()  # who speaks does not hang
                told = self.desk.tell(jobs, pieces)
                left = [place for place, job in enumerate(jobs) if self.desk.abandoned(job)]
            hand_out(told)
            return left

        return Audience(frozenset(place for place, listens in enumerate(listening) if listens), tell)

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
                    if self.closed and self._running is None:
                        return
                    self._watch.wait(None if self._alarm == math.inf else self._alarm - monotonic())
                answered, self._answered = self._answered, []
                outcomes = [outcome for each in answered for outcome in self.desk.finish(*each)]
                if monotonic() >= self._alarm:
                    outcomes += self._look_round(monotonic())
                self._handing_out = True
            settle(outcomes)

    def _look_round(self, now: float) -> Outcomes:
        """Drop what is late, give up a call that hangs, and set the alarm for the next time; the lock is held."""
        outcomes = self.desk.drop_late(now)
        self._alarm = max(self.desk.next_deadline(), now + TICK)
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
        self.refusing = self.closed = True
        return outcomes + self.desk.empty(ServerLostError(f"{self.name} is lost: {MOST_STUCK} of its calls hang."))

    def _give_up(self, why: Exception) -> Outcomes:
        """Fail what the model is at, whatever may still come of it; the lock is held."""
        batch, self._running = self._running, None
        self._rest.notify_all()
        return [] if batch is None else self.desk.fail(batch, why)
