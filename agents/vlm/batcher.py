"""Turns single asks from anywhere into batches for one engine: threads, event loops and training loops on one queue.

A batch starts as soon as the engine is free: with `max_wait` = 0 the batch before is the clock, which gave the least
latency at every load we tried. Who is let in, merged and served when is `desk.py`; the threads are `workers.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Literal
from weakref import ReferenceType, ref

from palaestra.agents.vlm.core import Ask, AskError, Engine, Reply, digest
from palaestra.agents.vlm.desk import Desk
from palaestra.agents.vlm.metrics import Metrics
from palaestra.agents.vlm.outcomes import KINDS
from palaestra.agents.vlm.queue import PRIORITIES, Promise, Waiter
from palaestra.agents.vlm.workers import Workers


class _Future(Future[Reply]):
    """A future that takes its ask back when cancelled, so that the ask holds no room in the queue."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self.workers = workers
        self.waiter: ReferenceType[Waiter] | None = None
        """Weak: a cycle an ask would be garbage that only a pause of all threads finds."""

    def cancel(self) -> bool:
        """Cancel the ask unless the model is at it, and return whether it is cancelled."""
        cancelled = super().cancel()
        waiter = None if self.waiter is None else self.waiter()
        if cancelled and waiter is not None:
            self.workers.take_back(waiter)
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
        self.name = name
        self._desk = Desk(engine, name, max_batch, max_queue, max_padding, cache_bytes)
        self._workers = Workers(self._desk, max_wait, hang_seconds)
        self._loading = threading.Lock()

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
        return "closed" if self._workers.closed else "draining" if self._workers.refusing else "open"

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
        return self._workers.metrics()

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
        future = _Future(self._workers)
        future.waiter = ref(self._submit(ask, future, None, deadline, priority, wait))
        return future

    def ask(self, ask: Ask, *, deadline: float | None = None, priority: int = 0, wait: bool = True) -> Reply:
        """Ask and wait for the reply; also for room in the queue, unless `wait` is False.

        Raises:
            LateError: The deadline passed before the model began.
            EngineError: The engine failed on this ask.
            AskError, OverloadedError, ServerLostError: As for `ask_nowait`.
        """
        future = _Future(self._workers)
        future.waiter = ref(self._submit(ask, future, None, deadline, priority, wait))
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def ask_async(
        self,
        ask: Ask,
        *,
        deadline: float | None = None,
        priority: int = 0,
        wait: bool = True,
        hear: Callable[[str], None] | None = None,
    ) -> Reply:
        """Ask from an event loop, which never blocks; otherwise as `ask`. Cancelling the task takes the ask back.

        `hear` is called in the loop with each piece of a text as it is made, by engines that can be listened to
        (`StreamingEngine`). Together the pieces are the beginning of the reply's text, or nothing of it; an ask that
        is cancelled while the model is at it is not finished then.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        waiter = self._submit(ask, future, loop, deadline, priority, wait, hear)
        try:
            return await future
        except asyncio.CancelledError:
            self._workers.take_back(waiter)
            raise

    def _submit(
        self,
        ask: Ask,
        future: Promise,
        loop: asyncio.AbstractEventLoop | None,
        deadline: float | None,
        priority: int,
        wait: bool,
        hear: Callable[[str], None] | None = None,
    ) -> Waiter:
        """Check an ask and queue it."""
        if priority not in PRIORITIES:
            raise AskError(f"priority is {priority}; it is an integer from {PRIORITIES[0]} to {PRIORITIES[-1]}.")
        if deadline is not None and not deadline >= 0:
            raise AskError(f"deadline is {deadline}; it is in seconds from now, at least 0.")
        if type(ask) not in KINDS:
            raise AskError(f"{type(ask).__name__} is no ask; there are {', '.join(kind.__name__ for kind in KINDS)}.")
        engine = self._desk.engine
        engine.check(ask)
        waiter = Waiter(ask, digest(ask), max(engine.size(ask), 1), priority, future, loop, hear)
        reply = self._workers.submit(waiter, deadline, wait)
        if reply is not None:
            future.set_result(reply)
        return waiter

    def load(self, path: Path) -> str:
        """Load other weights in this thread, let them take over between two batches, and return their version.

        Raises:
            WeightsError: They do not fit. The present ones stay.
        """
        with self._loading:
            engine = self._desk.engine.load(path)
            self._workers.swap(engine)
            return engine.version

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more asks, finish those that are here, and return whether all were within `timeout` seconds."""
        return self._workers.drain(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Take no more asks and fail those that wait; the model has `timeout` seconds for what it is at.

        Safe to call twice, and from a callback of a future.
        """
        self._workers.close(timeout)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
