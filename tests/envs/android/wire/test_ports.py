"""Rubbish, crowds and clients that vanish, on every port of a served phone."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from palaestra.envs.android.device import Device
from palaestra.envs.android.wire.adbd import CNXN, OPEN, WRTE, message
from palaestra.envs.android.wire.console import LONGEST
from palaestra.envs.android.wire.page import Page, serve_page
from palaestra.envs.android.wire.phone import Phone
from palaestra.envs.android.wire.serve import serve

pytest.importorskip("android_env")
PORTS = ("adb", "console", "controller", "page")


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    loop = asyncio.new_event_loop()
    phone = Phone(Device(0), 256, 512)
    serving = loop.run_until_complete(serve(phone, 0, 0))
    page = loop.run_until_complete(serve_page(Page(phone), 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield {"adb": serving.adb_port, "console": serving.console_port, "controller": serving.grpc_port,
           "page": int(page.sockets[0].getsockname()[1])}  # fmt: skip

    async def end() -> None:
        page.close()
        await serving.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).result(9)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(9)


def plugged(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=9)


def said(plug: socket.socket, wanted: bytes) -> bytes:
    """Return what comes until the wanted bytes, or the end."""
    data = b""
    while wanted not in data and (part := plug.recv(65536)):
        data += part
    return data


def adb_answers(port: int) -> bool:
    with plugged(port) as plug:
        plug.sendall(message(CNXN, 0x01000001, 2**20, b"host::") + message(OPEN, 1, 0, b"exec:echo alive\0"))
        return b"alive" in said(plug, b"alive\n")


def console_answers(port: int) -> bool:
    with plugged(port) as plug:
        plug.sendall(b"ping\nquit\n")
        return b"I am alive!\r\nOK" in said(plug, b"nothing")


def controller_answers(port: int) -> bool:
    import grpc
    from android_env.proto import emulator_controller_pb2_grpc
    from google.protobuf import empty_pb2

    with grpc.secure_channel(f"localhost:{port}", grpc.local_channel_credentials()) as channel:
        controller = emulator_controller_pb2_grpc.EmulatorControllerStub(channel)
        return bool(controller.getStatus(empty_pb2.Empty(), timeout=9).booted)


def page_answers(port: int) -> bool:
    with plugged(port) as plug:
        plug.sendall(b"GET /state?seen=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return "version" in json.loads(said(plug, b"nothing").partition(b"\r\n\r\n")[2])


ANSWERS: dict[str, Callable[[int], bool]] = dict(
    zip(PORTS, (adb_answers, console_answers, controller_answers, page_answers), strict=True)
)


@pytest.mark.parametrize("name", PORTS)
def test_rubbish_harms_nobody(ports: dict[str, int], name: str) -> None:
    rubbish = random.Random(2)
    for size in (1, 24, 4000, 100_000):
        for text in (rubbish.randbytes(size), b"\n" * size, b"A" * size):
            with plugged(ports[name]) as plug, suppress(ConnectionError):
                plug.sendall(text)
                with suppress(OSError):  # who has hung up already is not connected
                    plug.shutdown(socket.SHUT_WR)
                said(plug, b"nothing")
    assert ANSWERS[name](ports[name])


@pytest.mark.parametrize("name", PORTS)
def test_clients_that_vanish_harm_nobody(ports: dict[str, int], name: str) -> None:
    """They go in the middle of a message, with a reset instead of a goodbye."""
    halves = {
        "adb": message(CNXN, 0x01000001, 2**20, b"host::") + message(OPEN, 1, 0, b"shell,v2:cat\0")[:30],
        "console": b"avd snapshot sa",
        "controller": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12",
        "page": b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{",
    }
    for _ in range(20):
        plug = plugged(ports[name])
        plug.sendall(halves[name])
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        plug.close()
    assert ANSWERS[name](ports[name])


@pytest.mark.parametrize("name", PORTS)
def test_two_at_once_are_both_served(ports: dict[str, int], name: str) -> None:
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(ANSWERS[name](ports[name]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [True] * 8


def test_a_client_that_floods_a_stream_is_cut_off(ports: dict[str, int]) -> None:
    """adb sends one payload at a time; one that does not wait may not fill the phone's memory."""
    with plugged(ports["adb"]) as plug:
        plug.sendall(message(CNXN, 0x01000001, 2**20, b"host::") + message(OPEN, 1, 0, b"shell,v2:logcat\0"))
        said(plug, b"OKAY")
        for _ in range(50):
            plug.sendall(message(WRTE, 1, 1, b"x" * 2**16))
        assert b"CLSE" in said(plug, b"CLSE")
    assert adb_answers(ports["adb"])


def test_console_commands_without_an_end_are_cut_off(ports: dict[str, int]) -> None:
    with plugged(ports["console"]) as plug:
        assert b"OK" in said(plug, b"OK")
        with suppress(ConnectionError):
            plug.sendall(b"sms send 1 " + b"x" * (3 * LONGEST))
            assert b"KO" not in said(plug, b"nothing")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("dance", "unknown command 'dance'"), ("avd snapshot load none", "there is no snapshot 'none'"),
     ("avd snapshot", "avd snapshot takes list, or save"), ("sms send 1", "unknown command"),
     ("avd snapshot save", "avd snapshot takes list")],
)  # fmt: skip
def test_wrong_console_commands_are_named(ports: dict[str, int], line: str, complaint: str) -> None:
    with plugged(ports["console"]) as plug:
        plug.sendall(f"{line}\nquit\n".encode())
        assert f"KO: {complaint}" in said(plug, b"nothing").decode().replace("\r\nOK\r\n", "")


def test_adb_emu_reaches_the_console() -> None:
    """Debian's adb, which finds an emulator by its ports, sends a message and loads a snapshot."""
    import shutil
    import subprocess

    if shutil.which("adb") is None:
        pytest.skip("adb is not installed")
    loop = asyncio.new_event_loop()
    phone = Phone(Device(0), 256, 512)
    for port in range(5583, 5555, -2):
        try:
            serving = loop.run_until_complete(serve(phone, port, 0))
        except OSError:
            continue
        break
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = str(probe.getsockname()[1])

    def adb(*words: str) -> str:
        command = ["adb", "-P", server, *words]
        return subprocess.run(command, capture_output=True, timeout=30, check=True, text=True).stdout

    try:
        adb("start-server")
        name = f"emulator-{port - 1}"
        adb("-s", name, "wait-for-device")
        adb("-s", name, "emu", "avd", "snapshot", "save", "calm")
        adb("-s", name, "emu", "sms", "send", "5550199", "see you, at 8")
        said_of_it = adb("-s", name, "shell", "content query --uri content://sms/inbox")
        assert "Row: 0" in said_of_it and "address=5550199, body=see you, at 8" in said_of_it
        adb("-s", name, "emu", "avd", "snapshot", "load", "calm")
        assert "5550199" not in adb("-s", name, "shell", "content query --uri content://sms/inbox")
    finally:
        subprocess.run(["adb", "-P", server, "kill-server"], check=False, capture_output=True)
        asyncio.run_coroutine_threadsafe(serving.close(), loop).result(9)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(9)
