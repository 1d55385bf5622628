"""adb's wire protocol, the phone's side: a server that Debian's adb, adbutils and adb-shell take for a phone.

A message is 24 bytes, six little-endian words (command, two arguments, length, checksum, command inverted), and its
payload. One connection carries many streams; each has one WRTE under way at most, until its OKAY. No TLS, no keys: the
server listens on loopback alone.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from palaestra.envs.android.wire.phone import Phone

CNXN, OPEN, OKAY, WRTE, CLSE, AUTH, STLS = (int.from_bytes(name, "little") for name in (
    b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE", b"AUTH", b"STLS"))  # fmt: skip
VERSION = 0x01000001
LARGEST = 2**20
"""Bytes of a payload."""
MOST_STREAMS = 64
"""Open at once on a connection."""
MOST_WAITING = 4
"""Payloads of a stream that nobody has read yet. One is adb's rule: the next comes after its OKAY."""
BANNER = (
    b"device::ro.product.name=palaestra;ro.product.model=Palaestra 1;ro.product.device=palaestra;features=shell_v2,cmd"
)
_HEADER = struct.Struct("<6I")

Service = Callable[["Stream", str], Awaitable[None]]


class ClosedError(Exception):
    """The other side closed the stream."""


def message(command: int, first: int, second: int, payload: bytes = b"", summed: bool = True) -> bytes:
    """Return a message's bytes. The sum of the payload's bytes is what clients older than `VERSION` want."""
    total = sum(payload) & 0xFFFFFFFF if summed else 0
    return _HEADER.pack(command, first, second, len(payload), total, command ^ 0xFFFFFFFF) + payload


class Stream:
    """One service's two-way flow of bytes."""

    def __init__(self, connection: Connection, here: int, there: int) -> None:
        self._connection, self.here, self.there = connection, here, there
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._rest = b""
        self._ready = asyncio.Event()
        self.closed = False

    @property
    def phone(self) -> Phone:
        """Whose."""
        return self._connection.phone

    async def read(self, count: int) -> bytes:
        """Return exactly so many bytes.

        Raises:
            ClosedError: Where the other side closes before.
        """
        while len(self._rest) < count:
            self._rest += await self.receive()
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    async def receive(self) -> bytes:
        """Return what comes next, and tell the other side to go on.

        Raises:
            ClosedError: Where nothing comes any more.
        """
        data = None if self.closed and self._arrived.empty() else await self._arrived.get()
        if data is None:
            raise ClosedError
        await self._connection.send(OKAY, self.here, self.there)
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait until the other side has taken them.

        Raises:
            ClosedError: Where it takes no more.
        """
        for start in range(0, len(data), self._connection.largest):
            if self.closed:
                raise ClosedError
            self._ready.clear()
            await self._connection.send(WRTE, self.here, self.there, data[start : start + self._connection.largest])
            await self._ready.wait()
            if self.closed:
                raise ClosedError

    def hang_up(self) -> None:
        """End the whole connection, as a phone that goes down."""
        self._connection.hang_up()

    def heard(self, command: int, data: bytes) -> None:
        """Take a message that is for this stream; a client that does not wait for its turn is heard no more."""
        if command == WRTE and self._arrived.qsize() < MOST_WAITING:
            self._arrived.put_nowait(data)
        elif command == OKAY:
            self._ready.set()
        else:
            self.closed = True
            self._arrived.put_nowait(None)
            self._ready.set()


class Connection:
    """One client."""

    def __init__(self, phone: Phone, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.phone = phone
        self.largest = 4096
        self._summed = True
        self._reader, self._writer = reader, writer
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    async def send(self, command: int, first: int, second: int, payload: bytes = b"") -> None:
        """Send a message."""
        self._writer.write(message(command, first, second, payload, self._summed))
        await self._writer.drain()

    def hang_up(self) -> None:
        """End the connection from our side."""
        self._writer.close()

    async def run(self) -> None:
        """Answer until the client goes, or says what is no adb."""
        try:
            while await self._one():
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for stream in self._streams.values():
                stream.heard(CLSE, b"")
            for task in self._tasks:
                task.cancel()
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _one(self) -> bool:
        """Take one message; returns whether it was one."""
        command, first, second, length, _, inverted = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
        if inverted != command ^ 0xFFFFFFFF or length > LARGEST:
            return False
        payload = await self._reader.readexactly(length)
        if command == CNXN:
            self.largest = max(64, min(LARGEST, second))
            self._summed = first < VERSION
            await self.send(CNXN, VERSION, LARGEST, BANNER)
        elif command == OPEN:
            await self._open(first, payload.rstrip(b"\0").decode(errors="replace"))
        elif command in (OKAY, WRTE, CLSE):
            stream = self._streams.get(second)
            if stream is not None:
                stream.heard(command, payload)
            elif command == WRTE:
                await self.send(CLSE, 0, first)
        return bool(command != STLS)

    async def _open(self, there: int, name: str) -> None:
        from palaestra.envs.android.wire.services import service_of

        service = service_of(name)
        if service is None or len(self._streams) >= MOST_STREAMS:
            await self.send(CLSE, 0, there)
            return
        self._count += 1
        stream = self._streams[self._count] = Stream(self, self._count, there)
        await self.send(OKAY, stream.here, there)
        task = asyncio.create_task(self._serve(stream, service, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream, service: Service, name: str) -> None:
        with suppress(ClosedError, ConnectionError):
            await service(stream, name)
        self._streams.pop(stream.here, None)
        with suppress(ConnectionError):
            await self.send(CLSE, stream.here, stream.there)


async def serve_adb(phone: Phone, port: int = 5555) -> asyncio.Server:
    """Serve a phone on loopback, and return the server. On 5555, adb lists it as `emulator-5554` by itself.

    Raises:
        OSError: Where the port is taken.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(phone, reader, writer).run()

    return await asyncio.start_server(answer, "127.0.0.1", port)


