"""The on-screen keyboard: 40 dp at the bottom while a field has the focus."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from palaestra.envs.android.draw import Placed, paint, place
from palaestra.envs.android.palette import INK, KEY, KEYS
from palaestra.envs.android.views import TALL, WIDTH, View

HEIGHT = 40
"""dp."""
TOP = TALL - HEIGHT
"""dp of its upper edge."""

_LETTERS = ("q w e r t y u i o p", "a s d f g h j k l", "z x c v b n m . erase", "more , space enter")
_DIGITS = ("1 2 3 4 5 6 7 8 9 0", "@ # $ % & - + ( )", "* \" ' : ; ! ? / erase", "more , space enter")
_WIDTHS = {"erase": 1.5, "more": 1.5, "space": 5.0, "enter": 2.0}
_SYMBOLS = {"more": "?", "space": " "}


@lru_cache(maxsize=2)
def keys(digits: bool) -> tuple[Placed, ...]:
    """Return the keys where they are; a key's name is what it types, or "erase", "enter", "more" or "space"."""
    placed: list[Placed] = []
    place(View(0, TOP, WIDTH, HEIGHT, fill=KEYS, name="keyboard", kind="View"), 0, 0, 0, TALL, KEYS, placed, False)
    for line, part in enumerate(_DIGITS if digits else _LETTERS):
        names = part.split()
        total = max(10.0, sum(_WIDTHS.get(name, 1.0) for name in names))
        x = (total - sum(_WIDTHS.get(name, 1.0) for name in names)) / 2
        for name in names:
            left, right = round(x * WIDTH / total), round((x + _WIDTHS.get(name, 1.0)) * WIDTH / total)
            x += _WIDTHS.get(name, 1.0)
            place(_key(name, left, TOP + line * 10, right - left), 0, 0, 0, TALL, KEYS, placed, False)
    return tuple(placed)


def _key(name: str, x: int, y: int, width: int) -> View:
    picture = name if name in ("erase", "enter") else ""
    shown = "" if picture else _SYMBOLS.get(name, name)
    inside = View((width - 4 + 1) // 2 if shown else (width - 8) // 2, 2 if shown else 1, width, 8, text=shown,
                  icon=picture, ink=INK)
    inside.width = 4 if shown else 8
    face = View(0, 1, width - (width > 5), 8, fill=KEY, round=1, children=[inside])
    return View(x, y, width, 10, name=name, kind="Key", tap=lambda: None, children=[face])


@lru_cache(maxsize=2)
def picture(digits: bool) -> np.ndarray:
    """Return the keyboard's pixels, [40, 64] uint8 palette indices. Not to be written to."""
    canvas = np.full((TALL, WIDTH), KEYS, np.uint8)
    paint(canvas, list(keys(digits)))
    return canvas[TOP:]


def key_at(x: float, y: float, digits: bool) -> str:
    """Return the name of the key at a point (dp), empty where there is none."""
    for placed in keys(digits):
        if placed.view.kind == "Key" and placed.holds(x, y):
            return placed.view.name
    return ""
