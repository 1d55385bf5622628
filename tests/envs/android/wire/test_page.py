"""The page that shows the phone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from palaestra.envs.android.device import Device
from palaestra.envs.android.tasks import TEMPLATES
from palaestra.envs.android.tasks.template import start
from palaestra.envs.android.wire.commands import session
from palaestra.envs.android.wire.page import Page, serve_page
from palaestra.envs.android.wire.phone import Phone


def asked(page: Page, *requests: bytes) -> list[tuple[int, bytes]]:
    """Return status and body of the answers to raw requests."""

    async def run() -> list[tuple[int, bytes]]:
        server = await serve_page(page, 0)
        answers = []
        for request in requests:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            writer.write(request)
            writer.write_eof()
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            answers.append((int(head.split()[1]), body))
            writer.close()
        server.close()
        return answers

    return asyncio.run(run())


def request(method: str, path: str, body: Any = None, host: str = "localhost", kind: str = "application/json") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


@pytest.fixture
def page() -> Page:
    phone = Phone(Device(0))
    phone.task = start(phone.device, TEMPLATES["open-app"], 0, "test")
    return Page(phone)


def test_a_person_sees_taps_and_types(page: Page) -> None:
    home, state, picture, _, after = asked(
        page,
        request("GET", "/"),
        request("GET", "/state?seen=-1"),
        request("GET", "/screen.png?1"),
        request("POST", "/act", {"from": [0.2, 0.2], "to": [0.2, 0.2]}),
        request("GET", "/state?seen=1"),
    )
    assert home[0] == 200 and b"%WIDTH%" not in home[1] and b'width="320" height="640"' in home[1]
    assert json.loads(state[1])["task"] and json.loads(state[1])["version"] == 1
    assert picture[1].startswith(b"\x89PNG")
    assert json.loads(after[1])["place"] == "Settings/groups" and json.loads(after[1])["version"] == 2
    asked(page, request("POST", "/act", {"key": "HOME"}), request("POST", "/act", {"text": "hello"}))
    assert page.phone.device.place_name == "Home/home"


def test_a_person_starts_tasks_and_is_told_when_they_are_done(page: Page) -> None:
    begun = asked(page, request("POST", "/act", {"task": "stopwatch", "seed": 4}), request("GET", "/state?seen=-1"))
    told = json.loads(begun[1][1])
    assert told["task"] == "Start the stopwatch" and not told["done"]
    page.phone.device.database("com.google.android.deskclock").update("stopwatch", 1, running=1)
    told = json.loads(asked(page, request("GET", "/state?seen=-1"))[0][1])
    assert told["task"].endswith("- done") and told["done"]


def test_a_person_watches_an_agent(page: Page) -> None:
    first = json.loads(asked(page, request("GET", "/state?seen=-1"))[0][1])
    session(page.phone).run("input swipe 540 1620 540 540; input tap 5000 5000")
    second = json.loads(asked(page, request("GET", f"/state?seen={first['version']}"))[0][1])
    assert second["version"] > first["version"] and second["touches"] == first["touches"] + 2
    assert second["inputs"] == ["swipe 540 1620 540 540", "tap 5000 5000"]
    session(page.phone).run("input swipe 540 1620 540 540")
    assert page.phone.touched == ((0.5, 0.75), (0.5, 0.25))


def test_holding_is_a_long_press(page: Page) -> None:
    page.phone.device.state.clipboard = "pasted"
    page.phone.device.open("net.gsantner.markor", "note")
    where = {"from": [0.3, 0.18], "to": [0.3, 0.18]}
    asked(page, request("POST", "/act", where | {"milliseconds": 100}))
    assert page.phone.device.page.texts["name"] == ""
    asked(page, request("POST", "/act", where | {"milliseconds": 900}))
    assert page.phone.device.page.texts["name"] == "pasted"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (lambda: request("GET", "/nope"), 404),
        (lambda: request("GET", "/", host="evil.example"), 403),
        (lambda: request("POST", "/act", {"key": "HOME"}, kind="text/plain"), 404),  # no other site's form gets in
        (lambda: request("POST", "/act", {"key": "POWER"}), 400),
        (lambda: request("POST", "/act", {}), 400),
        (lambda: request("POST", "/act", {"task": "dance"}), 400),
        (lambda: request("POST", "/act", {"task": "turn", "seed": "x"}), 400),
        (lambda: request("POST", "/act", {"from": [0], "to": ["x"]}), 400),
        (lambda: request("POST", "/act", [1]), 400),
        (lambda: request("POST", "/act", {"from": 1, "to": 2}), 400),
        (lambda: b"rubbish\r\n\r\n", 400),
        (lambda: b"\x00" * 100_000, 400),
        (lambda: b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{", 400),
    ],
)
def test_what_is_no_request_is_refused(page: Page, raw: Callable[[], bytes], status: int) -> None:
    assert asked(page, raw())[0][0] == status
