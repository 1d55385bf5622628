"""The ground of a map as a picture of `Ground` bits, painted by sampling lanes densely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palaestra.envs.driving.arena import PIXELS_A_METRE, Control, Ground
from palaestra.envs.driving.conflicts import Track
from palaestra.envs.driving.curves import Floats, direction
from palaestra.envs.driving.lanes import LaneGraph

GRAIN = 0.17
"""Metres between samples: below a pixel's side over √2, so that no pixel is missed."""
MARGIN = 4.0
"""Metres of empty ground round everything that is painted."""
MARK = 0.45
"""Metres from a lane's edge that belong to its marks; other lanes' marks are wiped from its inside."""
DASH, DASH_PERIOD = 3.0, 7.5
"""Metres of paint in a broken line, and after how many the next begins."""
STOP_DEPTH = 0.6
"""Metres along the lane that a stop line takes."""
TEETH = 1.0
"""Metres: the period of a give-way line's dashes."""
CROSSWALK_WIDTH, STRIPE_PERIOD = 3.0, 1.0
"""Metres: how wide a crosswalk is, and after how many its next stripe begins; half of that is paint."""


@dataclass(frozen=True, slots=True)
class Texture:
    """A picture of the ground."""

    pixels: NDArray[np.uint8]
    """[rows, columns] of `Ground` bits, row 0 at the south."""
    origin: Floats
    """[2]: the south-west corner of pixel (0, 0)."""

    def add(self, points: Floats, bits: int) -> None:
        """Set bits at points [..., 2]."""
        column, row = self._cells(points)
        self.pixels[row, column] |= np.uint8(bits)

    def remove(self, points: Floats, bits: int) -> None:
        """Clear bits at points [..., 2]."""
        column, row = self._cells(points)
        self.pixels[row, column] &= np.uint8(~bits & 0xFF)

    def _cells(self, points: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        cells = np.floor((points.reshape(-1, 2) - self.origin) * PIXELS_A_METRE).astype(np.int64)
        return cells[:, 0], cells[:, 1]


def paint(graph: LaneGraph, tracks: list[Track]) -> Texture:
    """Return the ground of a map, whose lanes are given as tracks too."""
    texture = _blank(graph, tracks)
    ribbons = [_Ribbon(track) for track in tracks]
    for lane, ribbon in zip(graph.lanes.values(), ribbons, strict=True):
        texture.add(ribbon.surface(0.0), Ground.ROAD | (Ground.JUNCTION if lane.junction else 0))
    for area in graph.areas:
        texture.add(_inside(area), Ground.ROAD)
    for lane, ribbon in zip(graph.lanes.values(), ribbons, strict=True):
        if lane.junction:
            continue
        for side, beside in ((1, lane.left), (-1, lane.right)):
            edge = ribbon.edge(side)
            if beside is not None:
                edge = edge[ribbon.along % DASH_PERIOD < DASH]
            texture.add(edge, Ground.SOLID if beside is None else Ground.BROKEN)
    for ribbon in ribbons:
        texture.remove(ribbon.surface(MARK), Ground.SOLID | Ground.BROKEN)
    for lane, ribbon in zip(graph.lanes.values(), ribbons, strict=True):
        texture.add(ribbon.stop_line(lane.control), Ground.STOP_LINE)
    for crosswalk in graph.crosswalks:
        texture.add(_stripes(crosswalk), Ground.CROSSWALK)
    texture.pixels[(texture.pixels & Ground.ROAD) == 0] = 0  # a crosswalk's ends lie on the kerbs
    return texture


def _blank(graph: LaneGraph, tracks: list[Track]) -> Texture:
    """Return an empty picture with room for everything."""
    widest = max(float(track.half_width.max()) for track in tracks)
    lanes = np.concatenate([track.points for track in tracks])
    others = [np.reshape(shape, (-1, 2)) for shape in (*graph.crosswalks, *graph.areas)]
    low = np.min([lanes.min(0) - widest, *(shape.min(0) - CROSSWALK_WIDTH for shape in others)], 0) - MARGIN
    high = np.max([lanes.max(0) + widest, *(shape.max(0) + CROSSWALK_WIDTH for shape in others)], 0) + MARGIN
    origin = np.floor(low)
    columns, rows = (np.ceil(high - origin) * PIXELS_A_METRE).astype(int)
    return Texture(np.zeros((rows, columns), dtype=np.uint8), origin)


class _Ribbon:
    """A lane sampled densely along its length."""

    def __init__(self, track: Track) -> None:
        grid = np.linspace(0, track.length, len(track.points))
        self.along = np.linspace(0, track.length, int(track.length / GRAIN) + 2)
        self.half = np.interp(self.along, grid, track.half_width)
        self.centre = np.stack([np.interp(self.along, grid, axis) for axis in track.points.T], 1)
        self.normal = direction(np.interp(self.along, grid, track.yaw) + np.pi / 2)

    def surface(self, less: float) -> Floats:
        """Return points [n, k, 2] all over the lane, but for `less` metres at its edges."""
        half = np.maximum(self.half - less, 0.0)
        share = np.linspace(-1, 1, int(2 * half.max() / GRAIN) + 2)
        return np.asarray(self.centre[:, None] + (half[:, None] * share)[..., None] * self.normal[:, None])

    def edge(self, side: int) -> Floats:
        """Return points [n, 2] just within the left (1) or right (-1) edge."""
        return np.asarray(self.centre + (side * (self.half - 0.05))[:, None] * self.normal)

    def stop_line(self, control: Control) -> Floats:
        """Return points [n, 2] of the line at the lane's end that a control asks for."""
        if control == Control.NONE:
            return np.zeros((0, 2))
        last = self.along > self.along[-1] - STOP_DEPTH
        share = np.linspace(-1, 1, int(2 * self.half[-1] / GRAIN) + 2)
        if control == Control.YIELD:
            share = share[(share * self.half[-1]) % TEETH < TEETH / 2]
        across = (self.half[last][:, None] - 0.2) * share
        return np.asarray(self.centre[last][:, None] + across[..., None] * self.normal[last][:, None]).reshape(-1, 2)


def _stripes(crosswalk: Floats) -> Floats:
    """Return points [n, 2] of a crosswalk's stripes, from its ends [2, 2]."""
    start, end = np.asarray(crosswalk, dtype=np.float64)
    length = float(np.linalg.norm(end - start))
    along = np.arange(0, length, GRAIN)
    along = along[along % STRIPE_PERIOD < STRIPE_PERIOD / 2]
    axis = (end - start) / length
    across = np.arange(-CROSSWALK_WIDTH / 2, CROSSWALK_WIDTH / 2, GRAIN)
    normal = np.array([-axis[1], axis[0]])
    return np.asarray(start + along[:, None, None] * axis + across[None, :, None] * normal)


def _inside(corners: Floats) -> Floats:
    """Return points [n, 2] all over a polygon [k, 2], by the even-odd rule."""
    low, high = corners.min(0), corners.max(0)
    x, y = (np.arange(*ends, GRAIN) for ends in zip(low, high, strict=True))
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        (x0, y0), (x1, y1) = sorted((start, end), key=lambda corner: float(corner[1]))
        first, last = np.searchsorted(y, (y0, y1))
        edge = x0 + (y[first:last] - y0) / max(y1 - y0, 1e-9) * (x1 - x0)
        inside[first:last] ^= x < edge[:, None]
    row, column = np.nonzero(inside)
    return np.stack((x[column], y[row]), 1)
