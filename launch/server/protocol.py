"""uvicorn's HTTP protocol, with one write an answer and with an end to waiting for a request.

uvicorn writes an answer's head and body one after the other; over a third of the server's time went into the second
trip to the kernel and into waking the client for half an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_SECONDS = 60.0
"""That a connection may take to send its first request, or a further one that it has begun."""


class Protocol(HttpToolsProtocol):
    """Gives its connections a transport that keeps heads back, and hangs up on those that never finish a request."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        self._writer = _OneWriteTransport(transport)
        super().connection_made(self._writer)  # type: ignore[arg-type]
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._wait(False)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._wait()

    def on_message_complete(self) -> None:
        """Have a whole request."""
        self._wait(False)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer, which to HEAD has no body to go out with."""
        self._writer.flush()
        super().on_response_complete()

    def _wait(self, begin: bool = True) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(REQUEST_SECONDS, self.transport.close) if begin else None


class _OneWriteTransport:
    """A transport that writes the head of an answer together with what follows it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or wait for the rest."""
        if data.startswith(b"HTTP/1.") and not self._head:
            self._head = data
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def close(self) -> None:
        """Write what there still is, and hang up."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Write a head that nothing follows."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)
