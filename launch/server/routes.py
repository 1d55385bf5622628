"""What the server answers: one short function a path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from palaestra.agents.vlm import faults, fields, packing, wire, wire_replies
from palaestra.agents.vlm.core import Act, Ask, Embed, Generate, OverloadedError, Reply
from palaestra.launch.server import bodies, metrics, schema
from palaestra.launch.server.app import EVENTS, Answer, App, Call, Route, as_json

Hear: TypeAlias = Callable[[int, str], None]
"""Takes a piece of the text of one of a request's answers."""

_STARTED = int(time.time())


async def chat(app: App, call: Call) -> Answer:
    """Answer a conversation, as it is made if that is wanted."""
    async with _asked(app, call, Generate) as request:
        if request.stream:
            return await _stream(app, call, request)
        return as_json(wire_replies.write_chat(request.model, await _replies(app, request)))


async def embeddings(app: App, call: Call) -> Answer:
    """Embed texts and pictures."""
    async with _asked(app, call, Embed) as request:
        return as_json(wire_replies.write_embeddings(request.model, await _replies(app, request), request.base64))


async def actions(app: App, call: Call) -> Answer:
    """Act on an observation; the answer comes in the form of the question."""
    async with _asked(app, call, Act) as request:
        [reply] = await _replies(app, request)
    if call.content_type != packing.CONTENT_TYPE:
        return as_json(wire_replies.write_action(request.model, reply, None))
    tensors: dict[str, Any] = {}
    body = wire_replies.write_action(request.model, reply, tensors)
    return Answer(packing.pack(body, tensors), content_type=packing.CONTENT_TYPE)


@asynccontextmanager
async def _asked(app: App, call: Call, kind: type[Ask]) -> AsyncIterator[wire.Request]:
    """Read a request; while it is being answered, its pictures count as held."""
    packed = call.content_type == packing.CONTENT_TYPE
    request = await bodies.understand(kind, call.body, packed, app.limits)
    app.model(request.model)
    taken = app.held.take(bodies.size(request))
    try:
        yield request
    finally:
        app.held.give(taken)


async def _replies(app: App, request: wire.Request, hear: Hear | None = None) -> list[Reply]:
    """Ask a model: one ask is refused where the queue is full, the others of a request wait for room."""
    batcher = app.model(request.model)
    if len(request.asks) > 1 and batcher.full:
        raise OverloadedError(f"the queue of {request.model} is full: {batcher.depth} asks wait.")

    def asking(index: int) -> Coroutine[Any, Any, Reply]:
        return batcher.ask_async(
            request.asks[index],
            deadline=request.deadline,
            priority=request.priority,
            wait=len(request.asks) > 1,
            hear=None if hear is None else partial(hear, index),
        )

    if len(request.asks) == 1:
        return [await asking(0)]
    tasks = [asyncio.ensure_future(asking(index)) for index in range(len(request.asks))]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _stream(app: App, call: Call, request: wire.Request) -> Answer:
    """Send pieces of the answers as the model makes them; what fails before the first is an error as any other."""
    events = wire_replies.ChatEvents(request.model, request.stream_usage)
    pieces: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
    answering = asyncio.ensure_future(_replies(app, request, lambda index, text: pieces.put_nowait((index, text))))
    answering.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while (piece := await pieces.get()) is not None:
            await call.write(events.piece(*piece))
        return Answer(events.end(await answering), content_type=EVENTS)
    finally:
        answering.cancel()


async def models(app: App, call: Call) -> Answer:
    """List the models."""
    return as_json({"object": "list", "data": [_model(app, name) for name in app.models]})


async def model(app: App, call: Call) -> Answer:
    """Describe one model."""
    app.model(call.rest)
    return as_json(_model(app, call.rest))


def _model(app: App, name: str) -> dict[str, Any]:
    version = app.models[name].version
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "palaestra", "version": version}


async def weights(app: App, call: Call) -> Answer:
    """Load other weights into a model. Whoever may do so chooses what it says, hence always a token."""
    if app.token is None:
        raise faults.ForbiddenError("weights are only replaced on a server with a token: start it with --token-file.")
    body = fields.parse(call.body)
    fields.known(body, ("model", "path"))
    batcher = app.model(fields.text(body, "model"))
    given = fields.text(body, "path")
    path = Path(given).resolve() if "\0" not in given else None
    if path is None or not any(path.is_relative_to(folder) for folder in app.weights_from):
        allowed = ", ".join(map(str, app.weights_from)) or "none: start the server with --weights-from FOLDER"
        raise faults.ForbiddenError(f"{given[:200]!r} is not in a folder that weights may come from ({allowed}).")
    version = await asyncio.to_thread(batcher.load, path)
    return as_json({"model": body["model"], "version": version})


async def health(app: App, call: Call) -> Answer:
    """Say whether every model takes asks: ok, draining, or failed where one is closed, or hung too often."""
    states = {name: batcher.state for name, batcher in app.models.items()}
    found = set(states.values())
    status = "failed" if "closed" in found else "draining" if "draining" in found else "ok"
    return as_json({"status": status, "models": states}, 200 if status == "ok" else 503)


async def counts(app: App, call: Call) -> Answer:
    """Return the metrics, for Prometheus unless JSON is asked for."""
    if call.headers.get(b"accept", b"").startswith(b"application/json"):
        return as_json(metrics.as_numbers(app.models))
    return Answer(metrics.as_text(app.models, app.held.total), content_type=metrics.CONTENT_TYPE)


async def openapi(app: App, call: Call) -> Answer:
    """Describe the API."""
    return as_json(schema.document(list(app.models)))


ROUTES: dict[str, dict[str, Route]] = {
    wire.PATHS[Generate]: {"POST": Route(chat)},
    wire.PATHS[Embed]: {"POST": Route(embeddings)},
    wire.PATHS[Act]: {"POST": Route(actions)},
    "/v1/models": {"GET": Route(models)},
    "/v1/models/": {"GET": Route(model)},
    "/v1/weights": {"POST": Route(weights)},
    "/health": {"GET": Route(health, public=True)},
    "/metrics": {"GET": Route(counts)},
    "/openapi.json": {"GET": Route(openapi, public=True)},
}
"""Path to method to what answers."""
