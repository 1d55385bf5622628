"""A page in the browser where a person sees the phone live, taps and types, and watches an agent."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from math import isfinite
from typing import Any

from palaestra.envs.android.tasks.template import Task
from palaestra.envs.android.views import TALL, WIDTH
from palaestra.envs.android.wire.look import png
from palaestra.envs.android.wire.phone import Phone

SCALE = 5
"""Pixels a dp on the page."""
MOST_BODY = 64 * 1024
"""Bytes that a request may have."""

PAGE = """<!doctype html><meta charset="utf-8"><title>Palaestra phone</title>
<style>body{font:16px system-ui;display:flex;gap:32px;margin:32px;background:#f1f3f4}
canvas,img{border:12px solid #202124;border-radius:24px;image-rendering:pixelated;cursor:pointer;user-select:none}
button,input{font:inherit;padding:6px 12px;margin:2px}#log{white-space:pre-wrap;color:#555;font-size:13px}</style>
<img id="screen" width="%WIDTH%" height="%HEIGHT%" draggable="false" alt="the phone's screen">
<div><h1>Palaestra phone</h1><p id="task"></p>
<p><button data-key="BACK">Back</button><button data-key="HOME">Home</button><button data-key="ENTER">Enter</button></p>
<form id="type"><input name="text" placeholder="text" autocomplete="off"><button>Type</button></form>
<p id="place"></p><p id="log"></p></div>
<script>
const screen_ = document.getElementById('screen'); let from = null;
const send = body => fetch('act', {method: 'POST', headers: {'Content-Type': 'application/json'},
  body: JSON.stringify(body)});
const at = event => {const box = screen_.getBoundingClientRect();
  return [(event.clientX - box.left - 12) / %WIDTH%, (event.clientY - box.top - 12) / %HEIGHT%]};
screen_.onpointerdown = event => {from = at(event); event.preventDefault()};
screen_.onpointerup = event => {if (from) send({from, to: at(event)}); from = null};
document.querySelectorAll('[data-key]').forEach(b => b.onclick = () => send({key: b.dataset.key}));
document.getElementById('type').onsubmit = event => {event.preventDefault();
  send({text: event.target.text.value}); event.target.reset()};
let seen = -1;
async function watch() {try {const state = await (await fetch('state?seen=' + seen)).json(); seen = state.version;
  screen_.src = 'screen.png?' + seen; document.getElementById('place').textContent = state.place;
  document.getElementById('task').textContent = state.task; document.getElementById('log').textContent = state.log;
  setTimeout(watch, 50)} catch (error) {setTimeout(watch, 1000)}}
watch();
</script>""".replace("%WIDTH%", str(SCALE * WIDTH)).replace("%HEIGHT%", str(SCALE * TALL))


class Page:
    """Answers the browser's requests."""

    def __init__(self, phone: Phone, task: Task | None = None) -> None:
        self.phone, self.task = phone, task
        self._picture = b""
        self._version = 0

    def look(self) -> int:
        """Return the number of the screen that is seen, one more each time it has changed."""
        picture = self.phone.device.screen(SCALE * TALL, SCALE * WIDTH)
        if picture.tobytes() != self._picture:
            self._picture = picture.tobytes()
            self._version += 1
        return self._version

    def state(self) -> dict[str, Any]:
        """Return what the page shows beside the screen."""
        device, task = self.phone.device, ""
        if self.task is not None:
            task = f"{self.task.instruction} {'- done' if self.task.success(device) else ''}"
        return {"version": self.look(), "place": device.place_name, "task": task,
                "log": "\n".join(device.state.log[-8:])}  # fmt: skip

    def act(self, wish: dict[str, Any]) -> None:
        """Do what the person did.

        Raises:
            ValueError: For what says nothing.
        """
        if "key" in wish:
            if not self.phone.key(str(wish["key"])):
                raise ValueError(f"there is no key {wish['key']!r}")
        elif "text" in wish:
            self.phone.text(str(wish["text"]))
        elif "from" in wish and "to" in wish:
            numbers = [float(number) for point in (wish["from"], wish["to"]) for number in point]
            if len(numbers) != 4 or not all(map(isfinite, numbers)):
                raise ValueError(f"points are {wish['from']} and {wish['to']}")
            width, height = self.phone.size
            x, y, to_x, to_y = numbers
            self.phone.swipe(x * width, y * height, to_x * width, to_y * height)
        else:
            raise ValueError(f"nothing to do: {sorted(wish)}")

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
            method, path, _ = head.split("\r\n", 1)[0].split(" ", 2)
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            length = int(headers.get("content-length", "0"))
            body = await asyncio.wait_for(reader.readexactly(min(length, MOST_BODY)), 10)
            status, kind, data = await self._reply(method, path, headers, body)
        except (ValueError, LookupError, TypeError, TimeoutError, asyncio.IncompleteReadError,
                asyncio.LimitOverrunError, ConnectionError) as error:  # fmt: skip
            status, kind, data = "400 Bad Request", "text/plain", str(error).encode()
        with suppress(ConnectionError):
            writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {len(data)}\r\n"
                         f"Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode() + data)  # fmt: skip
            await writer.drain()
            writer.close()

    async def _reply(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[str, str, bytes]:
        if headers.get("host", "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
            return "403 Forbidden", "text/plain", b"this page is for this machine alone"
        name, _, query = path.partition("?")
        if (method, name) == ("GET", "/"):
            return "200 OK", "text/html", PAGE.encode()
        if (method, name) == ("GET", "/screen.png"):
            return "200 OK", "image/png", png(self.phone.device.screen(SCALE * TALL, SCALE * WIDTH))
        if (method, name) == ("GET", "/state"):
            seen = int(query.removeprefix("seen=") or "-1")
            for _ in range(100):  # wait for news, five seconds at most
                if self.look() != seen:
                    break
                await asyncio.sleep(0.05)
            return "200 OK", "application/json", json.dumps(self.state()).encode()
        if (method, name) == ("POST", "/act") and headers.get("content-type", "").startswith("application/json"):
            self.act(json.loads(body))
            return "200 OK", "application/json", b"{}"
        return "404 Not Found", "text/plain", b"there is no such page"


async def serve_page(page: Page, port: int = 8080) -> asyncio.Server:
    """Serve the page on loopback, and return the server.

    Raises:
        OSError: Where the port is taken.
    """
    return await asyncio.start_server(page.answer, "127.0.0.1", port)
