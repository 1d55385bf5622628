"""What adb's streams may be opened for: the shell, programs without a terminal, and files."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import struct

from palaestra.envs.android.wire.adbd import ClosedError, Service, Stream
from palaestra.envs.android.wire.commands import session
from palaestra.envs.android.wire.phone import MOST_BYTES, Phone
from palaestra.envs.android.wire.shell import LONGEST_LINE

_IN, _OUT, _ERROR, _EXIT, _CLOSE = range(5)
_PROMPT = b"palaestra:/ # "
_FOLDER, _FILE = 0o040771, 0o100660
_TIME = 1697384040
_CHUNK = 64 * 1024


def service_of(name: str) -> Service | None:
    """Return what serves a name such as "shell,v2:ls", None where nothing does."""
    kind = re.split("[:,]", name, maxsplit=1)[0]
    services: dict[str, Service] = {
        "shell": _shell, "exec": _plain, "sync": _sync, "root": _root, "remount": _root, "reboot": _reboot,
    }  # fmt: skip
    return services.get(kind)


async def _root(stream: Stream, name: str) -> None:
    await stream.write(b"adbd is already running as root\n")


async def _reboot(stream: Stream, name: str) -> None:
    stream.phone.reboot()
    stream.hang_up()


async def _shell(stream: Stream, name: str) -> None:
    head, _, line = name.partition(":")
    if "v2" not in head.split(","):
        await _plain(stream, name)
        return

    async def frame(kind: int, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK) if kind != _EXIT else (0,):
            part = data[start : start + _CHUNK]
            await stream.write(struct.pack("<BI", kind, len(part)) + part)

    if not line:
        await _talk(stream, frame)
        return
    if await _follow(stream, line, lambda data: frame(_OUT, data)):
        return
    stdin = await _stdin(stream) if _wants_input(line) else b""
    answer = session(stream.phone).run(line, stdin)
    await frame(_OUT, answer.out)
    await frame(_ERROR, answer.error)
    await frame(_EXIT, bytes([answer.code & 255]))


def _wants_input(line: str) -> bool:
    """Whether a line's first program reads its input."""
    return re.fullmatch(r"\s*(cat|sh|sqlite3 \S+|cat\s*>\s*\S+)\s*", line) is not None


async def _stdin(stream: Stream) -> bytes:
    """Return all that comes until the client closes its input."""
    data = b""
    while len(data) < MOST_BYTES:
        kind, length = struct.unpack("<BI", await stream.read(5))
        part = await stream.read(min(length, MOST_BYTES))
        if kind == _CLOSE:
            break
        data += part if kind == _IN else b""
    return data


async def _talk(stream: Stream, frame: object) -> None:
    """Be an interactive shell, line by line."""
    assert callable(frame)
    shell, waiting = session(stream.phone), b""
    await frame(_OUT, _PROMPT)
    while True:
        kind, length = struct.unpack("<BI", await stream.read(5))
        data = await stream.read(min(length, MOST_BYTES))
        waiting += data if kind == _IN else b""
        while b"\n" in waiting:
            line, _, waiting = waiting.partition(b"\n")
            if line.strip() == b"exit":
                await frame(_EXIT, b"\0")
                return
            answer = shell.run(line.decode(errors="replace"))
            await frame(_OUT, answer.out + answer.error + _PROMPT)
        if kind == _CLOSE or len(waiting) > LONGEST_LINE:
            await frame(_EXIT, bytes([shell.code & 255]))
            return


async def _plain(stream: Stream, name: str) -> None:
    line = name.partition(":")[2]
    if not line or await _follow(stream, line, stream.write):
        return
    answer = session(stream.phone).run(line)
    await stream.write(answer.out + answer.error)


async def _follow(stream: Stream, line: str, write: object) -> bool:
    """Where a line is a logcat that does not end, send log lines until the client goes. Returns whether it was."""
    assert callable(write)
    match = re.search(r"(?:^|;|exec)\s*logcat\b(.*)$", line)
    if match is None or re.search(r"\s-[dcgGSt]\b|\s-c\b", match[1]) or "|" in line:
        return False
    log, seen = stream.phone.device.state.log, 0
    tags = re.findall(r"(\w+):[VDIWEF]\b", match[1])
    while not stream.closed:
        log = stream.phone.device.state.log
        seen = min(seen, len(log))
        fresh = [text for text in log[seen:] if not tags or any(f" {tag}: " in text for tag in tags)]
        seen = len(log)
        if fresh:
            await write("".join(f"{text}\n" for text in fresh).encode())
        await asyncio.sleep(0.05)
    return True


# Files: adb push, pull and ls, in the first version of the protocol.


async def _sync(stream: Stream, name: str) -> None:
    while True:
        kind, length = struct.unpack("<4sI", await stream.read(8))
        if kind == b"QUIT" or length > LONGEST_LINE:
            return
        path = (await stream.read(length)).decode(errors="replace")
        if kind == b"STAT":
            await stream.write(b"STAT" + _stat(stream.phone, path))
        elif kind == b"LIST":
            await _list(stream, path)
        elif kind == b"RECV":
            await _send_file(stream, path)
        elif kind == b"SEND":
            await _take_file(stream, path.rpartition(",")[0] or path)
        else:
            await _fail(stream, f"unknown request {kind!r}")
            return


def _stat(phone: Phone, path: str) -> bytes:
    if phone.is_file(path):
        return struct.pack("<III", _FILE, len(phone.read(path)), _TIME)
    return struct.pack("<III", _FOLDER, 4096, _TIME) if phone.is_folder(path) else bytes(12)


async def _fail(stream: Stream, why: str) -> None:
    data = why.encode()
    await stream.write(b"FAIL" + struct.pack("<I", len(data)) + data)


async def _list(stream: Stream, path: str) -> None:
    for entry in stream.phone.entries(path):
        data = entry.encode()
        await stream.write(b"DENT" + _stat(stream.phone, f"{path}/{entry}") + struct.pack("<I", len(data)) + data)
    await stream.write(b"DONE" + bytes(16))


async def _send_file(stream: Stream, path: str) -> None:
    try:
        data = stream.phone.read(path)
    except OSError:
        await _fail(stream, f"{path}: No such file or directory")
        return
    for start in range(0, len(data), _CHUNK):
        part = data[start : start + _CHUNK]
        await stream.write(b"DATA" + struct.pack("<I", len(part)) + part)
    await stream.write(b"DONE" + bytes(4))


async def _take_file(stream: Stream, path: str) -> None:
    parts, total = [], 0
    while True:
        kind, length = struct.unpack("<4sI", await stream.read(8))
        if kind == b"DONE":
            break
        if kind != b"DATA" or length > _CHUNK:
            raise ClosedError
        part = await stream.read(length)
        total += length
        if total <= MOST_BYTES:
            parts.append(part)
    try:
        if total > MOST_BYTES:
            raise OSError(f"no space left on device: {path} has {total} bytes")
        stream.phone.write(path, b"".join(parts))
    except (OSError, sqlite3.Error) as error:
        await _fail(stream, str(error))
        return
    await stream.write(b"OKAY" + bytes(4))
