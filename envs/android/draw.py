"""Views into pixels: first placed on the phone, then drawn as palette indices, then coloured at any resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from palaestra.envs.android import font, icons
from palaestra.envs.android.palette import NONE, PAPER
from palaestra.envs.android.views import TALL, WIDTH, Screen, View

STATUS = 7
"""dp of the status bar."""


@dataclass(slots=True, eq=False)
class Placed:
    """A view where it is on the phone."""

    view: View
    """What."""
    x: int
    """dp of its left edge."""
    y: int
    """dp of its upper edge."""
    top: int
    """dp; above this it is hidden."""
    bottom: int
    """dp; from here on it is hidden."""
    paper: int
    """The colour that it lies on."""
    scrolls: bool = False
    """Whether it moves when the body is scrolled."""

    @property
    def visible(self) -> bool:
        """Whether its middle can be seen and touched."""
        middle = self.y + self.view.height // 2
        return self.top <= middle < self.bottom and 0 <= self.x < WIDTH

    def holds(self, x: float, y: float) -> bool:
        """Whether a point on the phone (dp) lies in its visible part."""
        view = self.view
        return (
            self.x <= x < self.x + view.width
            and max(self.y, self.top) <= y < min(self.y + view.height, self.bottom)
        )


def place(view: View, x: int, y: int, top: int, bottom: int, paper: int, out: list[Placed], scrolls: bool) -> None:
    """Add a view and what is in it to `out`, unless no part of it can be seen."""
    x, y = x + view.x, y + view.y
    if y >= bottom or y + view.height <= top:
        return
    out.append(Placed(view, x, y, top, bottom, paper, scrolls))
    if view.fill != NONE:
        paper = view.fill
    for child in view.children:
        place(child, x, y, top, bottom, paper, out, scrolls)


def arrange(screen: Screen, scroll: int, bottom: int) -> tuple[list[Placed], int]:
    """Place an app's screen between the status bar and `bottom` (dp).

    Returns:
        What can be seen, from back to front, and the largest scroll (dp) that shows something new.
    """
    placed: list[Placed] = []
    top, paper = STATUS, screen.fill
    if screen.bar is not None:
        place(screen.bar, 0, top, top, bottom, paper, placed, False)
        top += screen.bar.height
    if screen.footer is not None:
        bottom -= screen.footer.height
    y = top - scroll
    for block in screen.body:
        place(block, 0, y, top, bottom, paper, placed, True)
        y += block.height
    most = max(0, y + scroll - bottom)
    if screen.footer is not None:
        place(screen.footer, 0, bottom, bottom, bottom + screen.footer.height, paper, placed, False)
    if screen.button is not None:
        place(screen.button, 0, bottom - 15, top, bottom, paper, placed, False)
    if screen.dialog:
        placed += arrange_dialog(screen.dialog, bottom)
    return placed, most


def arrange_dialog(blocks: list[View], bottom: int = TALL, y: int | None = None) -> list[Placed]:
    """Place blocks as a dialog: over a shadow, in the middle or from `y` (dp) on."""
    placed: list[Placed] = []
    height = sum(block.height for block in blocks)
    y = max(STATUS + 2, (STATUS + bottom - height) // 2) if y is None else y
    frame = View(0, y - 2, WIDTH, height + 4, fill=1, kind="Scrim")
    inside = View(0, y - 1, WIDTH, height + 2, fill=PAPER, round=4, kind="FrameLayout", name="dialog")
    for view in (frame, inside):
        place(view, 0, 0, 0, TALL, PAPER, placed, False)
    for block in blocks:
        place(block, 0, y, 0, TALL, PAPER, placed, False)
        y += block.height
    return placed


def paint(canvas: np.ndarray, placed: list[Placed]) -> None:
    """Draw placed views on a canvas, [128, 64] uint8 palette indices."""
    for item in placed:
        view, x, y, top, bottom = item.view, item.x, item.y, item.top, item.bottom
        paper = item.paper
        if view.fill != NONE:
            paper = view.fill
            canvas[max(y, top, 0) : max(0, min(y + view.height, bottom)), max(x, 0) : x + view.width] = paper
        if view.text:
            _blit(canvas, font.line(view.text[: view.width // font.PITCH + 1], view.ink, paper), x, y, top, bottom)
        if view.icon:
            _blit(canvas, icons.picture(view.icon, view.ink, paper), x, y, top, bottom)


def _blit(canvas: np.ndarray, picture: np.ndarray, x: int, y: int, top: int, bottom: int) -> None:
    """Copy a picture to the canvas, cut at the edges."""
    height, width = picture.shape
    if y < top or y + height > bottom:
        first, last = max(0, top - y), min(height, bottom - y)
        if first >= last:
            return
        picture, y = picture[first:last], y + first
        height = last - first
    if x + width > WIDTH:
        picture = picture[:, : WIDTH - x]
    canvas[y : y + height, x : x + width] = picture


def colored(canvas: np.ndarray, palette: np.ndarray, out: np.ndarray) -> None:
    """Write a canvas ([128, 64] uint8) in colour into `out`, [H, W, 3] uint8, of any size: nearest pixel."""
    height, width = out.shape[:2]
    if (height, width) != canvas.shape:
        rows, columns = np.arange(height) * TALL // height, np.arange(width) * WIDTH // width
        np.take(palette[canvas[:, columns]], rows, axis=0, out=out, mode="clip")
        return
    np.take(palette, canvas, axis=0, out=out, mode="clip")  # "raise" would copy
