"""What an agent sees of a page: encoder sizes, the mapping back to raw pixels, and cutting out.

An image is a view of a rectangle of a raw page. A box in a view's own pixels is a view of a smaller rectangle of the
same page, so cutting a cut composes: VRAG's released trainer maps the second box into the wrong place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2, in pixels; the second corner is outside."""


@dataclass(frozen=True)
class Budget:
    """How large images are shown: VRAG scales pages and cut-outs alike into one range of pixels, which is the zoom."""

    least: int = 256 * 28 * 28
    """Pixels to which smaller images are scaled up (VRAG's)."""
    most: int = 512 * 28 * 28
    """Pixels to which larger images are scaled down."""
    fixed: int | None = None
    """If given, every image is shown as a square of this side instead."""

    def size(self, height: float, width: float) -> tuple[int, int]:
        """Return the height and width at which a rectangle is shown, its proportions kept unless `fixed`."""
        if self.fixed is not None:
            return self.fixed, self.fixed
        pixels = height * width
        scale = math.sqrt(min(max(pixels, self.least), self.most) / pixels)
        return max(1, int(height * scale)), max(1, int(width * scale))


TINY = Budget(fixed=24)
"""At this size a 96-pixel page shows its icons and no digit, and a third of it shows both."""


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of a raw page, as shown."""

    page: str
    """The page's id."""
    box: Box
    """In raw pixels."""
    size: tuple[int, int]
    """Height and width in shown pixels."""


def whole(page: str, pixels: Tensor, budget: Budget) -> View:
    """Return the view of a whole page [H, W, C]."""
    height, width = pixels.shape[:2]
    return View(page, (0.0, 0.0, float(width), float(height)), budget.size(height, width))


def to_raw(box: Sequence[float], view: View) -> Box:
    """Map a box in a view's shown pixels to raw pixels (VRAG eq. 2)."""
    height, width = view.size
    x1, y1, x2, y2 = view.box
    across, down = (x2 - x1) / width, (y2 - y1) / height
    return x1 + box[0] * across, y1 + box[1] * down, x1 + box[2] * across, y1 + box[3] * down


def to_shown(box: Box, view: View) -> Box:
    """Map a box in raw pixels to a view's shown pixels: the inverse of `to_raw`."""
    height, width = view.size
    x1, y1, x2, y2 = view.box
    across, down = width / (x2 - x1), height / (y2 - y1)
    return (box[0] - x1) * across, (box[1] - y1) * down, (box[2] - x1) * across, (box[3] - y1) * down


def cut(view: View, box: Sequence[float], budget: Budget) -> View | None:
    """Return the view of a box in another view's shown pixels, clamped to it; None where nothing of it is left."""
    height, width = view.size
    inside = [min(max(value, 0.0), limit) for value, limit in zip(box, (width, height) * 2, strict=True)]
    x1, y1, x2, y2 = to_raw(inside, view)
    if inside[2] <= inside[0] or inside[3] <= inside[1] or x2 - x1 < 1 or y2 - y1 < 1:
        return None
    return View(view.page, (x1, y1, x2, y2), budget.size(y2 - y1, x2 - x1))


def render(view: View, pixels: Tensor) -> Tensor:
    """Return what a view shows of its raw page [H, W, C], [h, w, C] uint8.

    Pixels that the rectangle's edges pass through count as a whole: a rectangle never lies outside of what is shown.
    """
    x1, y1, x2, y2 = view.box
    part = pixels[int(y1) : math.ceil(y2 - 1e-6), int(x1) : math.ceil(x2 - 1e-6)]
    if part.shape[:2] == view.size:
        return part.clone()
    picture = part.permute(2, 0, 1)[None].float()
    scaled = F.interpolate(picture, size=view.size, mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
