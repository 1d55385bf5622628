"""uvicorn's HTTP protocol with one write an answer: its head and its body go out together.

uvicorn writes them one after the other; over a third of the server's time went into the second trip to the kernel
and into waking the client for half an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """Gives its connections a transport that keeps heads back."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(_OneWriteTransport(transport))  # type: ignore[arg-type]


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
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()
