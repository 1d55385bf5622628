"""A small HTTP/1.1 client on asyncio: connections that are kept, one request at a time on each.

A learner shares its core with it, and httpx took more than twenty times as long a request with 32 on their way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

MOST_BYTES = 256 << 20
"""Of one response."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered."""

    status: int
    """HTTP's."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    """All of it."""


class ProtocolError(ConnectionError):
    """What the server sent is not HTTP/1.1."""


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.open = False
        """Whether the next request may use it."""
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._head: tuple[int, dict[str, str]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request in progress, unless its answer ends where the connection does."""
        self.open = False
        if self._answer is None or self._answer.done():
            return
        if self._head is not None and _length(self._head[1]) is None and not _chunked(self._head[1]):
            self._finish(bytes(self._buffer))
        else:
            self._answer.set_exception(ConnectionResetError(f"the server hung up without a whole answer ({error})"))

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._buffer += data
        if self._answer is None or self._answer.done():
            self.close()  # nobody asked
            return
        try:
            self._parse()
        except (ValueError, IndexError) as error:
            self.close()
            if not self._answer.done():
                self._answer.set_exception(ProtocolError(f"the server does not speak HTTP/1.1: {error}"))

    async def request(self, data: bytes) -> Response:
        """Send a request and return the answer. When cancelled, the connection is closed: its answer is not wanted."""
        assert self._transport is not None
        self._answer, self._head = asyncio.get_running_loop().create_future(), None
        self._transport.write(data)
        try:
            return await self._answer
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self.open = False
        if self._transport is not None:
            self._transport.close()

    def _parse(self) -> None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > 1 << 16:
                    raise ValueError("its headers do not end")
                return None
            self._head = _head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if self._head[0] < 200:  # informational: the answer follows
                self._head = None
                return self._parse()
        status, headers = self._head
        length = 0 if status in (204, 304) else _length(headers)
        if len(self._buffer) > MOST_BYTES or (length or 0) > MOST_BYTES:
            raise ValueError(f"its answer has more than {MOST_BYTES:,} bytes")
        if _chunked(headers):
            body = _dechunk(self._buffer)
            if body is not None:
                self._finish(body)
        elif length is not None and len(self._buffer) >= length:
            body = bytes(self._buffer[:length])
            del self._buffer[:length]
            self._finish(body)
        return None

    def _finish(self, body: bytes) -> None:
        assert self._answer is not None and self._head is not None
        status, headers = self._head
        if headers.get("connection", "").lower() == "close" or self._buffer:
            self.close()
        self._answer.set_result(Response(status, headers, body))


def _head(data: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and headers of an answer."""
    first, *lines = data.decode("latin-1").split("\r\n")
    version, status, *_ = first.split(" ", 2)
    if not version.startswith("HTTP/1."):
        raise ValueError(f"it began with {first[:40]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status), headers


def _length(headers: Mapping[str, str]) -> int | None:
    return int(headers["content-length"]) if "content-length" in headers else None


def _chunked(headers: Mapping[str, str]) -> bool:
    return headers.get("transfer-encoding", "").lower().endswith("chunked")


def _dechunk(buffer: bytearray) -> bytes | None:
    """Take a whole chunked body out of a buffer, or return None where its end is missing."""
    parts: list[bytes] = []
    at = 0
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(bytes(buffer[at:line]).split(b";")[0], 16)
        at = line + 2
        if size == 0:
            end = buffer.find(b"\r\n\r\n", line)
            if end < 0:
                return None
            del buffer[: end + 4]
            return b"".join(parts)
        if len(buffer) < at + size + 2:
            return None
        parts.append(bytes(buffer[at : at + size]))
        at += size + 2


class Http:
    """Connections to one server. All methods are for one event loop."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """Connect lazily.

        Args:
            url: `http://host:port` or `https://host`, with a path under which everything lies if there is one.
            headers: Of every request.

        Raises:
            ValueError: The URL is none of those.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is no server's address; one looks like http://127.0.0.1:8000.")
        if parts.username is not None:
            raise ValueError("a server's address holds no user or password; a token is given apart.")
        self.prefix = parts.path.rstrip("/")
        self._where = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        lines = {"Host": parts.netloc, **headers}
        if any("\r" in value or "\n" in value for value in lines.values()):
            raise ValueError("a header may not hold a line break.")
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")
        self._idle: list[Connection] = []

    async def request(self, method: str, path: str, headers: bytes = b"", body: bytes = b"") -> Response:
        """Send a request and return the answer, whatever its status.

        Where the server has closed a kept connection meanwhile, the request goes out once more on a new one.

        Args:
            method: GET or POST.
            path: Below the URL's own.
            headers: Further ones, as lines that end in CR LF.
            body: Of a POST.

        Raises:
            OSError: The server cannot be reached, or hung up.
        """
        length = b"Content-Length: %d\r\n" % len(body) if method == "POST" else b""
        head = f"{method} {self.prefix}{path} HTTP/1.1\r\n".encode("latin-1")
        data = b"".join((head, self._fixed, headers, length, b"\r\n", body))
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                with suppress(ConnectionResetError):
                    return await self._exchange(connection, data)
        return await self._exchange(await self._connect(), data)

    async def _exchange(self, connection: Connection, data: bytes) -> Response:
        response = await connection.request(data)
        if connection.open:
            self._idle.append(connection)
        return response

    async def _connect(self) -> Connection:
        host, port = self._where
        _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port, ssl=self._ssl)
        return connection

    def close(self) -> None:
        """Hang up on all connections that carry nothing."""
        while self._idle:
            self._idle.pop().close()
