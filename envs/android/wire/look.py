"""The shell's programs that tell what the phone shows and holds: dumpsys, uiautomator, screencap, content."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from palaestra.envs.android import keyboard
from palaestra.envs.android.draw import Placed
from palaestra.envs.android.storage import Database
from palaestra.envs.android.wire.phone import Phone
from palaestra.envs.android.wire.shell import Command, Shell
from palaestra.envs.android.wire.words import ShellError

CONTACTS, MESSAGES = "com.google.android.contacts", "com.simplemobiletools.smsmessenger"
_CALENDAR = "com.simplemobiletools.calendar.pro"


def png(picture: np.ndarray) -> bytes:
    """Return a picture, [H, W, 3] uint8, as a PNG file."""
    height, width = picture.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], 1)  # filter 0 a line

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _screencap(shell: Shell, arguments: list[str], stdin: bytes) -> bytes:
    paths = [word for word in arguments if not word.startswith("-")]
    picture = shell.phone.picture()
    if "-p" in arguments or (paths and paths[0].endswith(".png")):
        data = png(picture)
    else:
        height, width = picture.shape[:2]
        opaque = np.concatenate([picture, np.full((height, width, 1), 255, np.uint8)], 2)
        data = struct.pack("<IIII", width, height, 1, 1) + opaque.tobytes()
    if not paths:
        return data
    shell.phone.write(paths[0], data)
    return b""


def hierarchy(phone: Phone) -> str:
    """Return what is on the screen as uiautomator's XML, flat under one root."""
    device = phone.device
    placed = [item for item in device.look() if item.visible]
    if device.typing:
        placed += keyboard.keys(device.state.digits)
    nodes = [_node(phone, index, item) for index, item in enumerate(placed)]
    root = (
        '<node index="0" text="" resource-id="" class="android.widget.FrameLayout" '
        f'package="{device.page.package}" content-desc="" bounds="[0,0][{phone.size[0]},{phone.size[1]}]">'
    )
    head = '<?xml version=\'1.0\' encoding=\'UTF-8\' standalone=\'yes\' ?><hierarchy rotation="0">'
    return f"{head}{root}{''.join(nodes)}</node></hierarchy>"


def _node(phone: Phone, index: int, item: Placed) -> str:
    view, device = item.view, phone.device
    left, top = phone.pixels(max(0, item.x), max(item.y, item.top, 0))
    right, bottom = phone.pixels(min(item.x + view.width, 64), min(item.y + view.height, item.bottom))
    text = device.page.texts.get(view.field, "") if view.field else (view.full or view.text).strip()
    values: dict[str, Any] = {
        "index": index, "text": text, "resource-id": f"{device.page.package}:id/{view.name}" if view.name else "",
        "class": f"android.widget.{view.kind}", "package": device.page.package, "content-desc": view.name,
        "checkable": view.checked is not None, "checked": bool(view.checked), "clickable": view.touchable,
        "enabled": True, "focusable": bool(view.field), "focused": bool(view.field)
        and view.field == device.state.focus, "scrollable": item.scrolls, "long-clickable": view.hold is not None,
        "password": False, "selected": False, "bounds": f"[{left},{top}][{right},{bottom}]",
    }  # fmt: skip
    shown = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
    return f"<node {' '.join(f'{key}={quoteattr(value)}' for key, value in shown.items())} />"


def _uiautomator(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    if arguments[:1] != ["dump"]:
        raise ShellError(f"uiautomator: unknown command {arguments[:1]}", 1)
    paths = [word for word in arguments[1:] if not word.startswith("-")]
    path = paths[0] if paths else "/sdcard/window_dump.xml"
    text = hierarchy(shell.phone)
    if path == "/dev/tty":
        return f"{text}UI hierchary dumped to: {path}\n"
    shell.phone.write(path, text.encode())
    return f"UI hierchary dumped to: {path}\n"


def _dumpsys(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    device, (width, height) = shell.phone.device, shell.phone.size
    words = [word for word in arguments if word]
    what = words[0] if words else ""
    focus = f"Window{{1a2b3c u0 {device.activity}}}"
    if what == "window":
        return f"  mCurrentFocus={focus}\n  mFocusedApp=ActivityRecord{{4d5e6f u0 {device.activity} t1}}\n" \
               "  mCurrentRotation=ROTATION_0\n"  # fmt: skip
    if what == "input":
        return (f"  SurfaceOrientation: 0\n  InputDeviceOrientation: 0\n  logicalFrame=[0, 0, {width}, {height}], "
                f"physicalFrame=[0, 0, {width}, {height}], deviceSize=[{width}, {height}]\n")  # fmt: skip
    if what == "activity":
        return _activities(shell, words[1:])
    answers = {
        "battery": "  level: 100\n  status: 2\n", "telephony.registry": "  mCallState=0\n",
        "input_method": f"  mInputShown={'true' if device.typing else 'false'}\n",
        "notification": "".join(f"  NotificationRecord pkg={note.package} android.title={note.title} "
                                f"android.text={note.text}\n" for note in device.state.notifications),
        "package": "".join(f"Package [{package}]\n  versionName=1.0\n" for package in device.apps
                           if words[1:2] in ([], [package])),
        "alarm": "", "power": "  mWakefulness=Awake\n",
        "display": f"  mDisplayInfo real {width} x {height}, orientation=0\n",
    }  # fmt: skip
    if what not in answers:
        raise ShellError(f"Can't find service: {what}", 0)
    return answers[what]


def _activities(shell: Shell, words: list[str]) -> str:
    device = shell.phone.device
    if words[:1] == ["recents"]:
        stacks = reversed(device.state.tasks)
        return "".join(f"  * Recent #{i}: Task{{1 #{i} A={stack[0].package}}}\n" for i, stack in enumerate(stacks))
    if words[:1] and words[0] in device.apps:
        lines = [f"{item.view.kind}{{{item.x},{item.y} #{item.view.name}}}" for item in device.look()]
        return "    View Hierarchy:\n      DecorView@1\n" + "".join(f"        {line}\n" for line in lines)
    lines = [f"    * Hist #{index}: ActivityRecord{{1 u0 {page.package}/{page.screen}}}"
             for stack in reversed(device.state.tasks) for index, page in enumerate(stack)]  # fmt: skip
    return f"  mResumedActivity: ActivityRecord{{1 u0 {device.activity} t1}}\n" + "\n".join(lines) + "\n"


# Content providers.


def _provider(shell: Shell, uri: str) -> tuple[Database, str, dict[str, Any], dict[str, str]]:
    """Return the table behind a URI, which of its rows, and the provider's names of columns that differ."""
    path = uri.removeprefix("content://").strip("/")
    device = shell.phone.device
    if path.split("/")[0] == "sms":
        kinds = {"sms/sent": {"type": 2}, "sms/inbox": {"type": 1}}
        return device.database(MESSAGES), "sms", kinds.get(path, {}), {}
    if path.startswith(("contacts", "com.android.contacts")):
        names = {"display_name": "name", "number": "number", "data1": "number", "starred": "starred"}
        return device.database(CONTACTS), "contacts", {}, names
    if path.startswith("com.android.calendar"):
        return device.database(_CALENDAR), "events", {}, {"dtstart": "start_ts", "dtend": "end_ts"}
    if path.startswith("call_log"):
        return Database({"calls": "number TEXT"}), "calls", {}, {}
    raise ShellError(f"Could not find provider: {path.split('/')[0]}", 1)


def _content(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    what = arguments[0]
    flags = list(zip(arguments[1::2], arguments[2::2], strict=False))
    single = dict(flags)
    database, table, kind, names = _provider(shell, single["--uri"])
    where: list[tuple[str, str]] = re.findall(r"(\w+)\s*=\s*'?\"?([^'\"]*)", single.get("--where", ""))
    wanted = kind | {names.get(key, key): value for key, value in where}
    rows = [row for row in database[table].values() if all(str(row.get(key)) == str(v) for key, v in wanted.items())]
    if what == "insert":
        bound = dict(value.split(":", 2)[::2] for key, value in flags if key == "--bind")
        return _insert(database, table, {names.get(key, key): value for key, value in bound.items()} | kind)
    if what == "delete":
        for row in rows:
            database.delete(table, row["_id"])
        shell.phone.device.changed()
        return ""
    if what != "query":
        raise ShellError(f"[ERROR] Unsupported command: {what}", 1)
    for part in reversed(single.get("--sort", "date DESC" if table == "sms" else "_id").split(", ")):
        name, _, how = part.partition(" ")
        rows.sort(key=lambda row: row[names.get(name, name)], reverse=how.upper() == "DESC")
    columns = single["--projection"].split(":") if "--projection" in single else None
    shown = [_columns(row, columns, names) for row in rows]
    return "".join(f"Row: {i} {line}\n" for i, line in enumerate(shown)) or "No result found.\n"


def _columns(row: dict[str, Any], columns: list[str] | None, names: dict[str, str]) -> str:
    if columns is None:
        back = {ours: theirs for theirs, ours in reversed(names.items())}
        return ", ".join(f"{back.get(key, key)}={value}" for key, value in row.items())
    return ", ".join(f"{column}={row.get(names.get(column, column), 'NULL')}" for column in columns)


def _insert(database: Database, table: str, values: dict[str, Any]) -> str:
    known = database.defaults[table]
    row = {name: type(known[name])(value) for name, value in values.items() if name in known}
    database.insert(table, **row)
    return ""


LOOK: dict[str, Command] = {
    "screencap": _screencap, "uiautomator": _uiautomator, "dumpsys": _dumpsys, "content": _content,
}  # fmt: skip
"""By name."""
