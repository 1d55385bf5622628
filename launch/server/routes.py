"""What the server answers: one short function a path."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from palaestra.agents.vlm import faults, fields, packing, wire, wire_replies
from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import Act, Ask, Embed, Generate, OverloadedError, Reply
from palaestra.launch.server import bodies, metrics, schema
from palaestra.launch.server.app import Answer, App, Call, Route, as_json

_STARTED = int(time.time())


async def chat(app: App, call: Call) -> Answer:
    """Answer a conversation."""
    request, replies = await _ask(app, call, Generate)
    if request.stream:
        events = wire_replies.write_events(request.model, replies, request.stream_usage)
        return Answer(b"".join(events), content_type="text/event-stream; charset=utf-8")
    return as_json(wire_replies.write_chat(request.model, replies))


async def embeddings(app: App, call: Call) -> Answer:
    """Embed texts and pictures."""
    request, replies = await _ask(app, call, Embed)
    return as_json(wire_replies.write_embeddings(request.model, replies, request.base64))


async def actions(app: App, call: Call) -> Answer:
    """Act on an observation; the answer comes in the form of the question."""
    request, replies = await _ask(app, call, Act)
    if call.content_type != packing.CONTENT_TYPE:
        return as_json(wire_replies.write_action(request.model, replies[0], None))
    tensors: dict[str, Any] = {}
    body = wire_replies.write_action(request.model, replies[0], tensors)
    return Answer(packing.pack(body, tensors), content_type=packing.CONTENT_TYPE)


async def _ask(app: App, call: Call, kind: type[Ask]) -> tuple[wire.Request, list[Reply]]:
    """Read a request and have it answered; while that takes, its pictures count as held."""
    packed = call.content_type == packing.CONTENT_TYPE
    request = await bodies.understand(kind, call.body, packed, app.limits)
    batcher = app.model(request.model)
    taken = app.held.take(bodies.size(request))
    try:
        return request, await _replies(batcher, request)
    finally:
        app.held.give(taken)


async def _replies(batcher: Batcher, request: wire.Request) -> list[Reply]:
    """Ask a model: one ask is refused where the queue is full, the others of a request wait for room."""
    first, *others = request.asks
    deadline, priority = request.deadline, request.priority
    if not others:
        return [await batcher.ask_async(first, deadline=deadline, priority=priority, wait=False)]
    if batcher.full:
        raise OverloadedError(f"the queue of {request.model} is full: {batcher.depth} asks wait.")
    asking = [batcher.ask_async(ask, deadline=deadline, priority=priority) for ask in request.asks]
    tasks = [asyncio.ensure_future(each) for each in asking]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


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
