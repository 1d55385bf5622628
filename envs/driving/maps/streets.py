"""Maps of one road: the curvy arterial, and the road that loses a lane."""

from __future__ import annotations

import numpy as np

from palaestra.envs.driving.curves import (
    Floats,
    between,
    direction,
    headings,
    integrate,
    interpolate,
    length_of,
    line,
    offset,
    stations,
)
from palaestra.envs.driving.lanes import LaneGraph
from palaestra.envs.driving.maps.draw import Draw, Split
from palaestra.envs.driving.maps.junctions import build
from palaestra.envs.driving.maps.network import KERB, Edge, Network, Node, add_lanes
from palaestra.envs.driving.maps.ways import add_routes

TOWN_ROUTES = (100.0, 400.0)
"""Metres: the shortest and the longest route of maps with junctions."""


def winding(draw: Draw, length: float, sharpest: float) -> Floats:
    """Return a random road [n, 2] from the origin, straight at both ends, whose bends follow smooth waves.

    Args:
        draw: Random numbers.
        length: Metres.
        sharpest: Curvature of its sharpest bend, 1/m.
    """
    at = (np.arange(round(length / 0.5)) + 0.5) * 0.5
    wave = draw.uniform(90.0, 160.0)  # metres from left bend to left bend
    curvature = np.sin(2 * np.pi * (at / wave + draw.uniform(0, 1))) * (0.6 + 0.4 * np.sin(2 * np.pi * at / 370.0))
    ends = np.clip(np.minimum(at, length - at) / 20.0 - 1.0, 0, 1)
    yaw = draw.choice(0, 1, 2, 3) * np.pi / 2 + draw.uniform(-0.25, 0.25)  # along an axis the picture is smaller
    return integrate(np.zeros(2), yaw, sharpest * curvature * ends)


def arterial(seed: int = 0, split: Split = "train", sharpest: float | None = None) -> LaneGraph:
    """Return a curvy road of several lanes each way, with one crossing at signals and a crosswalk elsewhere.

    Args:
        seed: Of everything random.
        split: Which maps it belongs to.
        sharpest: Curvature of its sharpest bend, 1/m; drawn from 0.008 to 0.02 by default.
    """
    draw = Draw("arterial", split, seed)
    lanes, width, limit = draw.choice(2, 2, 3), draw.uniform(3.1, 3.6), draw.uniform(11.0, 15.0)
    path = winding(draw, draw.uniform(360.0, 460.0), sharpest or draw.uniform(0.008, 0.02))
    length = length_of(path)
    at = length * draw.uniform(0.4, 0.6)
    middle = interpolate(path, np.array([at]))[0]
    across = float(np.interp(at, stations(path), headings(path))) + np.pi / 2 + draw.uniform(-0.25, 0.25)
    network = Network()
    network.nodes["cross"] = Node(middle, "signal", signals="protected" if draw.chance(0.3) else "permissive")
    for name, point in (("from", path[0]), ("to", path[-1])):
        network.nodes[name] = Node(point, "end")
    halves = between(path, 0.0, at), between(path, at, length)
    network.edges["main1"] = Edge(halves[0], ("from", "cross"), (lanes, lanes), limit, width)
    network.edges["main2"] = Edge(halves[1], ("cross", "to"), (lanes, lanes), limit, width)
    side = 2 if network.nodes["cross"].signals == "protected" else 1
    for name, sign in (("side1", 1), ("side2", -1)):
        end = middle + sign * draw.uniform(70.0, 100.0) * direction(across)
        network.nodes[name] = Node(end, "end")
        network.edges[name] = Edge(line(middle, end), ("cross", name), (side, side), 0.8 * limit, width, major=False)
    graph = build(network, draw.name, (draw.uniform(14.0, 24.0), draw.uniform(8.0, 12.0)))
    add_midblock(graph, network.edges["main1"], draw.uniform(0.35, 0.6) * at)
    add_routes(graph, draw, 12, TOWN_ROUTES)
    return graph


def lane_drop(seed: int = 0, split: Split = "train") -> LaneGraph:
    """Return a winding road whose rightmost lane ends half-way; the other direction keeps its lanes.

    Args:
        seed: Of everything random.
        split: Which maps it belongs to.
    """
    draw = Draw("lane-drop", split, seed)
    graph = LaneGraph(draw.name)
    lanes, width, limit = draw.choice(2, 3), draw.uniform(3.1, 3.6), draw.uniform(11.0, 18.0)
    path = winding(draw, draw.uniform(340.0, 440.0), draw.uniform(0.003, 0.012))
    length = length_of(path)
    at = length * draw.uniform(0.4, 0.65)
    wide = add_lanes(graph, "wide", between(path, 0.0, at), lanes, width, limit)
    narrow = add_lanes(graph, "narrow", between(path, at, length), lanes - 1, width, limit)
    add_lanes(graph, "back", path[::-1], draw.choice(1, 2), width, limit)
    for before, after in zip(wide, narrow, strict=False):
        graph.connect(before, after)
    graph.areas.append(taper(between(path, at, at + 30.0), (lanes - 1) * width, width))
    add_midblock(graph, Edge(path, ("", ""), (lanes, 2), width=width), at * draw.uniform(0.25, 0.4))
    forward = [*wide, *narrow]
    add_routes(graph, draw, 8, TOWN_ROUTES, forward, narrow, lambda way: way[0] in wide)
    return graph


def taper(path: Floats, edge: float, width: float) -> Floats:
    """Return the corners [k, 2] of the ground beside a road on which a lane that ended fades out.

    Args:
        path: [n, 2], the road's middle line where that happens.
        edge: Metres from it to the road's right edge.
        width: Metres of the lane that ended.
    """
    fade = edge + width * np.linspace(1, 0, len(path))
    return np.concatenate((offset(path, -edge + 0.3), offset(path, -fade)[::-1]))


def add_midblock(graph: LaneGraph, edge: Edge, station: float) -> None:
    """Add a crosswalk over an edge of a network, at a station of its path."""
    at = stations(edge.path)
    middle = interpolate(edge.path, np.array([station]))[0]
    left = direction(float(np.interp(station, at, headings(edge.path))) + np.pi / 2)
    back, ahead = edge.lanes[1] * edge.width + KERB, edge.lanes[0] * edge.width + KERB
    graph.crosswalks.append(np.stack((middle + back * left, middle - ahead * left)))
