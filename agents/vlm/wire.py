"""Asks as OpenAI's JSON and back; one place for the server, the client and the engine that forwards.

Beyond OpenAI's fields: `guided_choice` (vLLM's, a list of allowed answers), `priority` (higher is more urgent),
`deadline` (seconds), pictures in `input` of an embedding, and `observation` for trained policies. A picture's URL may
be `tensor:NAME` where the body is a safetensors file (see `packing.py`). A field that nothing reads is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.vlm import fields, images, packing
from palaestra.agents.vlm.core import Act, Ask, AskError, Embed, Generate, Message, Picture, Role
from palaestra.agents.vlm.fields import FieldError
from palaestra.envs.core import Observation

PATHS: dict[type[Ask], str] = {Generate: "/v1/chat/completions", Embed: "/v1/embeddings", Act: "/v1/actions"}
"""Where each kind of ask is sent."""
MOST = {"n": 128, "max_tokens": 1 << 20, "stop": 64, "guided_choice": 4096, "input": 2048, "deadline": 86400}
"""The most of each that is read in one request."""

_COMMON = frozenset({"model", "priority", "deadline", "user"})
_CHAT = _COMMON | {"messages", "stream", "stream_options", "n", "temperature", "top_p", "seed", "stop", "logprobs"}
_CHAT |= {"max_tokens", "max_completion_tokens", "guided_choice", "structured_outputs"}
_CHAT |= {"store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}  # change no answer
_NEUTRAL: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "top_logprobs"), (None, 0)),
    **dict.fromkeys(("tools", "functions"), (None, [])),
    **dict.fromkeys(("tool_choice", "function_call"), (None, "none", "auto")),
    **dict.fromkeys(("audio", "prediction", "reasoning_effort", "verbosity", "parallel_tool_calls"), (None,)),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "response_format": (None, {"type": "text"}),
}
"""OpenAI's fields that are not supported, with the values at which they mean nothing."""
_CHAT_AND_NEUTRAL = _CHAT | _NEUTRAL.keys()
_DEFAULTS = Generate(())
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a body asks for."""

    model: str
    """Which model."""
    asks: tuple[Ask, ...]
    """Several where n > 1, or where several items are to be embedded."""
    deadline: float | None = None
    """Seconds from its arrival by which the model must have begun."""
    priority: int = 0
    """Higher is more urgent."""
    stream: bool = False
    """Whether the answer comes as server-sent events."""
    stream_usage: bool = False
    """Whether the last of them counts tokens."""
    base64: bool = False
    """Whether vectors are float32 bytes in base64."""


class Attachments:
    """The tensors that came with a body, and how many more pixels may be decoded for it."""

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, most_pixels: int = images.MOST_PIXELS) -> None:
        self.tensors = tensors or {}
        self.pixels_left = most_pixels

    def tensor(self, url: str) -> Tensor:
        """Return the tensor that `tensor:NAME` stands for."""
        name = url.removeprefix(packing.PREFIX)
        if name not in self.tensors:
            raise AskError(f"no tensor {name[:80]!r} came with the body; there are {sorted(self.tensors)}.")
        return self.tensors[name]

    def picture(self, url: str) -> Picture:
        """Return the picture that a data URL holds, or `tensor:NAME` stands for."""
        if url.startswith(packing.PREFIX):
            return Picture(self.tensor(url))
        picture = images.from_url(url, self.pixels_left)
        self.pixels_left -= picture.pixels.shape[0] * picture.pixels.shape[1]
        return picture


def read(kind: type[Ask], body: dict[str, Any], attached: Attachments) -> Request:
    """Read a request for one kind of ask.

    Raises:
        AskError: A field is wrong.
    """
    return {Generate: _read_chat, Embed: _read_embeddings, Act: _read_act}[kind](body, attached)


def _common(body: dict[str, Any]) -> tuple[str, float | None, int]:
    deadline = fields.number(body, "deadline", -1, 0, MOST["deadline"])
    return fields.text(body, "model"), None if deadline < 0 else deadline, fields.integer(body, "priority", 0, -10, 10)


def _read_chat(body: dict[str, Any], attached: Attachments) -> Request:
    for name in body.keys() - _CHAT:
        if name in _NEUTRAL and body[name] not in _NEUTRAL[name]:
            raise FieldError(name, f"is not supported; leave it out, or give {_NEUTRAL[name][-1]!r}.")
    fields.known(body, _CHAT_AND_NEUTRAL)
    model, deadline, priority = _common(body)
    count = fields.integer(body, "n", 1, 1, MOST["n"])
    seed = None if body.get("seed") is None else fields.integer(body, "seed", 0, 0, (1 << 63) - 1 - count)
    limit = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    structured = fields.mapping(body, "structured_outputs")
    fields.known(structured, ("choice",), "structured_outputs.")
    ask = Generate(
        _messages(body, attached),
        max_tokens=fields.integer(body, limit, _DEFAULTS.max_tokens, 1, MOST["max_tokens"]),
        temperature=fields.number(body, "temperature", 1.0, 0.0, 100.0),
        top_p=fields.number(body, "top_p", 1.0, 0.0, 1.0),
        seed=seed,
        stop=fields.texts(body, "stop", MOST["stop"]),
        logprobs=fields.boolean(body, "logprobs"),
        choices=fields.texts(body, "guided_choice", MOST["guided_choice"])
        or fields.texts(structured, "choice", MOST["guided_choice"]),
    )
    asks = (ask,) if count == 1 else tuple(_another(ask, index) for index in range(count))
    usage = fields.boolean(fields.mapping(body, "stream_options"), "include_usage", "stream_options.")
    return Request(model, asks, deadline, priority, fields.boolean(body, "stream"), usage)


def _another(ask: Generate, index: int) -> Generate:
    """Return an ask for one more answer: with a seed, each has its own, the first the one that was given."""
    return ask if ask.seed is None else replace(ask, seed=ask.seed + index)


def _messages(body: dict[str, Any], attached: Attachments) -> tuple[Message, ...]:
    items = body.get("messages")
    if not isinstance(items, list) or not items:
        raise FieldError("messages", f"should be a list of at least one message, but is {fields.kind(items)}.")
    messages = []
    for index, item in enumerate(items):
        where = f"messages[{index}]"
        if not isinstance(item, dict):
            raise FieldError(where, f"should be an object, but is {fields.kind(item)}.")
        fields.known(item, ("role", "content", "name", "refusal"), where + ".")
        role = fields.text(item, "role", where=where + ".")
        if role not in _ROLES:
            raise FieldError(f"{where}.role", f"is {role[:40]!r}; the roles are {', '.join(_ROLES)}.")
        messages.append(Message(_ROLES[role], _content(item.get("content"), where + ".content", attached)))
    return tuple(messages)


def _content(value: object, where: str, attached: Attachments) -> tuple[str | Picture, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise FieldError(where, f"should be a string or a list of parts, but is {fields.kind(value)}.")
    return tuple(_part(part, f"{where}[{index}]", attached) for index, part in enumerate(value))


def _part(part: object, where: str, attached: Attachments) -> str | Picture:
    """Read a text, or a picture in one of the forms in which OpenAI's API gives them."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise FieldError(where, f"should be an object or a string, but is {fields.kind(part)}.")
    fields.known(part, ("type", "text", "image_url"), where + ".")
    what = fields.text(part, "type", "image_url" if "image_url" in part else "text", where + ".")
    if what == "text":
        return fields.text(part, "text", where=where + ".")
    if what != "image_url":
        raise FieldError(where + ".type", f"is {what[:40]!r}; what is read is 'text' and 'image_url'.")
    image = part.get("image_url")
    url = fields.text(image, "url", where=f"{where}.image_url.") if isinstance(image, dict) else image
    if not isinstance(url, str):
        problem = f"should be {{'url': 'data:image/png;base64,…'}}, but is {fields.kind(url)}."
        raise FieldError(f"{where}.image_url", problem)
    return attached.picture(url)


def _read_embeddings(body: dict[str, Any], attached: Attachments) -> Request:
    fields.known(body, _COMMON | {"input", "encoding_format", "dimensions"})
    model, deadline, priority = _common(body)
    if body.get("dimensions") is not None:
        raise FieldError("dimensions", "is not supported: vectors come in the model's own length. Leave it out.")
    form = fields.text(body, "encoding_format", "float")
    if form not in ("float", "base64"):
        raise FieldError("encoding_format", f"is {form[:40]!r}; it is 'float' or 'base64'.")
    given = body.get("input")
    items = given if isinstance(given, list) else [given]
    if not items or len(items) > MOST["input"]:
        raise FieldError("input", f"holds {len(items)} items; 1 to {MOST['input']} are read in one request.")
    asks = tuple(Embed(_part(item, f"input[{index}]", attached)) for index, item in enumerate(items))
    return Request(model, asks, deadline, priority, base64=form == "base64")


def _read_act(body: dict[str, Any], attached: Attachments) -> Request:
    fields.known(body, _COMMON | {"observation"})
    model, deadline, priority = _common(body)
    seen = fields.mapping(body, "observation")
    fields.known(seen, ("state", "images", "text"), "observation.")
    views = {}
    for name in (cameras := fields.mapping(seen, "images", "observation.")):
        where = f"observation.images.{name[:80]}"
        url = fields.text(cameras, name, where="observation.images.")
        pixels = attached.tensor(url) if url.startswith(packing.PREFIX) else attached.picture(url).pixels
        if pixels.dtype != torch.uint8:
            raise FieldError(where, f"should be uint8, but is {pixels.dtype}.")
        views[name] = _one_world(pixels, 3, where)
    state = None if seen.get("state") is None else _state(seen["state"], attached)
    words = () if seen.get("text") is None else (fields.text(seen, "text", where="observation."),)
    if not views and state is None and not words:
        raise FieldError("observation", "is empty: give state, images or text.")
    return Request(model, (Act(Observation(views, state, words)),), deadline, priority)


def _state(value: object, attached: Attachments) -> Tensor:
    where = "observation.state"
    if isinstance(value, str):
        state = attached.tensor(value)
    elif isinstance(value, list) and value and all(type(x) in (int, float) and abs(x) < 3e38 for x in value):
        state = torch.tensor(value, dtype=torch.float32)
    else:
        raise FieldError(where, "should be a list of numbers that fit into float32, or tensor:NAME.")
    if state.dtype != torch.float32 or not bool(state.isfinite().all()):
        raise FieldError(where, f"should be finite float32, but is {state.dtype} or holds NaN or infinity.")
    return _one_world(state, 1, where)


def _one_world(tensor: Tensor, dimensions: int, where: str) -> Tensor:
    """Return a tensor with a leading dimension of one world."""
    if tensor.dim() == dimensions:
        return tensor.unsqueeze(0)
    if tensor.dim() != dimensions + 1 or tensor.shape[0] != 1:
        raise FieldError(where, f"has shape {list(tensor.shape)}; one world's has {dimensions} dimensions.")
    return tensor


def write(
    model: str, ask: Ask, tensors: dict[str, Tensor] | None, deadline: float | None = None, priority: int = 0
) -> dict[str, Any]:
    """Return the body of a request for one ask.

    Args:
        model: Which model.
        ask: The ask.
        tensors: Filled with what is too large for JSON, for `packing.pack`; None to write it into the JSON.
        deadline: Seconds by which the model must have begun.
        priority: Higher is more urgent.
    """

    def url(picture: Picture) -> str:
        return images.to_url(picture) if tensors is None else _attach(tensors, picture.pixels)

    body: dict[str, Any] = {"model": model}
    if isinstance(ask, Generate):
        body |= _write_chat(ask, url)
    elif isinstance(ask, Embed):
        body |= {"input": [_write_part(ask.item, url)] if isinstance(ask.item, Picture) else ask.item}
        body["encoding_format"] = "base64"
    else:
        body["observation"] = _write_observation(ask.observation, tensors)
    if deadline is not None:
        body["deadline"] = deadline
    if priority:
        body["priority"] = priority
    return body


def _attach(tensors: dict[str, Tensor], tensor: Tensor) -> str:
    name = str(len(tensors))
    tensors[name] = tensor
    return packing.PREFIX + name


def _write_part(part: str | Picture, url: Callable[[Picture], str]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": url(part)}}


def _write_chat(ask: Generate, url: Callable[[Picture], str]) -> dict[str, Any]:
    messages = []
    for message in ask.messages:
        alone = len(message.content) == 1 and isinstance(message.content[0], str)
        content = message.content[0] if alone else [_write_part(part, url) for part in message.content]
        messages.append({"role": message.role, "content": content})
    body: dict[str, Any] = {"messages": messages, "max_tokens": ask.max_tokens, "temperature": ask.temperature}
    if ask.top_p != 1:
        body["top_p"] = ask.top_p
    if ask.seed is not None:
        body["seed"] = ask.seed
    if ask.stop:
        body["stop"] = list(ask.stop)
    if ask.logprobs:
        body["logprobs"] = True
    if ask.choices:  # by its old and its new name in vLLM
        body |= {"guided_choice": list(ask.choices), "structured_outputs": {"choice": list(ask.choices)}}
    return body


def _write_observation(seen: Observation, tensors: dict[str, Tensor] | None) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if seen.state is not None:
        if not bool(seen.state.isfinite().all()):
            raise FieldError("observation.state", "holds NaN or infinity, which no policy can act on.")
        body["state"] = seen.state.flatten().tolist() if tensors is None else _attach(tensors, seen.state)
    if seen.images:
        body["images"] = {
            name: images.to_url(Picture(view[0])) if tensors is None else _attach(tensors, view)
            for name, view in seen.images.items()
        }
    if seen.text:
        body["text"] = seen.text[0]
    return body
