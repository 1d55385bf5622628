"""Where junction lanes meet, found geometrically, and who goes first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.curves import Curve, Floats, resample, slopes, stations, wrap
from palaestra.envs.driving.lanes import Lane, LaneGraph

TOUCH = 2.5
"""Metres between two centre lines at which the cars on them may touch; lanes beside each other are wider."""
TURN = np.pi / 6
"""Radians from which on a change of direction is a turn."""


@dataclass(frozen=True, slots=True)
class Track:
    """A lane as an arena holds it: `n` points that divide its length evenly."""

    curve: Curve
    """Through its points."""
    yaw: Floats
    """[n], without jumps."""
    curvature: Floats
    """[n]."""
    half_width: Floats
    """[n]."""
    length: float
    """Metres."""

    @staticmethod
    def of(lane: Lane, spacing: float) -> Track:
        """Resample a lane."""
        curve = Curve.of(resample(np.asarray(lane.points, dtype=np.float64), spacing))
        count, length = len(curve.along), float(curve.along[-1])
        width = lane.width
        if not np.isscalar(width):
            along = stations(lane.points)
            width = np.interp(np.linspace(0, along[-1], count), along, np.asarray(width))
        yaw = curve.headings()
        curvature = slopes(yaw, curve.along)
        return Track(curve, yaw, curvature, np.broadcast_to(np.asarray(width) / 2, count), length)

    @property
    def points(self) -> Floats:
        """[n, 2]."""
        return self.curve.points

    @property
    def spacing(self) -> float:
        """Metres between its points."""
        return self.length / (len(self.points) - 1)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two junction lanes, by index, that meet."""

    lanes: tuple[int, int]
    stretches: tuple[tuple[float, float], tuple[float, float]]
    """On each of the two, the stations between which cars may touch."""
    waits: int | None
    """Which of the two waits, 0 or 1; None where signals keep them apart."""


def turn_of(yaw_in: float, yaw_out: float) -> int:
    """Return 1 for a left turn, -1 for a right one, 0 for straight on."""
    change = float(wrap(yaw_out - yaw_in))
    return 0 if abs(change) < TURN else (1 if change > 0 or change < -np.pi + TURN else -1)


def find_conflicts(graph: LaneGraph, tracks: list[Track]) -> list[Conflict]:
    """Return every pair of junction lanes that cross or merge, of a map and its lanes as tracks."""
    names = list(graph.lanes)
    before = graph.predecessors()
    inside = [index for index, name in enumerate(names) if graph.lanes[name].junction]
    if not inside:
        return []
    low = np.array([tracks[index].points.min(0) for index in inside]) - TOUCH / 2
    high = np.array([tracks[index].points.max(0) for index in inside]) + TOUCH / 2
    meet = (low[:, None] < high[None]).all(2) & (low[None] < high[:, None]).all(2)
    found = []
    for i, j in np.argwhere(np.triu(meet, 1)):
        pair = (inside[i], inside[j])
        one, other = names[pair[0]], names[pair[1]]
        follow = other in graph.lanes[one].successors or one in graph.lanes[other].successors
        if follow or set(before[one]) & set(before[other]):
            continue  # in file, or parting ways: a matter of who drives ahead
        stretches = _touching(tracks[pair[0]], tracks[pair[1]])
        if stretches is not None:
            found.append(Conflict(pair, stretches, _who_waits(graph, before, (one, other), tracks, pair)))
    return found


def _touching(one: Track, other: Track) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the stretches of two tracks on which they are within `TOUCH` of each other."""
    gap = one.points[:, None] - other.points[None]
    near = np.einsum("ijk,ijk->ij", gap, gap) < TOUCH**2
    if not near.any():
        return None
    here, there = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    return _stretch(here, one), _stretch(there, other)


def _stretch(touched: NDArray[np.int64], track: Track) -> tuple[float, float]:
    """Return the stations of touched points, half a spacing beyond on either side."""
    low, high = (touched[0] - 0.5) * track.spacing, (touched[-1] + 0.5) * track.spacing
    return max(0.0, float(low)), min(track.length, float(high))


def _who_waits(
    graph: LaneGraph,
    before: dict[str, list[str]],
    names: tuple[str, str],
    tracks: list[Track],
    pair: tuple[int, int],
) -> int | None:
    """Return which of two conflicting lanes gives way: 0, 1, or None where signals keep them apart.

    A stop yields to a give-way line, that to a free road or a signal; then turns yield to straight on, left turns
    to right turns; then whoever comes from the left yields; then the lane of the higher index.
    """
    groups = [{graph.lanes[name].signal for name in before[lane]} - {None} for lane in names]
    pairs = [(graph.signals[a], graph.signals[b]) for a in groups[0] for b in groups[1] if a and b]
    if pairs and not any(a.overlaps(b) for a, b in pairs):
        return None
    ranks = [_rank(graph, before[name], tracks[index]) for name, index in zip(names, pair, strict=True)]
    if ranks[0] != ranks[1]:
        return 0 if ranks[0] < ranks[1] else 1
    side = np.sin(tracks[pair[1]].yaw[0] - tracks[pair[0]].yaw[0])
    return 0 if side > np.sin(TURN) else 1  # one who comes from the right heads for the left


def _rank(graph: LaneGraph, before: list[str], track: Track) -> tuple[int, int]:
    controls = {graph.lanes[name].control for name in before}
    control = 0 if Control.STOP in controls else (1 if Control.YIELD in controls else 2)
    turn = turn_of(track.yaw[0], track.yaw[-1])
    return control, {0: 2, -1: 1, 1: 0}[turn]
