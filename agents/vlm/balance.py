"""One client for many servers that hold the same models: the least loaded one is asked, a lost ask goes elsewhere once.

The servers may be ours, started by hand or by `palaestra.launch.ray`, or anybody's who speaks OpenAI's API.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from palaestra.agents.vlm.client import Client
from palaestra.agents.vlm.core import Ask, Reply, ServerLostError
from palaestra.agents.vlm.remote import RemoteClient


class _Replica:
    """One server, and how many asks of ours it has not answered."""

    def __init__(self, client: RemoteClient) -> None:
        self.client = client
        self.outstanding = 0
        self.turn = 0


class BalancedClient(Client):
    """Asks models on several servers."""

    def __init__(self, urls: Sequence[str] = (), *, token: str | None = None, **options: Any) -> None:
        """Connect to servers; more may join later.

        Args:
            urls: Their addresses.
            token: That all of them want.
            options: Of `RemoteClient`.
        """
        super().__init__()
        self._token, self._options = token, options
        self._replicas: dict[str, _Replica] = {}
        self._turn = 0
        for url in urls:
            self.join(url)

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers' addresses."""
        return tuple(self._replicas)

    def join(self, url: str) -> None:
        """Let a server take part."""
        with self._lock:
            if url not in self._replicas:
                self._replicas[url] = _Replica(RemoteClient(url, token=self._token, **self._options))

    def leave(self, url: str) -> None:
        """Let a server take part no more; what it has not answered is asked elsewhere."""
        with self._lock:
            replica = self._replicas.pop(url, None)
        if replica is not None:
            replica.client.close()

    def _submit(self, model: str, ask: Ask, deadline: float | None, priority: int, wait: bool) -> Future[Reply]:
        outcome: Future[Reply] = Future()
        self._try(outcome, (model, ask, deadline, priority, wait), None)
        return outcome

    def _try(self, outcome: Future[Reply], asked: tuple[Any, ...], lost: _Replica | None) -> None:
        """Ask the least loaded server, another one than `lost`, which lost this ask."""
        replica = self._choose(lost)
        if replica is None:
            outcome.set_exception(self._lost())
            return
        try:
            answer = replica.client._submit(*asked)
        except Exception as error:
            answer = Future()
            answer.set_exception(error)

        def done(answer: Future[Reply]) -> None:
            with self._lock:
                replica.outstanding -= 1
            if outcome.cancelled():
                return
            error = None if answer.cancelled() else answer.exception()
            if isinstance(error, ServerLostError) and lost is None:
                self._try(outcome, asked, replica)
            elif not outcome.set_running_or_notify_cancel():
                return
            elif error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(answer.result())

        outcome.add_done_callback(lambda outcome: answer.cancel() if outcome.cancelled() else None)
        answer.add_done_callback(done)

    def _choose(self, lost: _Replica | None) -> _Replica | None:
        """Return the server with the fewest asks, of several the one whose last turn is longest ago; count the ask."""
        with self._lock:
            there = [each for each in self._replicas.values() if each is not lost and not each.client.away]
            if not there:
                return None
            chosen = min(there, key=lambda each: (each.outstanding, each.turn))
            chosen.outstanding += 1
            self._turn += 1
            chosen.turn = self._turn
            return chosen

    def _present(self) -> list[RemoteClient]:
        """Return the clients of the servers that are there.

        Raises:
            ServerLostError: None is.
        """
        with self._lock:
            found = [each.client for each in self._replicas.values() if not each.client.away]
        if not found:
            raise self._lost()
        return found

    def _lost(self) -> ServerLostError:
        return ServerLostError(f"none of {len(self._replicas)} servers can be reached: {', '.join(self.urls)}.")

    def models(self) -> dict[str, str]:
        """Return the models' names and versions, as the first server that is there has them."""
        return self._present()[0].models()

    def load(self, model: str, path: str | Path) -> str:
        """Load other weights on every server that is there, and return their version."""
        return [client.load(model, path) for client in self._present()][-1]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the counts of each model on each server that is there, under `model at url`."""
        found = {client.url: client.metrics() for client in self._present()}
        return {f"{model} at {url}": counts for url, models in found.items() for model, counts in models.items()}

    def close(self) -> None:
        """Hang up on all servers."""
        for url in self.urls:
            self.leave(url)
