"""From maps to an arena: every map as flat arrays with indices of its own, then one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from palaestra.envs.driving.arena import SPACING, Arena
from palaestra.envs.driving.conflicts import Track, find_conflicts
from palaestra.envs.driving.curves import wrap
from palaestra.envs.driving.lanes import MOST_SUCCESSORS, LaneGraph, MapError, validate
from palaestra.envs.driving.routes import trace
from palaestra.envs.driving.texture import paint

Array = NDArray[Any]
SPAWN_EVERY = 10.0
"""Metres between the points of a lane where traffic may start."""
SPAWN_CLEARANCE = 5.0
"""Metres kept free of them at either end of a lane."""
DEAD_END = 25.0
"""Metres kept free of them before a lane that leads nowhere ends."""
POINTS_OF = {
    "lane": ("successors", "left", "right", "conflict", "route_lane", "spawn_lane"),
    "point": ("first",),
    "signal": ("signal",),
    "crosswalk": ("crossing",),
}
"""Which arrays are indices, and of what."""
PAD = {"conflict": -1, "crossing": -1}
"""What fills rows that are shorter than others; 0 where not said."""


def build_arena(maps: Sequence[LaneGraph]) -> Arena:
    """Return an arena of maps, on the CPU, in their order.

    Raises:
        MapError: there is no map, or one cannot be driven; see `validate`.
    """
    if not maps:
        raise MapError("an arena needs at least one map; got none.")
    for graph in maps:
        validate(graph)
    parts = [compile_map(graph) for graph in maps]
    merged: dict[str, Array] = {}
    for key in parts[0]:
        merged[key] = _stack([part[key] for part in parts], PAD.get(key, 0), repeat=key.startswith("route_"))
    for what, keys in POINTS_OF.items():
        counts = _counts(parts, what)
        shift = np.concatenate(([0], np.cumsum(counts)[:-1]))
        for key in keys:
            rows = np.repeat(shift, [len(part[key]) for part in parts])
            rows = rows.reshape(-1, *[1] * (merged[key].ndim - 1))
            merged[key] = np.where(merged[key] >= 0, merged[key] + rows, -1)
    for kind in ("lane", "route", "crosswalk", "spawn"):
        counts = _counts(parts, kind)
        ends = np.cumsum(counts)
        merged[f"{kind}_range"] = np.stack((ends - counts, ends), 1)
        if kind != "spawn":
            merged[f"{kind}_map"] = np.repeat(np.arange(len(parts)), counts)
    sizes = _counts(parts, "texture")
    merged["texture_first"] = np.cumsum(sizes) - sizes
    return Arena(**{key: torch.from_numpy(_narrow(array)) for key, array in merged.items()})


def compile_map(graph: LaneGraph) -> dict[str, Array]:
    """Return an arena's arrays of one checked map, with indices that count from 0; without ranges and maps."""
    tracks = [Track.of(lane, SPACING) for lane in graph.lanes.values()]
    texture = paint(graph, tracks)
    return {
        **_points(graph, tracks),
        **_lanes(graph, tracks),
        **_conflicts(graph, tracks),
        **_crossings(graph, tracks),
        **_signals(graph),
        **_routes(graph, tracks),
        **_spawns(graph, tracks),
        "texture": texture.pixels.reshape(-1),
        "texture_shape": np.array([texture.pixels.shape]),
        "texture_origin": texture.origin[None],
    }


def _counts(parts: list[dict[str, Array]], what: str) -> NDArray[np.int64]:
    """Return how many of something each part has."""
    key = {
        "lane": "left",
        "point": "yaw",
        "signal": "cycle",
        "crosswalk": "crosswalk",
        "route": "route_count",
        "spawn": "spawn_lane",
        "texture": "texture",
    }[what]
    return np.array([len(part[key]) for part in parts], dtype=np.int64)


def _stack(arrays: list[Array], fill: int, repeat: bool) -> Array:
    """Return arrays one after the other; short rows are filled, or go on with their last entry."""
    if arrays[0].ndim > 1:
        width = max(array.shape[1] for array in arrays)
        padded = []
        for array in arrays:
            pad = [(0, 0), (0, width - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
            padded.append(np.pad(array, pad, mode="edge") if repeat else np.pad(array, pad, constant_values=fill))
        arrays = padded
    return np.concatenate(arrays)


def _narrow(array: Array) -> Array:
    """Return floats as float32 and integers as int64; bytes and booleans as they are."""
    if np.issubdtype(array.dtype, np.floating):
        return np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype in (np.bool_, np.uint8):
        return array
    return np.ascontiguousarray(array, dtype=np.int64)


def _points(graph: LaneGraph, tracks: list[Track]) -> dict[str, Array]:
    counts = np.array([len(track.points) for track in tracks])
    return {
        "position": np.concatenate([track.points for track in tracks]),
        "yaw": np.concatenate([wrap(track.yaw) for track in tracks]),
        "curvature": np.concatenate([track.curvature for track in tracks]),
        "half_width": np.concatenate([track.half_width for track in tracks]),
        "limit": np.repeat([lane.limit for lane in graph.lanes.values()], counts),
        "first": np.cumsum(counts) - counts,
        "count": counts,
        "length": np.array([track.length for track in tracks]),
    }


def _lanes(graph: LaneGraph, tracks: list[Track]) -> dict[str, Array]:
    index = {name: number for number, name in enumerate(graph.lanes)}
    group = {name: number for number, name in enumerate(graph.signals)}
    lanes = graph.lanes.values()
    successors = np.full((len(tracks), MOST_SUCCESSORS), -1)
    for number, lane in enumerate(lanes):
        successors[number, : len(lane.successors)] = [index[name] for name in lane.successors]
    return {
        "successors": successors,
        "left": np.array([-1 if lane.left is None else index[lane.left] for lane in lanes]),
        "right": np.array([-1 if lane.right is None else index[lane.right] for lane in lanes]),
        "junction": np.array([lane.junction for lane in lanes]),
        "control": np.array([int(lane.control) for lane in lanes]),
        "signal": np.array([-1 if lane.signal is None else group[lane.signal] for lane in lanes]),
    }


def _conflicts(graph: LaneGraph, tracks: list[Track]) -> dict[str, Array]:
    """Return each pair of lanes that meet, in the rows of both."""
    rows: list[list[tuple[int, tuple[float, float], tuple[float, float], bool]]] = [[] for _ in tracks]
    for conflict in find_conflicts(graph, tracks):
        (one, other), (here, there) = conflict.lanes, conflict.stretches
        rows[one].append((other, here, there, conflict.waits == 0))
        rows[other].append((one, there, here, conflict.waits == 1))
    most = max(1, *(len(row) for row in rows))
    lane = np.full((len(tracks), most), -1)
    stretches = np.zeros((2, len(tracks), most, 2))
    waits = np.zeros((len(tracks), most), dtype=np.bool_)
    for number, row in enumerate(rows):
        for at, (other, here, there, gives_way) in enumerate(row):
            lane[number, at], waits[number, at] = other, gives_way
            stretches[:, number, at] = here, there
    return {"conflict": lane, "conflict_here": stretches[0], "conflict_there": stretches[1], "gives_way": waits}


def _crossings(graph: LaneGraph, tracks: list[Track]) -> dict[str, Array]:
    """Return the crosswalks that each lane crosses, in the order in which it does."""
    points = np.concatenate([track.points for track in tracks])
    lane_of = np.repeat(np.arange(len(tracks)), [len(track.points) for track in tracks])
    first = np.searchsorted(lane_of, np.arange(len(tracks)))
    rows: list[list[tuple[float, int]]] = [[] for _ in tracks]
    for number, crosswalk in enumerate(graph.crosswalks):
        reach = float(np.linalg.norm(crosswalk[1] - crosswalk[0]))
        axis = (crosswalk[1] - crosswalk[0]) / reach
        away = points - crosswalk[0]
        side, along = away[:, 1] * axis[0] - away[:, 0] * axis[1], away @ axis
        passed = (side[:-1] < 0) != (side[1:] < 0)
        for at in np.flatnonzero(passed & (lane_of[:-1] == lane_of[1:])):
            share = side[at] / (side[at] - side[at + 1])
            lane = int(lane_of[at])
            if 0 <= along[at] + share * (along[at + 1] - along[at]) <= reach:
                rows[lane].append((float(at - first[lane] + share) * tracks[lane].spacing, number))
    most = max(1, *(len(row) for row in rows))
    crossing, station = np.full((len(tracks), most), -1), np.zeros((len(tracks), most))
    for lane, row in enumerate(rows):
        for place, (where, number) in enumerate(sorted(row)):
            crossing[lane, place], station[lane, place] = number, where
    return {"crossing": crossing, "crossing_at": station, "crosswalk": np.reshape(graph.crosswalks, (-1, 2, 2))}


def _signals(graph: LaneGraph) -> dict[str, Array]:
    groups = list(graph.signals.values())
    return {key: np.array([getattr(one, key) for one in groups]) for key in ("cycle", "start", "green", "yellow")}


def _routes(graph: LaneGraph, tracks: list[Track]) -> dict[str, Array]:
    paths = [trace(graph, route, tracks, SPACING) for route in graph.routes]
    limits = np.array([lane.limit for lane in graph.lanes.values()])
    counts = np.array([len(path.points) for path in paths])

    def rows(values: list[Array]) -> Array:
        return _stack([value[None] for value in values], 0, repeat=True)

    half = np.concatenate([track.half_width for track in tracks])
    spacing = np.array([track.spacing for track in tracks])
    counts_of = np.array([len(track.points) for track in tracks])
    first = np.cumsum(counts_of) - counts_of
    widths = [half[first[path.lane] + np.rint(path.station / spacing[path.lane]).astype(int)] for path in paths]
    return {
        "route_count": counts,
        "route_position": rows([path.points for path in paths]),
        "route_yaw": rows([wrap(path.yaw) for path in paths]),
        "route_curvature": rows([path.curvature for path in paths]),
        "route_limit": rows([limits[path.lane] for path in paths]),
        "route_half_width": rows(widths),
        "route_lane": rows([path.lane for path in paths]),
        "route_station": rows([path.station for path in paths]),
        "route_command": rows([path.command for path in paths]),
    }


def _spawns(graph: LaneGraph, tracks: list[Track]) -> dict[str, Array]:
    lanes, stations = [], []
    for number, (lane, track) in enumerate(zip(graph.lanes.values(), tracks, strict=True)):
        if lane.junction:
            continue
        end = track.length - (SPAWN_CLEARANCE if lane.successors else DEAD_END)
        at = np.arange(SPAWN_CLEARANCE, end, SPAWN_EVERY)
        lanes.append(np.full(len(at), number))
        stations.append(at)
    return {"spawn_lane": np.concatenate(lanes), "spawn_station": np.concatenate(stations)}
