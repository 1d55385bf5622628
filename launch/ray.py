"""Replicas of the batch server on a Ray cluster, behind one client.

Ray places the replicas and starts them again where they die; asks go straight to them over HTTP, so that nothing of
Ray's is in the way of one, and a replica is the same server that `palaestra serve` starts.

    with Fleet(ServeOptions(model=("advisor=transformers:weights/advisor",)), replicas=4, gpus=1) as fleet:
        reply = fleet.client.ask("advisor", Generate(...))
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from palaestra.agents.vlm.balance import BalancedClient
from palaestra.agents.vlm.core import ServerLostError

if TYPE_CHECKING:
    from types import TracebackType

    from palaestra.launch.serve import ServeOptions

LOOK = 0.5
"""Seconds between two looks at every replica."""
PATIENCE = 5.0
"""Seconds that a replica may take to say where it is; while one is started again it says nothing."""


class Replica:
    """One server, as a Ray actor."""

    def __init__(self, options: ServeOptions, token: str) -> None:
        """Open the models and serve them on a free port of this node."""
        from contextlib import ExitStack

        import ray

        from palaestra.launch.serve import ModelSpec, open_app
        from palaestra.launch.server.run import background

        self._stack = ExitStack()
        app = open_app(options, [ModelSpec.parse(text) for text in options.model], token)
        node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._url = self._stack.enter_context(background(app, host=node))

    def url(self) -> str:
        """Return where it listens."""
        return self._url


class Fleet:
    """Replicas of one server."""

    def __init__(
        self,
        options: ServeOptions,
        replicas: int = 2,
        *,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        start_seconds: float = 600.0,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        """Start replicas, and wait until all of them serve.

        Args:
            options: Of each server. Paths are the nodes' own; host, port and token are chosen here.
            replicas: How many; Ray puts them on different nodes where it can.
            address: Of the cluster; by default the one that this process is connected to, or a new one on this machine.
            cpus: That Ray reserves for a replica.
            gpus: That Ray reserves for a replica.
            start_seconds: How long they may take to load.
            client: Options of `RemoteClient`.

        Raises:
            ValueError: There is nothing to start.
            ServerLostError: A replica did not start in time, with Ray's reason.
        """
        if replicas < 1:
            raise ValueError(f"a fleet has at least one replica, not {replicas}.")
        import ray

        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        token = secrets.token_urlsafe(24)
        self.client = BalancedClient(token=token, **(client or {}))
        actor: Any = ray.remote(Replica).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, scheduling_strategy="SPREAD"
        )
        self._actors: list[Any] = [actor.remote(options, token) for _ in range(replicas)]
        self._urls: list[str | None] = [None] * replicas
        self._closing = threading.Event()
        try:
            for index, each in enumerate(self._actors):
                self._see(index, ray.get(each.url.remote(), timeout=start_seconds))
        except (ray.exceptions.RayError, TimeoutError) as error:
            self.close()
            raise ServerLostError(f"replica {index} of {replicas} did not start: {error}") from error
        self._watcher = threading.Thread(target=self._watch, name="palaestra fleet", daemon=True)
        self._watcher.start()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the replicas that serve now listen."""
        return self.client.urls

    def _see(self, index: int, url: str | None) -> None:
        """Note where a replica is now: its old address leaves the client, its new one joins."""
        before = self._urls[index]
        if before == url:
            return
        self._urls[index] = url
        if before is not None:
            self.client.leave(before)
        if url is not None:
            self.client.join(url)

    def _watch(self) -> None:
        """Follow replicas that die and come back."""
        import ray

        while not self._closing.wait(LOOK):
            asked = [each.url.remote() for each in self._actors]
            for index, answer in enumerate(asked):
                if self._closing.is_set():
                    return
                try:
                    self._see(index, ray.get(answer, timeout=PATIENCE))
                except (ray.exceptions.RayError, TimeoutError):
                    self._see(index, None)

    def close(self) -> None:
        """End the replicas."""
        import ray

        self._closing.set()
        watcher = getattr(self, "_watcher", None)
        if watcher is not None:
            watcher.join()
        self.client.close()
        for each in self._actors:
            ray.kill(each)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
