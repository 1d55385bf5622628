"""Views into pixels of a large screen: smooth letters, icons and corners where the small screen has coarse ones.

Letters are those of DejaVu Sans Mono, which comes with matplotlib under its own free licence. They have the pitch and
the height of the small ones, so that every view keeps its place; a text that has more letters than room is set
smaller.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.envs.android import icons
from palaestra.envs.android.draw import Placed
from palaestra.envs.android.font import HEIGHT, PITCH
from palaestra.envs.android.palette import NONE
from palaestra.envs.android.views import TALL, WIDTH

LEAST = 4 * WIDTH
"""Pixels that a screen must be wide for letters to be smooth; smaller ones show the coarse screen, enlarged."""
SMALLEST = 0.5
"""How much smaller a text may get to fit, before it is cut."""
_EM = 6.5
"""dp of the font's size: its advance is 0.602 of that and its capitals are 0.729 high, about `PITCH` and `HEIGHT`."""
_HEIGHT = HEIGHT + 2
"""dp of a line with what hangs below it."""


def paint(out: np.ndarray, fill: int, placed: Iterable[Placed], palette: np.ndarray) -> None:
    """Draw placed views over a colour into `out`, [H, W, 3] uint8 of any size.

    Args:
        out: The screen.
        fill: The colour behind all, a palette index.
        placed: The views, from back to front.
        palette: Colours, [20, 3] uint8.
    """
    down, across = out.shape[0] / TALL, out.shape[1] / WIDTH
    out[:] = palette[fill]
    for item in placed:
        view, paper = item.view, item.paper
        if view.kind == "Scrim":
            out //= 2
            continue
        if view.fill != NONE:
            paper = view.fill
            _rectangle(out, item, palette[paper], down, across)
        if view.text:
            text, size = fitted(view.full or view.text, (min(view.width, WIDTH - item.x) - 1) / PITCH)
            alpha = line(text, round(size * 100), round(down * 1000), round(across * 1000))
            top = item.y + (1 - size) * HEIGHT / 2
            _blend(out, alpha, item, top * down, item.x * across, (view.ink, paper), palette)
        if view.icon:
            alpha = picture(view.icon, round(icons.SIZE * down), round(icons.SIZE * across))
            _blend(out, alpha, item, item.y * down, item.x * across, (view.ink, paper), palette)


def fitted(text: str, room: float) -> tuple[str, float]:
    """Return what is written of a text in so many letters' room, and how large: 1 is the font's own size.

    >>> fitted("Settings", 5)
    ('Settings', 0.625)
    >>> fitted("Settings", 3)
    ('Setti…', 0.5)
    """
    size = min(1.0, room / max(1, len(text)))
    if size >= SMALLEST:
        return text, size
    letters = int(room / SMALLEST)
    return text[: letters - 1] + "…", SMALLEST


def _rectangle(out: np.ndarray, item: Placed, color: np.ndarray, down: float, across: float) -> None:
    view, inset = item.view, 0.8 if item.view.kind == "Thumb" else 0.0
    top, bottom = max(item.y + inset, item.top, 0), min(item.y + view.height - inset, item.bottom)
    y, end = round(top * down), round(bottom * down)
    if view.height == 1:  # a line
        y = max(y, end - max(1, round(down / 4)))
    x = max(0, round((item.x + inset) * across))
    right = min(out.shape[1], round((item.x + view.width - inset) * across))
    if y >= end or x >= right:
        return
    radius = min(round(view.round * across), (end - y) // 2, (right - x) // 2)
    if not radius:
        out[y:end, x:right] = color
        return
    out[y + radius : end - radius, x:right] = color
    shares = corner(radius)
    for rows, part in ((slice(y, y + radius), shares), (slice(end - radius, end), shares[::-1])):
        out[rows, x + radius : right - radius] = color
        _mix(out[rows, x : x + radius], color, part)
        _mix(out[rows, right - radius : right], color, part[:, ::-1])


def _mix(out: np.ndarray, color: np.ndarray, shares: np.ndarray) -> None:
    """Move pixels towards a colour, each by its share, 0 to 255."""
    alpha = shares[..., None].astype(np.uint16)
    out[:] = (out * (255 - alpha) + color * alpha + 127) // 255


@lru_cache(maxsize=64)
def corner(radius: int) -> np.ndarray:
    """Return how much of each pixel lies in the upper left quarter of a disc, [radius, radius] uint8 of 0 to 255."""
    steps = radius - np.arange(radius) - 0.5
    inside: np.ndarray = np.clip(radius - np.hypot(steps[:, None], steps) + 0.5, 0, 1)
    return (255 * inside).astype(np.uint8)


def _blend(
    out: np.ndarray, alpha: np.ndarray, item: Placed, y: float, x: float, colors: tuple[int, int], palette: np.ndarray
) -> None:
    """Draw a mask in a view's ink; what of it lies outside of the view's visible part is cut."""
    scale = out.shape[0] / TALL
    top, left = round(y), round(x)
    first, last = round(max(item.top, 0) * scale) - top, round(item.bottom * scale) - top
    alpha = alpha[max(0, first) : max(0, last), : max(0, out.shape[1] - left)]
    top += max(0, first)
    region = out[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    alpha = alpha[: region.shape[0]]
    ink, paper = (palette[color].tobytes() for color in colors)
    np.copyto(region, ramp(ink, paper)[alpha], where=alpha[..., None] > 0)


@lru_cache(maxsize=1024)
def ramp(ink: bytes, paper: bytes) -> np.ndarray:
    """Return the colours from paper (at 0) to ink (at 255), [256, 3] uint8, of three bytes each."""
    ends = [np.frombuffer(color, np.uint8).astype(np.float32) for color in (paper, ink)]
    shares = np.arange(256, dtype=np.float32)[:, None] / 255
    colors: np.ndarray = (ends[0] + (ends[1] - ends[0]) * shares + 0.5).astype(np.uint8)
    return colors


@lru_cache(maxsize=512)
def line(text: str, size: int, down: int, across: int) -> np.ndarray:
    """Return a line of text as a mask, [height, width] uint8 of 0 to 255.

    Args:
        text: Its letters.
        size: Hundredths of the font's own size.
        down: Thousandths of pixels a dp, vertically.
        across: The same, horizontally.
    """
    from PIL import Image, ImageDraw

    pitch, height = PITCH * across * size / 1e5, round(_HEIGHT * down * size / 1e5)
    canvas = Image.new("L", (max(1, round(pitch * len(text))), max(1, height)))
    pen, font = ImageDraw.Draw(canvas), _font(max(4, round(_EM * down * size / 1e5)))
    for index, letter in enumerate(text):
        pen.text(((index + 0.5) * pitch, HEIGHT * down * size / 1e5), letter, 255, font, anchor="ms")
    return np.asarray(canvas)


@lru_cache(maxsize=16)
def _font(pixels: int) -> Any:
    from PIL import ImageFont

    spec = find_spec("matplotlib")  # found, not imported
    assert spec is not None and spec.origin is not None
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSansMono.ttf", pixels)


@lru_cache(maxsize=256)
def picture(name: str, height: int, width: int) -> np.ndarray:
    """Return an icon as a mask with smooth edges, [height, width] uint8 of 0 to 255."""
    from PIL import Image

    coarse = np.pad(icons.mask(name).astype(np.float32), 2)  # so that edges are alike all around
    wide = Image.fromarray(coarse).resize((12 * width // 8, 12 * height // 8), Image.Resampling.BICUBIC)
    soft = np.asarray(wide)[height // 4 : height // 4 + height, width // 4 : width // 4 + width]
    steep = max(1.0, height / 16)
    return (255 * np.clip((soft - 0.5) * steep + 0.5, 0, 1)).astype(np.uint8)
