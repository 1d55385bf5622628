"""What the system itself shows over the apps: status bar, popups, notifications, the shade, toasts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from palaestra.envs.android.draw import STATUS, Placed, arrange_dialog, place
from palaestra.envs.android.font import PITCH
from palaestra.envs.android.palette import (
    BAR,
    BLUE,
    CARD,
    FAINT,
    GREEN,
    INK,
    LINE,
    NONE,
    PAPER,
    RED,
    WHITE,
    YELLOW,
)  # fmt: skip
from palaestra.envs.android.views import TALL, WIDTH, View, buttons, icon, label, row, switch

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

POPUPS = {
    "update": ("Update app?", "UPDATE", "LATER"),
    "rate": ("Rate us!", "5 STARS", "NO"),
    "permission": ("Allow access?", "ALLOW", "DENY"),
    "cookie": ("We use cookies", "ACCEPT", "REJECT"),
    "offer": ("50% off today!", "SHOW", "CLOSE"),
}
"""Kind to title and two answers. Both close it, but an update, a rating and an offer take the user away."""
LEADS_AWAY = ("update", "rate", "offer")


@dataclass(slots=True)
class Popup:
    """A dialog that nobody asked for."""

    kind: str
    """Of `POPUPS`."""
    swapped: bool
    """Whether its answers are the other way round."""
    y: int
    """dp of its upper edge."""


@dataclass(slots=True)
class Notification:
    """A line in the shade."""

    package: str
    """Whose; a tap opens it."""
    title: str
    """Who or what."""
    text: str
    """What it says."""


def clock_text(seconds: float) -> str:
    """Return a time (seconds since 1970, UTC) as hours and minutes."""
    return time.strftime("%H:%M", time.gmtime(seconds))


def status_bar(device: Device, out: list[Placed]) -> None:
    """Place the time, what radio is on, and whether there is news."""
    get = device.setting
    children = [View(1, 1, 20, 5, text=clock_text(device.state.clock), ink=WHITE, name="clock")]
    x = WIDTH - 4
    for namespace, key, letter in (("global", "wifi_on", "W"), ("global", "bluetooth_on", "B"),
                                   ("global", "airplane_mode_on", "A"), ("global", "zen_mode", "-")):
        if get(namespace, key) not in ("0", ""):
            children.append(View(x, 1, 4, 5, text=letter, ink=WHITE, name=key))
            x -= PITCH
    if device.state.notifications:
        children.append(View(24, 2, 3, 3, fill=YELLOW, name="news", kind="View"))
    place(View(0, 0, WIDTH, STATUS, fill=BAR, children=children, name="status"), 0, 0, 0, TALL, BAR, out, False)


def _veil(device: Device, out: list[Placed], tap: bool = True) -> None:
    """Place something invisible over the screen that takes every touch."""
    nothing = (lambda: None) if tap else None
    place(View(0, 0, WIDTH, TALL, tap=nothing, name="veil", kind="View"), 0, 0, 0, TALL, NONE, out, False)


def popup(device: Device, out: list[Placed]) -> None:
    """Place the dialog that nobody asked for."""
    shown = device.state.popup
    if shown is None:
        return
    title, yes, no = POPUPS[shown.kind]
    choices = [(yes, lambda: device.answer(True), GREEN), (no, lambda: device.answer(False), FAINT)]
    if shown.swapped:
        choices.reverse()
    _veil(device, out)
    out += arrange_dialog([label(title, INK, name="popup"), label("", INK), buttons(*choices)], y=shown.y)


def heads_up(device: Device, out: list[Placed]) -> None:
    """Place a notification over the top of the screen."""
    note = device.state.heads_up
    if note is None:
        return
    children = [
        View(2, 2, 9, 9, icon="messages", ink=BLUE, kind="ImageView"),
        View(13, 2, WIDTH, text=note.title, name="heads_up"),
        View(13, 9, WIDTH, text=note.text, ink=FAINT),
    ]
    view = View(1, STATUS, WIDTH - 2, 17, fill=CARD, round=3, tap=device.opener(note), children=children)
    place(view, 0, 0, 0, TALL, PAPER, out, False)


def toast(device: Device, out: list[Placed]) -> None:
    """Place the line that tells what just happened."""
    text = device.state.toast
    if text:
        width = min(WIDTH, PITCH * len(text) + 3)
        inside = View(2, 2, width - 2, 5, text=text, ink=WHITE, name="toast")
        x = (WIDTH - width) // 2
        view = View(x, 76, width, 9, fill=BAR, round=4, children=[inside], kind="Toast")
        place(view, 0, 0, 0, TALL, PAPER, out, False)


def shade(device: Device, out: list[Placed]) -> None:
    """Place the notification shade with its quick settings, where it is pulled down."""
    if not device.state.shade:
        return
    _veil(device, out)
    blocks = [
        switch(title, device.setting("global", key) != "0", device.toggler("global", key), picture)
        for title, key, picture in (
            ("Wi-Fi", "wifi_on", "wifi"), ("Bluetooth", "bluetooth_on", "bluetooth"),
            ("Airplane", "airplane_mode_on", "airplane"),
        )
    ]
    for note in device.state.notifications[-3:]:
        blocks.append(row(note.title, note.text, "messages", device.opener(note), BLUE))
    clear = icon("close", device.clear_notifications, RED, "clear")
    clear.x = WIDTH - 10
    blocks.append(View(height=11, children=[clear], kind="FrameLayout"))
    height = sum(block.height for block in blocks)
    place(View(0, STATUS, WIDTH, height + 2, fill=PAPER, name="shade"), 0, 0, 0, TALL, PAPER, out, False)
    y = STATUS
    for block in blocks:
        place(block, 0, y, 0, TALL, PAPER, out, False)
        y += block.height
    place(View(0, y, WIDTH, 2, fill=LINE), 0, 0, 0, TALL, PAPER, out, False)


def spinner(out: list[Placed]) -> None:
    """Place the blank page of an app that is still loading."""
    dots = [View(20 + 10 * index, 64, 4, 4, fill=FAINT, kind="View") for index in range(3)]
    view = View(0, STATUS, WIDTH, TALL - STATUS, fill=PAPER, name="loading", kind="ProgressBar", tap=lambda: None)
    place(view, 0, 0, 0, TALL, PAPER, out, False)
    for dot in dots:
        place(dot, 0, 0, 0, TALL, PAPER, out, False)
