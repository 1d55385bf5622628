"""Routes of generated maps, drawn at random between lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from palaestra.envs.driving.curves import length_of
from palaestra.envs.driving.lanes import LaneGraph, MapError, Route
from palaestra.envs.driving.maps.draw import Draw
from palaestra.envs.driving.routes import CLEARANCE, change_room, find_way

START_CLEARANCE, END_CLEARANCE = 20.0, 8.0
"""Metres from a route's start to its first lane's end, and from its end to its last lane's end, at least."""
REPEATS = 3
"""How many routes may lead over the same lanes, between other ends."""
TRIES = 400
"""Draws before giving up."""


def add_routes(
    graph: LaneGraph,
    draw: Draw,
    count: int,
    lengths: tuple[float, float],
    starts: Sequence[str] | None = None,
    goals: Sequence[str] | None = None,
    wanted: Callable[[tuple[str, ...]], bool] | None = None,
) -> None:
    """Add routes to a map.

    Args:
        graph: The map.
        draw: Random numbers.
        count: How many routes at most.
        lengths: The shortest and the longest, metres.
        starts: Where they may start; by default on every lane outside junctions.
        goals: Where they may end; by default on every lane outside junctions.
        wanted: Which ways are worth a route; by default those that pass a junction.

    Raises:
        MapError: no route was found.
    """
    outside = [name for name, lane in graph.lanes.items() if not lane.junction]
    starts, goals = starts or outside, goals or outside
    good = wanted or (lambda way: any(graph.lanes[name].junction for name in way))
    metres = {name: length_of(lane.points) for name, lane in graph.lanes.items()}
    ways: dict[tuple[str, str], tuple[str, ...] | None] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    for _ in range(TRIES):
        if count <= 0:
            break
        ends = starts[draw.choice(*range(len(starts)))], goals[draw.choice(*range(len(goals)))]
        if ends not in ways:
            ways[ends] = find_way(graph, *ends, metres)
        way = ways[ends]
        if way is None or seen[way] >= REPEATS or not good(way):
            continue
        route = _place(graph, draw, way, metres, lengths)
        if route is not None:
            seen[way] += 1
            graph.routes.append(route)
            count -= 1
    if not graph.routes:
        raise MapError(f"map {graph.name!r}: no route of {lengths[0]:.0f} to {lengths[1]:.0f} m in {TRIES} draws.")


def _place(
    graph: LaneGraph, draw: Draw, way: tuple[str, ...], metres: dict[str, float], lengths: tuple[float, float]
) -> Route | None:
    """Return a route along a way with random ends, or None where it is too short, too long or too tight."""
    low, high = 5.0, metres[way[0]] - START_CLEARANCE
    first, last = 15.0, metres[way[-1]] - END_CLEARANCE
    if high < low or last < first:
        return None
    start, end = draw.uniform(low, high), draw.uniform(first, last)
    rows: list[list[str]] = [[way[0]]]
    for name, after in pairwise(way):
        if after in graph.lanes[name].successors:
            rows.append([after])
        else:
            rows[-1].append(after)
    total = 0.0
    for number, row in enumerate(rows):
        length = end if number == len(rows) - 1 else metres[row[0]]
        length -= start if number == 0 else 0.0
        if length < change_room(graph.lanes[row[0]].limit) * (len(row) - 1) + 2 * CLEARANCE * (len(row) > 1):
            return None
        total += length
    return Route(way, start, end) if lengths[0] <= total <= lengths[1] else None
