"""One client for models in this process and on a server, for agents and rewards, threads and event loops alike.

    with connect("http://127.0.0.1:8000") as client:            # or connect({"advisor": engine})
        reply = client.ask("advisor", Generate(...))            # wait
        client.ask_nowait("advisor", Generate(...), key=row)    # never waits: a training loop asks …
        for key, reply in client.poll():                        # … and takes what has come meanwhile
            ...

Both forms raise the same errors (see `core.py`).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palaestra.agents.vlm import faults
from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import Ask, Engine, Reply, ServerLostError


@dataclass(slots=True)
class Counts:
    """What became of a client's asks: asked = answered + failed + missed + cancelled + those not done yet."""

    asked: int = 0
    """All of them."""
    answered: int = 0
    """Those with a reply."""
    failed: int = 0
    """Refused, late, or an error of the engine or the ask."""
    missed: int = 0
    """Lost because the server was away."""
    cancelled: int = 0
    """Taken back by their callers."""


class Client(ABC):
    """Asks models by name. Any thread may call any method."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._lock = threading.Lock()
        self._finished: queue.SimpleQueue[tuple[Hashable, Reply | Exception]] = queue.SimpleQueue()

    def ask(self, model: str, ask: Ask, *, deadline: float | None = None, priority: int = 0) -> Reply:
        """Ask and wait for the reply; also for room where the model's queue is full.

        Args:
            model: The model's name.
            ask: The question.
            deadline: Seconds from now by which the model must have begun.
            priority: From -10 to 10, higher is more urgent.

        Raises:
            AskError: The ask itself is wrong.
            UnknownModelError: No model has that name.
            LateError: The deadline passed before the model began.
            EngineError: The engine failed on this ask.
            ServerLostError: The server is away.
        """
        future = self._begin(model, ask, None, deadline, priority, wait=True)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def ask_async(self, model: str, ask: Ask, *, deadline: float | None = None, priority: int = 0) -> Reply:
        """Ask from an event loop, which never blocks; otherwise as `ask`. Cancelling the task takes the ask back."""
        return await asyncio.wrap_future(self._begin(model, ask, None, deadline, priority, wait=True))

    def ask_nowait(
        self,
        model: str,
        ask: Ask,
        *,
        key: Hashable = None,
        deadline: float | None = None,
        priority: int = 0,
        wait: bool = False,
    ) -> Future[Reply]:
        """Ask and go on at once.

        Nothing is raised here: the future holds the reply or the error, `OverloadedError` where there was no room.
        The ask's tensors must stay as they are until it is done.

        Args:
            model: The model's name.
            ask: The question.
            key: If given, `poll` will return the outcome under it.
            deadline: Seconds from now by which the model must have begun.
            priority: From -10 to 10, higher is more urgent.
            wait: Whether the ask (not the caller) waits for room where the model's queue is full.
        """
        return self._begin(model, ask, key, deadline, priority, wait)

    def poll(self) -> list[tuple[Hashable, Reply | Exception]]:
        """Return what has come of the asks with a key since the last call, in the order in which it came.

        Never waits. Asks that were cancelled are left out.
        """
        finished = []
        while True:
            try:
                finished.append(self._finished.get_nowait())
            except queue.Empty:
                return finished

    @property
    def counts(self) -> Counts:
        """What became of all asks so far, as a copy."""
        with self._lock:
            return replace(self._counts)

    def _begin(
        self, model: str, ask: Ask, key: Hashable, deadline: float | None, priority: int, wait: bool
    ) -> Future[Reply]:
        """Hand an ask over and see that its outcome is counted, and kept for `poll` where it has a key."""
        with self._lock:
            self._counts.asked += 1
        try:
            future = self._submit(model, ask, deadline, priority, wait)
        except Exception as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(partial(self._done, key))
        return future

    def _done(self, key: Hashable, future: Future[Reply]) -> None:
        error = None if future.cancelled() else future.exception()
        with self._lock:
            counts = self._counts
            if future.cancelled():
                counts.cancelled += 1
            elif error is None:
                counts.answered += 1
            elif isinstance(error, ServerLostError):
                counts.missed += 1
            else:
                counts.failed += 1
        if key is not None and not future.cancelled():
            self._finished.put((key, future.result() if error is None else _as_exception(error)))

    @abstractmethod
    def _submit(self, model: str, ask: Ask, deadline: float | None, priority: int, wait: bool) -> Future[Reply]:
        """Hand an ask over; `wait` says whether it may wait for room."""

    @abstractmethod
    def models(self) -> dict[str, str]:
        """Return the models' names and the versions of their weights."""

    @abstractmethod
    def load(self, model: str, path: str | Path) -> str:
        """Load other weights into a model, and return their version.

        Raises:
            WeightsError: They do not fit; the present ones stay.
        """

    @abstractmethod
    def metrics(self) -> dict[str, dict[str, float]]:
        """Return each model's counts (see `Metrics`), histograms by their means."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything. Asks in progress fail with `ServerLostError`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


class LocalClient(Client):
    """Asks models in this process."""

    def __init__(self, models: Mapping[str, Engine | Batcher]) -> None:
        """Use batchers, which stay their owner's, and put a batcher before each bare engine."""
        super().__init__()
        self._own = {name: Batcher(each, name=name) for name, each in models.items() if not isinstance(each, Batcher)}
        given = {name: each for name, each in models.items() if isinstance(each, Batcher)}
        self._models = {name: self._own.get(name) or given[name] for name in models}

    def _submit(self, model: str, ask: Ask, deadline: float | None, priority: int, wait: bool) -> Future[Reply]:
        return self._model(model).ask_nowait(ask, deadline=deadline, priority=priority, wait=wait)

    def _model(self, name: str) -> Batcher:
        if name not in self._models:
            raise faults.unknown_model(name, self._models)
        return self._models[name]

    def models(self) -> dict[str, str]:
        """Return the models' names and the versions of their weights."""
        return {name: batcher.version for name, batcher in self._models.items()}

    def load(self, model: str, path: str | Path) -> str:
        """Load other weights into a model, and return their version."""
        return self._model(model).load(Path(path))

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return each model's counts."""
        return {name: batcher.metrics().numbers() for name, batcher in self._models.items()}

    def close(self) -> None:
        """Close the batchers that this client made."""
        for batcher in self._own.values():
            batcher.close()


def connect(
    target: str | Mapping[str, Engine | Batcher], *, token: str | None = None, **options: Any
) -> Client:
    """Return a client of a server, or of models in this process.

    Args:
        target: A server's address such as `http://127.0.0.1:8000`; or engines or batchers by name.
        token: That the server wants.
        options: Of `RemoteClient`.
    """
    if isinstance(target, str):
        from palaestra.agents.vlm.remote import RemoteClient

        return RemoteClient(target, token=token, **options)
    if token is not None or options:
        raise ValueError(f"models in this process take no token and no options ({', '.join(options)}).")
    return LocalClient(target)
