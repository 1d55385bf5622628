"""Crowds, floods, slow clients and clients that vanish: memory bounded, nobody without an answer."""

import asyncio
import json
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import httpx
import pytest
import torch

from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import Answer, Ask, Generate, Message, Picture, Text
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.agents.vlm.http import Http
from palaestra.agents.vlm.images import to_url
from palaestra.launch.server.app import App
from palaestra.launch.server.bodies import Limits
from palaestra.launch.server.routes import ROUTES
from palaestra.launch.server.run import background

CHAT = "/v1/chat/completions"
JSON = b"Content-Type: application/json\r\n"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Gated(EchoEngine):
    """Echoes when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.seen: list[Ask] = []

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        self.seen += asks
        assert self.gate.wait(30)
        return super().answer(asks)


def body(text: str, *pictures: Picture) -> bytes:
    parts: list[object] = [{"type": "image_url", "image_url": {"url": to_url(picture)}} for picture in pictures]
    content = [*parts, {"type": "text", "text": text}]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()


async def crowd(url: str, bodies: Sequence[bytes]) -> list[tuple[int, object, dict[str, str]]]:
    """Send all at once, each on a connection of its own."""

    async def one(data: bytes) -> tuple[int, object, dict[str, str]]:
        http = Http(url, {})
        try:
            response = await http.request("POST", CHAT, JSON, data)
            return response.status, json.loads(response.body), response.headers
        finally:
            http.close()

    async with asyncio.timeout(60):
        return await asyncio.gather(*(one(data) for data in bodies))


def said(answer: object) -> str:
    assert isinstance(answer, dict)
    return str(answer["choices"][0]["message"]["content"])


@pytest.fixture
def gated() -> Iterator[Gated]:
    engine = Gated()
    yield engine
    engine.gate.set()


def wait_for(seconds: float, true: object) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)


def test_a_thousand_clients_at_once_each_get_their_own_answer() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with background(App({"m": Batcher(EchoEngine(0.002), max_queue=1024)}, ROUTES)) as url:
        answers = asyncio.run(crowd(url, [body(f"{i}") for i in range(1000)]))
    assert [status for status, _, _ in answers] == [200] * 1000
    assert [said(answer) for _, answer, _ in answers] == [f"{i}" for i in range(1000)]


def test_a_flood_over_the_bound_is_refused_and_told_when_to_come_back(gated: Gated) -> None:
    batcher = Batcher(gated, max_batch=4, max_queue=8)
    with background(App({"m": batcher}, ROUTES)) as url:

        async def flood() -> list[tuple[int, object, dict[str, str]]]:
            sending = asyncio.create_task(crowd(url, [body(f"{i}") for i in range(200)]))
            while batcher.metrics().submitted < 200:
                await asyncio.sleep(0.005)
            gated.gate.set()
            return await sending

        answers = asyncio.run(flood())
        counts = batcher.metrics()
    statuses = Counter(status for status, _, _ in answers)
    assert statuses.keys() == {200, 429} and 8 < statuses[200] <= 12
    for index, (status, answer, headers) in enumerate(answers):
        if status == 200:
            assert said(answer) == f"{index}"
        else:
            assert int(headers["retry-after"]) >= 1 and int(headers["retry-after-ms"]) >= 1
    assert (counts.answered, counts.refused) == (statuses[200], statuses[429])


def test_pictures_in_progress_are_bounded_in_memory(gated: Gated) -> None:
    """Twenty pictures of 786 kB each, of which four fit; what they held is given back."""
    pictures = [Picture(torch.full((512, 512, 3), i, dtype=torch.uint8)) for i in range(20)]
    app = App({"m": Batcher(gated)}, ROUTES, limits=Limits(bytes=4_000_000))
    with background(app) as url:

        async def flood() -> list[tuple[int, object, dict[str, str]]]:
            sending = asyncio.create_task(crowd(url, [body("x", picture) for picture in pictures]))
            while not gated.seen:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.5)
            assert app.held.total <= 4_000_000
            gated.gate.set()
            return await sending

        statuses = Counter(status for status, _, _ in asyncio.run(flood()))
        assert statuses.keys() == {200, 429} and statuses[200] >= 1
        wait_for(5, lambda: app.held.total == 0)


def test_a_client_that_vanishes_takes_its_ask_back(gated: Gated) -> None:
    batcher = Batcher(gated, max_batch=1)
    app = App({"m": batcher}, ROUTES)
    with background(app) as url:
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        clients = []
        for index in range(5):
            client = socket.create_connection(address)
            data = body(f"{index}")
            client.sendall(HEAD % len(data) + data)
            clients.append(client)
            wait_for(5, lambda index=index: batcher.metrics().submitted == index + 1)
        assert (batcher.depth, len(gated.seen)) == (4, 1)
        for client in clients[1:]:
            client.close()
        wait_for(5, lambda: batcher.depth == 0)
        assert batcher.metrics().cancelled == 4
        gated.gate.set()
        assert b'"content": "0"' in clients[0].recv(65536)
        clients[0].close()
        assert len(gated.seen) == 1
        wait_for(5, lambda: app.held.total == 0)


def test_slow_clients_hold_nobody_up_and_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from palaestra.launch.server import protocol

    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.5)
    app = App({"m": Batcher(EchoEngine())}, ROUTES)
    with background(app) as url:
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        slow = [socket.create_connection(address) for _ in range(50)]
        for client in slow:
            client.sendall(HEAD % 1000 + b"{")
        began = time.perf_counter()
        answer = httpx.post(url + CHAT, content=body("x"), headers={"content-type": "application/json"})
        assert said(answer.json()) == "x"
        assert time.perf_counter() - began < 1.0
        for client in slow:
            client.settimeout(5)
            assert client.recv(65536) == b""
            client.close()
        wait_for(5, lambda: app.held.total == 0)


def test_connections_that_ask_nothing_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from palaestra.launch.server import protocol

    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.3)
    with background(App({"m": Batcher(EchoEngine())}, ROUTES)) as url:
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        silent, begun, asking = (socket.create_connection(address, 5) for _ in range(3))
        begun.sendall(b"GET /health HTTP/1.1\r\nHost:")
        for _ in range(3):
            asking.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert asking.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)
        assert (silent.recv(1), begun.recv(1)) == (b"", b"")
        for client in (silent, begun, asking):
            client.close()


def test_clients_that_read_slowly_hold_nobody_up() -> None:
    """Each asks again and again without reading; the others are answered."""
    with background(App({"m": Batcher(EchoEngine())}, ROUTES)) as url:
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        data = body("x" * 50_000)
        stuck = [socket.create_connection(address) for _ in range(10)]
        for client in stuck:
            client.setblocking(False)
            try:
                for _ in range(200):
                    client.send(HEAD % len(data) + data)
            except BlockingIOError:
                pass
        answer = httpx.post(url + CHAT, content=body("hello"), headers={"content-type": "application/json"}, timeout=10)
        assert said(answer.json()) == "hello"
        for client in stuck:
            client.close()


@pytest.mark.slow
def test_memory_stays_bounded_under_a_long_flood() -> None:
    """Eight thousand asks with pictures at a queue of sixteen: resident memory settles."""
    batcher = Batcher(EchoEngine(0.001), max_queue=16)
    picture = Picture(torch.randint(0, 256, (64, 64, 3)).to(torch.uint8))
    data = body("x", picture)

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    with background(App({"m": batcher}, ROUTES)) as url:
        seen = Counter[int]()
        sizes = []
        for _ in range(8):
            answers = asyncio.run(crowd(url, [data] * 1000))
            seen.update(status for status, _, _ in answers)
            sizes.append(resident())
        assert batcher.ask(Generate((Message("user", ("still there",)),))).answer == Text("still there")
    assert seen.keys() <= {200, 429} and sum(seen.values()) == 8_000
    assert sizes[-1] - sizes[2] < 64 << 20
