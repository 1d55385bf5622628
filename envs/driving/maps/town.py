"""Maps of a small town: blocks between crossings with signals or priority and roundabouts, on bent streets."""

from __future__ import annotations

import numpy as np

from palaestra.envs.driving.curves import Floats, join, length_of
from palaestra.envs.driving.lanes import LaneGraph
from palaestra.envs.driving.maps.draw import Draw, Split
from palaestra.envs.driving.maps.junctions import build
from palaestra.envs.driving.maps.network import Edge, Kind, Network, Node
from palaestra.envs.driving.maps.streets import TOWN_ROUTES, add_midblock
from palaestra.envs.driving.maps.ways import add_routes

Place = tuple[int, int]


def town(seed: int = 0, split: Split = "train", size: Place | None = None) -> LaneGraph:
    """Return a town: a grid of junctions, shaken, with streets that lead out of it at its corners and sides.

    Args:
        seed: Of everything random.
        split: Which maps it belongs to.
        size: Columns and rows of junctions; drawn from 2 x 2, 3 x 2 and 2 x 3 by default.
    """
    draw = Draw("town", split, seed)
    columns, rows = size or ((2, 2), (3, 2), (2, 3))[draw.choice(0, 1, 1, 2, 2)]
    block = draw.uniform(95.0, 125.0), draw.uniform(95.0, 125.0)
    network = Network()
    kinds: list[Kind] = ["signal", "roundabout", "priority", "signal", "stop", "signal"]
    first = draw.choice(*range(len(kinds)))
    for number, (column, row) in enumerate(np.ndindex(columns, rows)):
        shake = np.array([draw.uniform(-9.0, 9.0), draw.uniform(-9.0, 9.0)])
        node = Node(np.array([column * block[0], row * block[1]]) + shake, kinds[(first + number) % len(kinds)])
        node.ring = draw.uniform(14.0, 17.0)
        node.signals = "split" if draw.chance(0.25) else "permissive"
        network.nodes[f"{column},{row}"] = node
    _add_streets(network, draw, (columns, rows))
    graph = build(network, draw.name, (draw.uniform(10.0, 18.0), draw.uniform(8.0, 12.0)))
    for edge in network.edges.values():
        if draw.chance(0.3) and length_of(edge.path) > 90.0:
            add_midblock(graph, edge, length_of(edge.path) * 0.5)
    add_routes(graph, draw, 24, (150.0, TOWN_ROUTES[1]))
    return graph


def _add_streets(network: Network, draw: Draw, size: Place) -> None:
    """Add the streets between neighbours and out of town; one row and one column may have two lanes each way."""
    limit, width = draw.uniform(8.0, 13.0), draw.uniform(3.1, 3.5)
    broad = draw.choice(*range(size[1])), draw.choice(*range(-1, size[0]))
    for column, row in np.ndindex(*size):
        for (right, up), lane_line in (((1, 0), row == broad[0]), ((0, 1), column == broad[1])):
            other = f"{column + right},{row + up}"
            lanes = 2 if lane_line else 1
            if other in network.nodes:
                _add_street(network, draw, (f"{column},{row}", other), lanes, (limit, width), major=bool(right))
    for column, row in np.ndindex(*size):
        out = np.array([_outwards(column, size[0]), _outwards(row, size[1])])
        if out.any() and (out.all() or draw.chance(0.6)):
            here = f"{column},{row}"
            there = f"{here} out"
            reach = draw.uniform(75.0, 95.0) * out / np.linalg.norm(out)
            network.nodes[there] = Node(network.nodes[here].position + reach, "end")
            _add_street(network, draw, (here, there), 1, (limit, width), major=False)


def _outwards(place: int, count: int) -> int:
    """Return -1 at the low border, 1 at the high one, 0 between."""
    return (place == count - 1) - (place == 0)


def _add_street(
    network: Network, draw: Draw, ends: tuple[str, str], lanes: int, rest: tuple[float, float], major: bool
) -> None:
    """Add a street between two nodes, gently bent, with its limit and lane width."""
    start, end = (network.nodes[name].position for name in ends)
    network.edges[f"{ends[0]}-{ends[1]}"] = Edge(_bent(draw, start, end), ends, (lanes, lanes), *rest, major)


def _bent(draw: Draw, start: Floats, end: Floats) -> Floats:
    """Return a bent path [n, 2] between two points."""
    yaw = float(np.arctan2(*(end - start)[::-1]))
    bends = draw.uniform(-0.22, 0.22), draw.uniform(-0.22, 0.22)
    return join(start, yaw + bends[0], end, yaw + bends[1])
