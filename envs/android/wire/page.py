"""A page in the browser where a person sees the phone live, taps and types, and watches an agent."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from math import isfinite
from typing import Any

from palaestra.envs.android.tasks import TEMPLATES
from palaestra.envs.android.tasks.template import start
from palaestra.envs.android.views import TALL, WIDTH
from palaestra.envs.android.wire.look import png
from palaestra.envs.android.wire.phone import Phone

SCALE = 5
"""Pixels a dp on the page."""
MOST_BODY = 64 * 1024
"""Bytes that a request may have."""
NEWEST = 8
"""How many inputs and log lines are shown."""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Palaestra phone</title>
<link rel="icon" href="data:,"><style>
body{font:16px system-ui,sans-serif;display:flex;gap:40px;margin:32px;background:#f1f3f4;color:#202124}
#phone{position:relative;width:%WIDTH%px;height:%HEIGHT%px;border:14px solid #202124;border-radius:36px;overflow:hidden;
flex:none;box-shadow:0 8px 30px #0004;outline-offset:4px}#phone img{cursor:pointer;user-select:none;display:block;
touch-action:none}#finger{position:absolute;left:0;top:0;width:30px;height:30px;margin:-15px;border-radius:50%;background:#d9302599;
pointer-events:none;opacity:0}h1{margin:0 0 8px}h2{font-size:14px;color:#5f6368;margin:20px 0 4px}
button,input,select{font:inherit;padding:6px 12px;margin:2px}pre{font-size:13px;margin:0;white-space:pre-wrap}
[type=number]{width:5em}#task{font-size:20px;min-height:1.5em}.done{color:#188038}main{max-width:640px}</style>
<div id="phone" tabindex="0"><img id="screen" width="%WIDTH%" height="%HEIGHT%" draggable="false"
 alt="the phone's screen"><div id="finger"></div></div>
<main><h1>Palaestra phone</h1><p id="task"></p>
<p><button data-key="BACK">Back</button><button data-key="HOME">Home</button><button data-key="ENTER">Enter</button></p>
<form id="type"><input name="text" placeholder="text" autocomplete="off"><button>Type</button></form>
<form id="start"><select name="task">%TASKS%</select><input name="seed" type="number" value="0" min="0"
 aria-label="seed"><button>New task</button></form>
<p>Click taps, holding long-presses, dragging swipes. With the phone in focus the keyboard types.</p>
<h2>Place</h2><pre id="place"></pre><h2>Inputs, of you and of agents</h2><pre id="inputs"></pre>
<h2>Log</h2><pre id="log"></pre></main>
<script>
const get = id => document.getElementById(id), image = get('screen'), finger = get('finger');
let from = null, since = 0, seen = -1, touched = 0;
const send = body => fetch('act', {method: 'POST', headers: {'Content-Type': 'application/json'},
  body: JSON.stringify(body)});
const at = event => {const box = image.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]};
image.onpointerdown = event => {from = at(event); since = Date.now(); image.setPointerCapture(event.pointerId)};
image.onpointerup = event => {if (from) send({from, to: at(event), milliseconds: Date.now() - since}); from = null};
image.onpointercancel = () => {from = null};
const keys = {Enter: 'ENTER', Backspace: 'DEL', Escape: 'BACK', Home: 'HOME'};
get('phone').onkeydown = event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!keys[event.key] && event.key.length !== 1) return;
  send(keys[event.key] ? {key: keys[event.key]} : {text: event.key}); event.preventDefault()};
document.querySelectorAll('[data-key]').forEach(button => button.onclick = () => send({key: button.dataset.key}));
get('type').onsubmit = event => {event.preventDefault(); send({text: event.target.text.value}); event.target.reset()};
get('start').onsubmit = event => {event.preventDefault();
  send({task: event.target.task.value, seed: Number(event.target.seed.value)})};
function show(state) {
  seen = state.version; image.src = 'screen.png?' + seen;
  for (const id of ['place', 'task']) get(id).textContent = state[id];
  for (const id of ['inputs', 'log']) get(id).textContent = state[id].join('\\n');
  get('task').className = state.done ? 'done' : '';
  if (state.touches === touched) return;
  touched = state.touches;
  const [[x, y], [toX, toY]] = state.touch, place = (x, y) => `translate(${x * %WIDTH%}px, ${y * %HEIGHT%}px)`;
  finger.animate([{opacity: 1, transform: place(x, y)}, {opacity: 1, transform: place(toX, toY), offset: .6},
    {opacity: 0, transform: place(toX, toY)}], 1500)}
async function watch() {
  try {show(await (await fetch('state?seen=' + seen)).json()); setTimeout(watch, 50)}
  catch (error) {setTimeout(watch, 1000)}}
watch();
</script></html>"""
for name, value in (
    ("WIDTH", SCALE * WIDTH), ("HEIGHT", SCALE * TALL),
    ("TASKS", "".join(f"<option>{name}" for name in TEMPLATES)),
):  # fmt: skip
    PAGE = PAGE.replace(f"%{name}%", str(value))


class Page:
    """Answers the browser's requests."""

    def __init__(self, phone: Phone) -> None:
        self.phone = phone
        self._shown: tuple[Any, ...] = ()
        self._version = 0

    def look(self) -> int:
        """Return the number of what is seen, one more each time it has changed."""
        phone = self.phone
        shown = (phone.device.version, phone.touches, tuple(phone.inputs))
        if shown != self._shown:
            self._shown = shown
            self._version += 1
        return self._version

    def state(self) -> dict[str, Any]:
        """Return what the page shows beside the screen."""
        phone, task = self.phone, self.phone.task
        done = task is not None and task.success(phone.device)
        words = f"{task.instruction}{' - done' if done else ''}" if task is not None else ""
        return {
            "version": self.look(), "place": phone.device.place_name, "task": words, "done": done,
            "inputs": list(phone.inputs)[-NEWEST:], "log": phone.device.state.log[-NEWEST:],
            "touches": phone.touches, "touch": phone.touched,
        }  # fmt: skip

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
        elif "task" in wish:
            if wish["task"] not in TEMPLATES:
                raise ValueError(f"there is no template {wish['task']!r}")
            self.phone.task = start(self.phone.device, TEMPLATES[wish["task"]], int(wish.get("seed", 0)), "test")
        elif "from" in wish and "to" in wish:
            numbers = [float(number) for point in (wish["from"], wish["to"]) for number in point]
            numbers.append(float(wish.get("milliseconds", 300)))
            if len(numbers) != 5 or not all(map(isfinite, numbers)):
                raise ValueError(f"points are {wish['from']} and {wish['to']}")
            width, height = self.phone.size
            x, y, to_x, to_y, milliseconds = numbers
            self.phone.swipe(x * width, y * height, to_x * width, to_y * height, milliseconds)
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
