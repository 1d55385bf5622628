"""Bodies of requests: bounded each and all together, before they are understood."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from palaestra.agents.vlm import fields, images, packing, wire
from palaestra.agents.vlm.core import Act, Ask, AskError, Embed, Generate, OverloadedError, Picture
from palaestra.agents.vlm.images import PictureTooLargeError

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

SMALL_BODY = 256 << 10
"""Bytes of JSON that the event loop itself parses; more would keep others waiting."""
SMALL_PICTURES = 256 * 256
"""Pixels that the event loop itself decodes."""


class BodyTooLargeError(AskError):
    """The body has more bytes than are read. HTTP 413."""


class GoneError(Exception):
    """The client has hung up: nobody waits for an answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is read of a request at most."""

    body: int = 32 << 20
    """Bytes of one body."""
    bytes: int = 1 << 30
    """Bytes of all requests in progress, their pictures decoded."""
    pixels: int = images.MOST_PIXELS
    """Of all pictures of one request."""


class Held:
    """How many bytes the requests in progress hold."""

    def __init__(self, most: int) -> None:
        self.most, self.total = most, 0

    def take(self, count: int) -> int:
        """Note `count` bytes more, and return them.

        Raises:
            OverloadedError: There would be too many.
        """
        if self.total + count > self.most:
            raise OverloadedError(f"the requests in progress hold {self.total:,} bytes, and may hold {self.most:,}.")
        self.total += count
        return count

    def give(self, count: int) -> None:
        """Note that `count` bytes are held no more."""
        self.total -= count


async def read(receive: Receive, declared: bytes | None, limits: Limits, held: Held) -> bytes:
    """Return a request's body; the caller gives back its length to `held`.

    Raises:
        BodyTooLargeError: By what it declares, or by what has come so far.
        OverloadedError: All requests together hold too much.
        GoneError: The client hung up before its end, or took so long that it was hung up on.
    """
    if declared is not None and int(declared) > limits.body:  # digits, or the HTTP parser would have refused it
        raise BodyTooLargeError(f"the body has {int(declared):,} bytes; at most {limits.body:,} are read.")
    parts: list[bytes] = []
    taken = 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise GoneError
            parts.append(message.get("body", b""))
            taken += held.take(len(parts[-1]))
            if taken > limits.body:
                raise BodyTooLargeError(f"the body has more than the {limits.body:,} bytes that are read.")
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)
    except BaseException:
        held.give(taken)
        raise


async def understand(kind: type[Ask], body: bytes, packed: bool, limits: Limits) -> wire.Request:
    """Return what a body asks for. What takes long, such as large pictures, is done in another thread.

    Raises:
        AskError: It is no sound request.
    """
    if packed or len(body) <= SMALL_BODY:
        try:
            return _understand(kind, body, packed, min(SMALL_PICTURES, limits.pixels))
        except PictureTooLargeError:
            pass
    return await asyncio.to_thread(_understand, kind, body, packed, limits.pixels)


def _understand(kind: type[Ask], body: bytes, packed: bool, pixels: int) -> wire.Request:
    parsed, tensors = packing.unpack(body) if packed else (fields.parse(body), None)
    return wire.read(kind, parsed, wire.Attachments(tensors, pixels))


def size(request: wire.Request) -> int:
    """Return the bytes of a request's pictures and states, each counted once."""
    ask = request.asks[0]
    if isinstance(ask, Generate):
        parts = [part for message in ask.messages for part in message.content]
    elif isinstance(ask, Act):
        return sum(view.nbytes for view in ask.observation.images.values())
    else:
        parts = [each.item for each in request.asks if isinstance(each, Embed)]
    return sum(part.pixels.nbytes for part in parts if isinstance(part, Picture))
