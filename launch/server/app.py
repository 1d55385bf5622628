"""The ASGI application: who may ask what, and every error as OpenAI's clients expect it."""

from __future__ import annotations

import asyncio
import difflib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from palaestra.agents.vlm import faults, packing
from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.faults import TokenError
from palaestra.launch.server import bodies
from palaestra.launch.server.bodies import BodyTooLargeError, GoneError, Held, Limits, Receive

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
SERVER = "palaestra"
"""How the server calls itself: clients that read it send tensors as they are."""
PATIENCE = 0.1
"""Seconds that an answer may take before anyone looks whether its client is still there: looking costs a task."""
logger = logging.getLogger(__name__)
_encode = json.JSONEncoder(allow_nan=False).encode  # made once: `json.dumps` with options makes one a call


@dataclass(slots=True)
class Call:
    """One HTTP request."""

    method: str
    """GET or POST."""
    path: str
    """Without the query."""
    headers: dict[bytes, bytes]
    """Names in lower case."""
    receive: Receive
    """Gives the body in parts."""
    send: Send
    """Takes the answer."""
    query: bytes = b""
    """What follows the path's question mark, as it came."""
    body: bytes = b""
    """Of a POST."""
    rest: str = ""
    """What of the path follows the route's own, for routes that end in a slash."""

    begun: bool = False
    """Whether a part of the answer is on its way."""

    @property
    def content_type(self) -> str:
        """The body's type, without parameters."""
        return self.headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")

    async def write(self, part: bytes) -> None:
        """Send a part of an answer that is a stream of events; the handler's answer ends it."""
        if not self.begun:
            self.begun = True
            await self._head(200, EVENTS, [])
        await self.send({"type": "http.response.body", "body": part, "more_body": True})

    async def finish(self, answer: Answer) -> None:
        """Send an answer, or the end of one that is on its way."""
        if not self.begun:
            length = (b"content-length", b"%d" % len(answer.body))
            more = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
            await self._head(answer.status, answer.content_type, [length, *more])
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else answer.body})

    async def _head(self, status: int, content_type: str, more: list[tuple[bytes, bytes]]) -> None:
        headers = [(b"content-type", content_type.encode()), (b"server", SERVER.encode()), *more]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})


@dataclass(slots=True)
class Answer:
    """What goes back."""

    body: bytes
    """All of it."""
    status: int = 200
    """HTTP's."""
    content_type: str = JSON
    """Of the body."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further ones."""


@dataclass(frozen=True, slots=True)
class Route:
    """What answers one path and method."""

    handler: Callable[[App, Call], Coroutine[Any, Any, Answer]]
    """Is given the request, the body of a POST read."""
    public: bool = False
    """Whether it answers without a token."""


class HttpError(Exception):
    """A request that is wrong as HTTP, whatever it asks."""

    def __init__(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


def as_json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Return an answer in JSON."""
    return Answer(_encode(value).encode(), status, JSON, headers or {})


class App:
    """Serves some models."""

    def __init__(
        self,
        models: Mapping[str, Batcher],
        routes: Mapping[str, Mapping[str, Route]],
        *,
        token: str | None = None,
        weights_from: tuple[Path, ...] = (),
        limits: Limits | None = None,
        drain_seconds: float = 30.0,
    ) -> None:
        """Serve.

        Args:
            models: By name.
            routes: Path to method to what answers; a path that ends in a slash has more after it.
            token: What clients must send as `Authorization: Bearer …`; None to let everybody ask.
            weights_from: Folders from which new weights may be loaded.
            limits: Of what is read.
            drain_seconds: That asks in progress have when the server ends.
        """
        self.models, self.limits, self.drain_seconds = dict(models), limits or Limits(), drain_seconds
        self.weights_from = tuple(folder.resolve() for folder in weights_from)
        self.held = Held(self.limits.bytes)
        self.token = None if token is None else token.encode()
        self._routes = dict(routes)

    def model(self, name: str) -> Batcher:
        """Return the batcher of a model.

        Raises:
            UnknownModelError: With the nearest names.
        """
        batcher = self.models.get(name)
        if batcher is None:
            raise faults.unknown_model(name, self.models)
        return batcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the start and end of the server (ASGI 3)."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        query = scope.get("query_string", b"")
        call = Call(scope["method"], scope["path"], dict(scope["headers"]), receive, send, query)
        try:
            answer = await self._serve(call)
        except GoneError:
            return None
        except Exception as error:
            answer = _failure(error)
            if call.begun:
                answer.body = b"data: " + answer.body + b"\n\n"  # OpenAI's clients raise it
        await call.finish(answer)
        return None

    async def _serve(self, call: Call) -> Answer:
        route = self._route(call)
        if not route.public:
            self._check_token(call)
        if call.method != "POST":
            return await route.handler(self, call)
        call.body = await bodies.read(call.receive, call.headers.get(b"content-length"), self.limits, self.held)
        try:
            return await _while_there(call, route.handler(self, call))
        finally:
            self.held.give(len(call.body))

    def _route(self, call: Call) -> Route:
        """Return what answers a request."""
        methods = self._routes.get(call.path)
        if methods is None:
            name = next((path for path in self._routes if path.endswith("/") and call.path.startswith(path)), None)
            if name is None:
                near = difflib.get_close_matches(call.path, self._routes, 1, 0.5)
                hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(self._routes)}."
                raise HttpError(404, f"nothing is at {call.path[:80]!r}. {hint}", "unknown_path")
            call.rest, methods = call.path.removeprefix(name), self._routes[name]
        route = methods.get("GET" if call.method == "HEAD" else call.method)
        if route is None:
            allowed = ", ".join(methods)
            raise HttpError(405, f"{call.method} is not for {call.path}: use {allowed}.", "method", {"allow": allowed})
        if call.method == "POST" and call.content_type not in (JSON, packing.CONTENT_TYPE):
            problem = f"the body's Content-Type is {call.content_type[:80]!r}; send {JSON}."
            raise HttpError(415, problem, "content_type")
        return route

    def _check_token(self, call: Call) -> None:
        """Refuse who does not bring the token, in a time that tells nothing about it."""
        if self.token is None:
            return
        scheme, _, given = call.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token):
            what = "a wrong token" if given else "no token"
            raise TokenError(f"{what} came with the request: send the header 'Authorization: Bearer TOKEN'.")

    async def _live(self, receive: Receive, send: Send) -> None:
        """Begin; at the end let all models finish what they are at."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        drains = [asyncio.to_thread(batcher.drain, self.drain_seconds) for batcher in self.models.values()]
        await asyncio.gather(*drains)
        for batcher in self.models.values():
            batcher.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _while_there(call: Call, answering: Coroutine[Any, Any, Answer]) -> Answer:
    """Answer, unless the client hangs up first: then its asks are taken back.

    Raises:
        GoneError: It did.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    watchers: list[asyncio.Task[None]] = []

    async def watch() -> None:
        while (await call.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    timer = loop.call_later(PATIENCE, lambda: watchers.append(loop.create_task(watch())))
    try:
        return await answering
    except asyncio.CancelledError:
        if any(watcher.done() for watcher in watchers):
            raise GoneError from None
        raise
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()


def _failure(error: Exception) -> Answer:
    """Return what tells a client of an error."""
    if isinstance(error, HttpError):
        return as_json(faults.body(str(error), "invalid_request_error", error.code), error.status, error.headers)
    status, body, headers = faults.write(error)
    if isinstance(error, BodyTooLargeError):
        status = 413
    elif status == 500:
        logger.error("a request failed", exc_info=error)
    elif status == 401:
        headers["www-authenticate"] = "Bearer"
    return as_json(body, status, headers)
