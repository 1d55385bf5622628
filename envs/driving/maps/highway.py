"""Maps of a highway's carriageway with a merge and an exit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from palaestra.envs.driving.curves import Floats, between, direction, headings, join, length_of
from palaestra.envs.driving.lanes import Lane, LaneGraph
from palaestra.envs.driving.maps.draw import Draw, Split
from palaestra.envs.driving.maps.network import add_lanes
from palaestra.envs.driving.maps.streets import taper, winding
from palaestra.envs.driving.maps.ways import add_routes

ROUTES = (300.0, 900.0)
"""Metres: the shortest and the longest route."""
TAPER = 40.0
"""Metres over which a lane that ends fades out."""


def highway(seed: int = 0, split: Split = "train") -> LaneGraph:
    """Return one carriageway of 2 to 4 lanes: a ramp merges over an extra lane, another one leaves from one.

    Args:
        seed: Of everything random.
        split: Which maps it belongs to.
    """
    draw = Draw("highway", split, seed)
    graph = LaneGraph(draw.name)
    lanes, width, limit = draw.choice(2, 3, 3, 4), draw.uniform(3.4, 3.9), draw.uniform(20.0, 25.0)
    path = winding(draw, draw.uniform(760.0, 900.0), draw.uniform(0.0005, 0.002))
    length = length_of(path)
    cuts = [0.0, draw.uniform(130.0, 190.0)]
    cuts.append(cuts[-1] + draw.uniform(130.0, 190.0))
    cuts.append(cuts[-1] + draw.uniform(60.0, 120.0))
    cuts += [cuts[-1] + draw.uniform(130.0, 190.0), length]
    parts = [between(path, low, high) for low, high in pairwise(cuts)]
    names = ("before", "merge", "middle", "exit", "after")
    rows = []
    for name, part in zip(names, parts, strict=True):
        extra = name in ("merge", "exit")
        rows.append(add_lanes(graph, name, part, lanes + extra, width, limit))
    for row, following in pairwise(rows):
        for before, after in zip(row[:lanes], following[:lanes], strict=True):
            graph.connect(before, after)
    slow = draw.uniform(14.0, 18.0)
    on, off = rows[1][lanes], rows[3][lanes]
    reach, away, turn = draw.uniform(100.0, 140.0), draw.uniform(14.0, 24.0), draw.uniform(0.15, 0.3)
    graph.lanes["on-ramp"] = Lane(_ramp(graph.lanes[on].points, 0, reach, away, turn), slow, width)
    graph.lanes["off-ramp"] = Lane(_ramp(graph.lanes[off].points, -1, reach, away, turn), slow, width)
    graph.connect("on-ramp", on)
    graph.connect(off, "off-ramp")
    edge = lanes * width
    graph.areas.append(taper(between(path, cuts[2], cuts[2] + TAPER), edge, width))
    opening = between(path, cuts[3] - TAPER, cuts[3])[::-1]
    graph.areas.append(taper(opening, -edge, -width))
    starts = [*rows[0], "on-ramp", "on-ramp", *rows[1]]
    goals = [*rows[4], "off-ramp", "off-ramp", "off-ramp"]
    add_routes(graph, draw, 12, ROUTES, starts, goals, lambda way: len(way) > 3)
    return graph


def _ramp(lane: Floats, end: int, reach: float, away: float, turn: float) -> Floats:
    """Return a ramp's points [n, 2]: it comes to a lane's start (end 0) or leaves from its end (end -1)."""
    yaw, point = float(headings(lane)[end]), lane[end]
    sign = 1 if end == 0 else -1
    far = point - sign * reach * direction(yaw) + away * direction(yaw - np.pi / 2)
    return join(far, yaw + turn, point, yaw) if end == 0 else join(point, yaw, far, yaw - turn)
