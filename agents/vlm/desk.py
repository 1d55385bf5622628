"""The rules of the queue: who is let in, merged, refused, dropped and served. No threads, no locks, no clock in here.

`Batcher` calls it under its lock, with the time. What it returns for callers is handed over outside the lock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from palaestra.agents.vlm.cache import Cache
from palaestra.agents.vlm.core import Answer, Engine, LateError, OverloadedError, Reply, ServerLostError
from palaestra.agents.vlm.metrics import Metrics
from palaestra.agents.vlm.outcomes import Outcome
from palaestra.agents.vlm.queue import Job, Line, Waiter, padding, pick

Outcomes = list[tuple[Waiter, Outcome]]


class Batch:
    """What an engine is at."""

    def __init__(self, engine: Engine, jobs: list[Job], began: float) -> None:
        self.engine, self.version, self.began = engine, engine.version, began
        self.jobs = dict.fromkeys(jobs)
        """Those without an outcome yet."""
        self.called = began
        """When the engine was last called."""


class Desk:
    """A bounded queue, a lobby for those who wait for room in it, what is with the model, and the counts of it all."""

    def __init__(
        self, engine: Engine, name: str, max_batch: int, max_queue: int, max_padding: float, cache_bytes: int
    ) -> None:
        self.engine = engine
        """Who answers the next batch."""
        self.name, self.max_batch, self.max_queue, self.max_padding = name, max_batch, max_queue, max_padding
        self.queue: Line[Job] = Line()
        self.lobby: Line[Waiter] = Line()
        self.depth = 0
        """Asks that wait in the queue, merged ones included: at most `max_queue`."""
        self.in_flight = 0
        """Asks that are with the model."""
        self.counts = Metrics()
        self._twins: dict[str, Job] = {}
        self._cache = Cache(cache_bytes)
        self._ask_seconds = 0.0

    def kept(self, waiter: Waiter) -> Reply | None:
        """Count a new ask, and return its reply if there is one already."""
        self.counts.submitted += 1
        version = self.engine.version
        answer = self._cache.get(waiter.key, version) if waiter.key is not None and len(self._cache) else None
        if answer is None:
            return None
        waiter.waiting = False
        self.counts.answered += 1
        self.counts.kept += 1
        return Reply(answer, version, kept=True)

    def let_in(self, waiter: Waiter, wait: bool) -> None:
        """Put an ask in the queue; where there is no room, in the lobby if its caller would wait for it.

        Raises:
            OverloadedError: There is no room and the caller would not wait.
        """
        if self.depth < self.max_queue:
            self._enter(waiter)
        elif wait:
            self.lobby.add(waiter)
        else:
            self.counts.refused += 1
            after = max(self.depth * self._ask_seconds, 0.05)
            raise OverloadedError(
                f"the queue of {self.name} is full: {self.depth} asks wait, and max_queue is {self.max_queue}. "
                f"Ask again in {after:.2f} s, or wait for room.",
                after,
            )

    def _enter(self, waiter: Waiter) -> None:
        """Give an ask a place in the queue, with its twin if it has one that the present engine answers."""
        twin = None if waiter.key is None else self._twins.get(waiter.key)
        if twin is None or twin.engine not in (None, self.engine):
            self.depth += 1
            waiter.job = Job(waiter)
            self.queue.add(waiter.job)
            if waiter.key is not None:
                self._twins[waiter.key] = waiter.job
            return
        if twin.engine is not None and not waiter.claim():
            self.counts.cancelled += 1  # in the lobby, and nobody has told us yet
            return
        self.depth += 1
        self.counts.merged += 1
        twin.waiters.append(waiter)
        if twin.engine is not None:
            return
        waiter.job = twin
        if waiter.rank < twin.rank:
            self.queue.remove(twin)
            twin.priority, twin.rank = waiter.priority, waiter.rank
            self.queue.add(twin)

    def _admit(self) -> None:
        """Let the most urgent from the lobby into the queue, as far as there is room."""
        while self.depth < self.max_queue and len(self.lobby):
            waiter = self.lobby.first(1)[0]
            self.lobby.remove(waiter)
            self._enter(waiter)

    def _leave(self, waiter: Waiter) -> bool:
        """Take a waiting ask out of the queue or the lobby, and return whether its caller still wants an outcome."""
        job = waiter.job
        if job is None:
            self.lobby.remove(waiter)
        else:
            job.waiters.remove(waiter)
            self.depth -= 1
            if not job.waiters:
                self.queue.remove(job)
                self._forget(job)
        wanted = waiter.claim()
        self.counts.cancelled += not wanted
        return wanted

    def _forget(self, job: Job) -> None:
        if job.key is not None and self._twins.get(job.key) is job:
            del self._twins[job.key]

    def take_back(self, waiter: Waiter) -> None:
        """Drop an ask whose caller has cancelled it, unless it is with the model or done."""
        if not waiter.waiting:
            waiter.gone = True
        elif self._leave(waiter):
            self.counts.cancelled += 1  # an event loop's future does not know yet
        self._admit()

    def waiters(self) -> Iterator[Waiter]:
        """Go through all that can still be dropped."""
        for job in self.queue:
            yield from job.waiters
        yield from self.lobby

    def drop_late(self, now: float) -> Outcomes:
        """Drop the asks whose deadline has passed."""
        late = [waiter for waiter in self.waiters() if waiter.deadline is not None and waiter.deadline <= now]
        dropped = self._drop_late(late, now)
        self._admit()
        return dropped

    def _drop_late(self, late: list[Waiter], now: float) -> Outcomes:
        dropped: Outcomes = []
        for waiter in late:
            if self._leave(waiter):
                self.counts.late += 1
                waited = now - waiter.arrived
                error = LateError(f"the deadline passed after {waited:.3f} s, before {self.name} could begin.")
                dropped.append((waiter, error))
        return dropped

    def next_deadline(self) -> float:
        """Return when the next ask will be late; infinity if none will."""
        return min((w.deadline for w in self.waiters() if w.deadline is not None), default=math.inf)

    def due(self, now: float, max_wait: float) -> float | None:
        """Return in how many seconds a batch should start, at most 0 for now; None if nothing is queued."""
        if not len(self.queue):
            return None
        if max_wait == 0 or len(self.queue) >= self.max_batch:
            return 0.0
        return min(job.arrived for job in self.queue) + max_wait - now

    def start(self, now: float) -> tuple[Batch, Outcomes]:
        """Take the next batch out of the queue, and drop what of it is late or cancelled."""
        chosen = pick(self.queue, self.max_batch, self.max_padding)
        gone = [w for job in chosen for w in job.waiters if w.deadline is not None and w.deadline <= now]
        dropped = self._drop_late(gone, now)
        jobs = []
        for job in chosen:
            waiters = [waiter for waiter in job.waiters if waiter.claim()]
            if not job.waiters:
                continue  # it left when the last of its callers did
            self.queue.remove(job)
            self.depth -= len(job.waiters)
            self.counts.cancelled += len(job.waiters) - len(waiters)
            if not waiters:
                self._forget(job)
                continue
            job.waiters, job.begun, job.engine = waiters, len(waiters), self.engine
            self.in_flight += job.begun
            jobs.append(job)
        self._admit()
        return Batch(self.engine, jobs, now), dropped

    def tell(self, jobs: list[Job], pieces: Mapping[int, str]) -> list[tuple[Waiter, str]]:
        """Add pieces to the texts of some of these jobs, and return what each listener has not been told yet.

        A batch that failed is asked again in parts, and says again what it has said; then nothing is told twice.
        """
        told = []
        for place, piece in pieces.items():
            job = jobs[place]
            job.said += piece
            for waiter in job.waiters:
                if waiter.hear is not None and len(job.said) > waiter.heard:
                    told.append((waiter, job.said[waiter.heard :]))
                    waiter.heard = len(job.said)
        return told

    def abandoned(self, job: Job) -> bool:
        """Return whether nobody waits for a running job any more; its answer may be cut short, and is for nobody."""
        if not all(waiter.gone for waiter in job.waiters):
            return False
        self._forget(job)
        job.key = None
        return True

    def count_call(self, jobs: list[Job], seconds: float) -> None:
        """Count a call of the engine."""
        counts = self.counts
        counts.batches += 1
        counts.model_seconds.observe(seconds)
        counts.fill.observe(len(jobs) / self.max_batch)
        counts.padding.observe(padding([job.size for job in jobs]))
        self._ask_seconds += 0.1 * (seconds / len(jobs) - self._ask_seconds)

    def finish(
        self, batch: Batch, jobs: list[Job], results: list[Answer | Exception], seconds: float
    ) -> Outcomes:
        """Take jobs off a batch, which the engine answered in so many seconds, and return each caller's outcome."""
        self.count_call(jobs, seconds)
        outcomes: Outcomes = []
        for job, result in zip(jobs, results, strict=True):
            self._end(batch, job)
            if isinstance(result, Exception):
                self.counts.failed += len(job.waiters)
                outcomes += [(waiter, result) for waiter in job.waiters]
                continue
            self.counts.answered += len(job.waiters)
            if job.key is not None and self._cache.most_bytes:
                self._cache.put(job.key, batch.version, result)
            for waiter in job.waiters:
                waited = max(batch.began - waiter.arrived, 0.0)
                outcomes.append((waiter, Reply(result, batch.version, waited, seconds, len(jobs))))
        self._admit()
        return outcomes

    def fail(self, batch: Batch, why: Exception) -> Outcomes:
        """Take what is left off a batch that will have no answer, and return each caller's outcome."""
        outcomes: Outcomes = []
        for job in list(batch.jobs):
            self._end(batch, job)
            outcomes += [(waiter, why) for waiter in job.waiters]
        self.counts.failed += len(outcomes)
        self._admit()
        return outcomes

    def _end(self, batch: Batch, job: Job) -> None:
        del batch.jobs[job]
        self._forget(job)
        self.in_flight -= job.begun
        self.depth -= len(job.waiters) - job.begun
        for waiter in job.waiters[: job.begun]:
            self.counts.queue_seconds.observe(batch.began - waiter.arrived)

    def empty(self, why: ServerLostError) -> Outcomes:
        """Take everything out of the queue and the lobby, to fail."""
        outcomes: Outcomes = [(waiter, why) for waiter in list(self.waiters()) if self._leave(waiter)]
        self.counts.failed += len(outcomes)
        return outcomes
