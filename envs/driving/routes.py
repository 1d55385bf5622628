"""Routes as dense points with lane changes drawn as smooth shifts, and the way from lane to lane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from palaestra.envs.driving.arena import Command
from palaestra.envs.driving.conflicts import Track, turn_of
from palaestra.envs.driving.curves import Curve, Floats, headings, slopes, stations
from palaestra.envs.driving.lanes import LaneGraph, MapError, Route

NOTICE = 30.0
"""Metres before a manoeuvre at which its command begins."""
SHORTEST_CHANGE, LONGEST_CHANGE = 12.0, 80.0
"""Metres that a lane change takes."""
CHANGE_TIME = 3.0
"""Seconds that a lane change takes at the limit, where there is room: sideways it stays below 2.5 m/s²."""
CHANGE_ROOM = 30.0
"""Metres that a lane change gets at least where routes are found."""
CLEARANCE = 5.0
"""Metres kept free of lane changes at either end of a lane."""
CHANGE_COST = 40.0
"""Metres of way that avoiding a lane change is worth."""
FINE = 0.25
"""Metres between samples before a route is divided."""


@dataclass(frozen=True, slots=True)
class Path:
    """A route's points, `spacing` apart as the crow flies."""

    points: Floats
    """[q, 2]."""
    yaw: Floats
    """[q]."""
    curvature: Floats
    """[q]."""
    lane: NDArray[np.int64]
    """[q]: index of the lane it is on."""
    station: Floats
    """[q]."""
    command: NDArray[np.int64]
    """[q], of `Command`."""


@dataclass(frozen=True, slots=True)
class _Manoeuvre:
    first: int
    last: int
    command: Command


def trace(graph: LaneGraph, route: Route, tracks: list[Track], spacing: float) -> Path:
    """Return the dense points of a route.

    Raises:
        MapError: a lane is too short for the lane changes on it.
    """
    index = {name: number for number, name in enumerate(graph.lanes)}
    lanes = [index[name] for name in route.lanes]
    pieces = _pieces(graph, route)
    points, lane, share, manoeuvres, count = [], [], [], [], 0
    for number, (first, last) in enumerate(pieces):
        row = [tracks[lanes[at]] for at in range(first, last + 1)]
        start = _station(route.start, row[0]) / row[0].length if number == 0 else 0.0
        end = _station(route.end, row[-1]) / row[-1].length if number == len(pieces) - 1 else 1.0
        if end <= start:
            raise MapError(f"map {graph.name!r}: a route ends before it starts, on lane {route.lanes[last]!r}.")
        if number < len(pieces) - 1:
            end -= FINE / 2 / row[-1].length  # the next piece begins there
        shares = np.linspace(start, end, max(2, round((end - start) * row[0].length / FINE)))
        windows = _windows(graph, route, row, (first, last), (start, end))
        blended, ordinal = _blend(row, shares, windows)
        points.append(blended)
        lane.append(np.asarray(lanes[first : last + 1])[ordinal])
        share.append(shares)
        for step, (low, high) in enumerate(windows):
            left = graph.lanes[route.lanes[first + step]].left == route.lanes[first + step + 1]
            begun, done = (count + int(np.searchsorted(shares, at)) for at in (low, high))
            manoeuvres.append(_Manoeuvre(begun, done, Command.CHANGE_LEFT if left else Command.CHANGE_RIGHT))
        count += len(shares)
    merged = np.concatenate(points)
    lane_at, share_at = np.concatenate(lane), np.concatenate(share)
    manoeuvres += _turns(graph, lane_at, tracks)
    return _divide(merged, lane_at, share_at, sorted(manoeuvres, key=lambda one: one.first), tracks, spacing)


def _pieces(graph: LaneGraph, route: Route) -> list[tuple[int, int]]:
    """Return the runs (first, last) of a route's lanes that lie beside each other."""
    pieces, first = [], 0
    for at, (name, after) in enumerate(zip(route.lanes, route.lanes[1:], strict=False)):
        if after in graph.lanes[name].successors:
            pieces.append((first, at))
            first = at + 1
    return [*pieces, (first, len(route.lanes) - 1)]


def _station(value: float, track: Track) -> float:
    return value if value >= 0 else track.length + value


def _windows(
    graph: LaneGraph, route: Route, row: list[Track], ends: tuple[int, int], span: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return the shares between which each lane change of a piece happens."""
    changes = len(row) - 1
    if not changes:
        return []
    length = row[0].length
    start, end = span[0] * length + CLEARANCE, span[1] * length - CLEARANCE
    room = (end - start) / changes
    if room < SHORTEST_CHANGE:
        raise MapError(
            f"map {graph.name!r}: lane {route.lanes[ends[0]]!r} of {length:.1f} m leaves {room:.1f} m for each of "
            f"{changes} lane changes of a route, of which each takes {SHORTEST_CHANGE} m or more."
        )
    limit = graph.lanes[route.lanes[ends[0]]].limit
    taken = min(max(SHORTEST_CHANGE, CHANGE_TIME * limit), LONGEST_CHANGE, room)
    middles = start + room * (np.arange(changes) + 0.5)
    return [((middle - taken / 2) / length, (middle + taken / 2) / length) for middle in middles]


def _blend(
    row: list[Track], shares: Floats, windows: list[tuple[float, float]]
) -> tuple[Floats, NDArray[np.int64]]:
    """Return points [n, 2] at shares [n] of lanes beside each other, and which of the lanes each is on."""
    points = row[0].curve.at(shares * row[0].length)
    ordinal = np.zeros(len(shares), dtype=np.int64)
    for (low, high), track in zip(windows, row[1:], strict=True):
        at = np.clip((shares - low) / (high - low), 0, 1)
        weight = (at**3 * (10 - 15 * at + 6 * at**2))[:, None]  # no jump in curvature
        points = (1 - weight) * points + weight * track.curve.at(shares * track.length)
        ordinal += at >= 0.5
    return points, ordinal


def _turns(graph: LaneGraph, lane: NDArray[np.int64], tracks: list[Track]) -> list[_Manoeuvre]:
    """Return a manoeuvre for each stretch through a junction, from the lanes [n] of samples."""
    inside = np.array([one.junction for one in graph.lanes.values()])[lane]
    edges = np.flatnonzero(np.diff(np.concatenate(([0], inside.astype(np.int8), [0]))))
    commands = {1: Command.LEFT, -1: Command.RIGHT, 0: Command.STRAIGHT}
    found = []
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        turn = turn_of(tracks[lane[first]].yaw[0], tracks[lane[after - 1]].yaw[-1])
        found.append(_Manoeuvre(int(first), int(after) - 1, commands[turn]))
    return found


def _divide(
    samples: Floats,
    lane: NDArray[np.int64],
    share: Floats,
    manoeuvres: list[_Manoeuvre],
    tracks: list[Track],
    spacing: float,
) -> Path:
    """Return the path through samples [n, 2], cut into steps of the same chord."""
    curve = Curve.of(samples)
    along = curve.along
    at = np.arange(0, along[-1], spacing)
    for _ in range(4):  # an arc is longer than its chord
        points = curve.at(at)
        at = np.concatenate(([0.0], np.cumsum(np.diff(at) * spacing / np.diff(stations(points)))))
        at = at[at <= along[-1]]
    points = curve.at(at)
    nearest = np.clip(np.searchsorted(along, at), 0, len(along) - 1)
    command = np.full(len(at), Command.FOLLOW, dtype=np.int64)
    for one in reversed(manoeuvres):  # the one that comes first rules until it ends
        command[(at >= along[one.first] - NOTICE) & (at <= along[one.last])] = one.command
    yaw = headings(points)
    lengths = np.array([track.length for track in tracks])
    curvature = slopes(yaw, np.arange(len(yaw), dtype=np.float64) * spacing)
    return Path(points, yaw, curvature, lane[nearest], share[nearest] * lengths[lane[nearest]], command)


def change_room(limit: float) -> float:
    """Return the metres that a lane must have for each lane change on it, at a speed limit."""
    return max(CHANGE_ROOM, CHANGE_TIME * limit)


def find_way(graph: LaneGraph, start: str, goal: str, lengths: Mapping[str, float]) -> tuple[str, ...] | None:
    """Return the lanes of the shortest way from one lane to another, changes included; None: there is none.

    Args:
        graph: The map.
        start: The first lane.
        goal: The last lane.
        lengths: Metres of every lane.
    """
    queue: list[tuple[float, int, tuple[str, ...]]] = [(0.0, 0, (start,))]
    done: set[tuple[str, int]] = set()
    while queue:
        cost, changes, way = heappop(queue)
        name = way[-1]
        if name == goal:
            return way
        if (name, changes) in done:
            continue
        done.add((name, changes))
        lane = graph.lanes[name]
        for after in lane.successors:
            heappush(queue, (cost + lengths[name], 0, (*way, after)))
        if not lane.junction and lengths[name] >= change_room(lane.limit) * (changes + 1):
            for beside in (lane.left, lane.right):
                if beside is not None and beside not in way:
                    heappush(queue, (cost + CHANGE_COST, changes + 1, (*way, beside)))
    return None
