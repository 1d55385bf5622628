"""The client of a server: ours, or anybody's who speaks OpenAI's API.

It runs on one thread of its own. While the server is away, asks fail at once and are counted as missed, and one probe
finds out when it is back; who trains goes on without advice.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from torch import Tensor

from palaestra.agents.vlm import faults, fields, packing, wire, wire_replies
from palaestra.agents.vlm.client import Client
from palaestra.agents.vlm.core import Ask, AskError, EngineError, OverloadedError, Reply, ServerLostError
from palaestra.agents.vlm.http import Http, Response

FIRST_PROBE, LAST_PROBE = 0.1, 5.0
"""Seconds between looks for a server that is away: they double from the first to the last."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries at most, whatever the server says."""

T = TypeVar("T")
_JSON = b"Content-Type: application/json\r\n"
_PACKED = f"Content-Type: {packing.CONTENT_TYPE}\r\n".encode()


class RemoteClient(Client):
    """Asks models on a server."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 120.0,
        connections: int = 128,
        max_pending: int = 4096,
        retries: int = 0,
    ) -> None:
        """Start a thread; nothing is sent yet.

        Args:
            url: The server's address, with or without the `/v1` that others' clients want.
            token: Sent as `Authorization: Bearer …`.
            timeout: Seconds after which an unanswered request counts as lost.
            connections: Requests on their way at a time; further ones wait in here.
            max_pending: Asks not done at a time; further ones are refused.
            retries: How often an ask goes out again after the server was lost, with growing pauses. With 0 it fails.

        Raises:
            ValueError: An option makes no sense.
        """
        super().__init__()
        if not timeout > 0 or connections < 1 or retries < 0:
            given = f"timeout={timeout}, connections={connections}, retries={retries}"
            raise ValueError(f"{given}: the first must be above 0, the second at least 1, the third at least 0.")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.timeout, self.max_pending, self.retries = timeout, max_pending, retries
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = Http(self.url, headers)
        self._slots = asyncio.Semaphore(connections)
        self._packed = False
        self._away: str | None = None
        self._pending = 0
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"client of {self.url}", daemon=True)
        self._thread.start()

    @property
    def away(self) -> bool:
        """Whether the server is away, as far as known: asks fail at once until it is back."""
        return self._away is not None

    def models(self) -> dict[str, str]:
        """Return the models' names and the versions of their weights (their names again where a server has none)."""
        found = self._call(self._get("/v1/models"))
        entries = found.get("data")
        if not isinstance(entries, list) or not all(isinstance(each, dict) and "id" in each for each in entries):
            raise EngineError(f"{self.url}/v1/models does not list models in OpenAI's shape.")
        return {str(each["id"]): str(each.get("version", each["id"])) for each in entries}

    def load(self, model: str, path: str | Path) -> str:
        """Load other weights into a model, and return their version. The path is the server's."""
        data = json.dumps({"model": model, "path": str(path)}).encode()
        return str(self._call(self._json("POST", "/v1/weights", _JSON, data))["version"])

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return each model's counts. Only our servers have them in this form."""
        found: dict[str, dict[str, float]] = self._call(self._get("/metrics"))
        return found

    def close(self) -> None:
        """Hang up. Asks in progress fail with `ServerLostError`."""
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._http.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._spawn(work).result()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the client's thread."""
        if self._closed:
            work.close()
            raise ServerLostError(f"the client of {self.url} is closed.")
        return asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop)

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if self._closed:
                raise ServerLostError(f"the client of {self.url} was closed before the answer came.") from None
            raise
        finally:
            self._tasks.discard(task)

    def _submit(self, model: str, ask: Ask, deadline: float | None, priority: int, wait: bool) -> Future[Reply]:
        if self._away is not None and not self.retries:
            raise ServerLostError(self._away)
        with self._lock:
            if self._pending >= self.max_pending:
                raise OverloadedError(f"{self._pending} asks to {self.url} are not done, and max_pending is no more.")
            self._pending += 1
        future = self._spawn(self._ask(model, ask, deadline, priority, wait))
        future.add_done_callback(self._unpend)
        return future

    def _unpend(self, _: Future[Reply]) -> None:
        with self._lock:
            self._pending -= 1

    async def _ask(self, model: str, ask: Ask, deadline: float | None, priority: int, wait: bool) -> Reply:
        """Ask until there is an answer: again after a refusal if it may wait, and after a loss as often as allowed."""
        began, lost, refused = monotonic(), 0, 0
        while True:
            left = None
            try:
                async with self._slots:
                    left = None if deadline is None else max(deadline - (monotonic() - began), 0.0)
                    return await self._once(model, ask, left, priority)
            except OverloadedError as error:
                if not wait:
                    raise
                refused += 1
                pause = error.retry_after
            except ServerLostError:
                if lost >= self.retries:
                    raise
                lost += 1
                pause = FIRST_PROBE * 2**lost
            if left is not None:
                pause = min(pause, left)
            await asyncio.sleep(min(pause, LONGEST_PAUSE) * random.uniform(0.8, 1.2))

    async def _once(self, model: str, ask: Ask, deadline: float | None, priority: int) -> Reply:
        tensors: dict[str, Tensor] | None = {} if self._packed else None
        body = wire.write(model, ask, tensors, deadline, priority)
        kind, data = (_JSON, json.dumps(body).encode()) if not tensors else (_PACKED, packing.pack(body, tensors))
        response = await self._send("POST", wire.PATHS[type(ask)], kind, data)
        found, attached = _read(response)
        return wire_replies.read(ask, found, attached)

    async def _get(self, path: str) -> dict[str, Any]:
        return await self._json("GET", path, b"Accept: application/json\r\n", b"")

    async def _json(self, method: str, path: str, headers: bytes, data: bytes) -> dict[str, Any]:
        return _read(await self._send(method, path, headers, data))[0]

    async def _send(self, method: str, path: str, headers: bytes, data: bytes) -> Response:
        """Send a request and return an answer of status 200; from then on the server is known to be there."""
        try:
            async with asyncio.timeout(self.timeout):
                response = await self._http.request(method, path, headers, data)
        except TimeoutError as error:
            self._lose(f"{self.url} has not answered for {self.timeout:g} s", error)
        except OSError as error:
            self._lose(f"{self.url} cannot be reached: {error}", error)
        self._packed = response.headers.get("server") == "palaestra"
        if response.status != 200:
            try:
                said: object = json.loads(response.body)
            except ValueError:
                said = response.body[:500].decode("utf-8", "replace")
            raise faults.read(response.status, said, response.headers)
        return response

    def _lose(self, why: str, error: Exception) -> Any:
        """Note that the server is away, and look for it until it is back.

        Raises:
            ServerLostError: Always.
        """
        if self._away is None:
            self._away = f"{why}. Asks fail at once until it is back."
            task = self._loop.create_task(self._probe())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        raise ServerLostError(f"{why}.") from error

    async def _probe(self) -> None:
        """Look for the server, ever less often; any answer at all shows that it is there."""
        pause = FIRST_PROBE
        while self._away is not None:
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, LAST_PROBE)
            try:
                async with asyncio.timeout(LAST_PROBE):
                    await self._http.request("GET", "/v1/models")
            except OSError:  # TimeoutError is one
                continue
            self._away = None


def _read(response: Response) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON and the tensors of an answer.

    Raises:
        EngineError: It is neither JSON nor packed.
    """
    try:
        if response.headers.get("content-type", "").startswith(packing.CONTENT_TYPE):
            return packing.unpack(response.body)
        return fields.parse(response.body), {}
    except AskError as error:
        raise EngineError(f"the server's answer cannot be read: {error}") from error
