"""Road networks from nodes and edges: two-way roads of lanes, joined by junctions of several kinds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.curves import Floats, between, direction, headings, line, offset, stations, wrap
from palaestra.envs.driving.lanes import Lane, LaneGraph

Kind = Literal["end", "signal", "priority", "stop", "roundabout"]
CORNER = 7.0
"""Metres between the kerbs' meeting point and where junction arms begin."""
SETBACK = 5.5
"""Metres from a stop line to the junction proper: room for a crosswalk."""
KERB = 0.6
"""Metres from the road's edge to where walkers wait."""


@dataclass(slots=True)
class Node:
    """Where roads end or meet."""

    position: Floats
    """[2]."""
    kind: Kind
    """end: the map's border. signal, priority (side roads yield), stop (side roads stop), roundabout."""
    crosswalks: bool = True
    """Whether walkers may cross its arms."""
    ring: float = 16.0
    """Radius in metres of a roundabout's centre line."""
    signals: str = "permissive"
    """permissive: opposite arms together, left turns give way. split: one arm after the other. protected: opposite
    arms together, their left turns apart; needs two lanes or more on every arm."""


@dataclass(slots=True)
class Edge:
    """A two-way road between two nodes."""

    path: Floats
    """[n, 2]: the line between the directions, from the first node to the second."""
    ends: tuple[str, str]
    """Names of nodes."""
    lanes: tuple[int, int] = (1, 1)
    """Lanes towards the second node and towards the first."""
    limit: float = 13.9
    """m/s."""
    width: float = 3.4
    """Metres a lane."""
    major: bool = True
    """It has priority at priority and stop nodes."""


@dataclass(slots=True)
class Arm:
    """A road where it meets a node, seen from the node."""

    edge: str
    """Its edge's name."""
    into: list[str]
    """Lanes that enter the node, the leftmost first."""
    out: list[str]
    """Lanes that leave it, the leftmost first."""
    point: Floats
    """[2]: where the road's middle line begins."""
    yaw: float
    """Direction away from the node."""
    width: float
    """Metres a lane."""
    major: bool
    limit: float


@dataclass(slots=True)
class Network:
    """Nodes and edges by name."""

    nodes: dict[str, Node] = field(default_factory=dict)
    """By name."""
    edges: dict[str, Edge] = field(default_factory=dict)
    """By name."""


def straight(network: Network, one: str, other: str) -> Floats:
    """Return the path [n, 2] of a straight edge."""
    return line(network.nodes[one].position, network.nodes[other].position)


def lay_roads(network: Network, graph: LaneGraph) -> dict[str, list[Arm]]:
    """Add every edge's lanes to the graph, cut where junctions begin; return the arms of each node."""
    arms: dict[str, list[Arm]] = {name: [] for name in network.nodes}
    radii = {name: _radius(network, name) for name in network.nodes}
    for name, edge in network.edges.items():
        first, last = edge.ends
        length = stations(edge.path)[-1]
        path = between(edge.path, radii[first], length - radii[last])
        yaw = headings(path)
        ahead = add_lanes(graph, f"{name}+", path, edge.lanes[0], edge.width, edge.limit)
        back = add_lanes(graph, f"{name}-", path[::-1], edge.lanes[1], edge.width, edge.limit)
        rest = (edge.width, edge.major, edge.limit)
        arms[first].append(Arm(name, back, ahead, path[0], float(yaw[0]), *rest))
        arms[last].append(Arm(name, ahead, back, path[-1], float(yaw[-1] + np.pi), *rest))
    for meeting in arms.values():
        meeting.sort(key=lambda arm: float(wrap(arm.yaw)))
    return arms


def add_lanes(
    graph: LaneGraph, prefix: str, path: Floats, count: int, width: float, limit: float, first: float = 0.5
) -> list[str]:
    """Add lanes side by side to the right of a path; return their names, the leftmost first.

    Args:
        graph: Takes the lanes, "{prefix}0" and so on.
        prefix: Of their names.
        path: [n, 2], in the direction of travel.
        count: How many lanes.
        width: Metres a lane.
        limit: m/s.
        first: Widths from the path to the middle of the leftmost lane.
    """
    names = [f"{prefix}{number}" for number in range(count)]
    for number, name in enumerate(names):
        graph.lanes[name] = Lane(
            offset(path, -(number + first) * width),
            limit,
            width,
            left=names[number - 1] if number else None,
            right=names[number + 1] if number + 1 < count else None,
        )
    return names


def _radius(network: Network, name: str) -> float:
    """Return how far from a node's middle its arms end."""
    node = network.nodes[name]
    if node.kind == "end":
        return 0.0
    if node.kind == "roundabout":
        return node.ring + 12.0
    directions, halves = [], []
    for edge in network.edges.values():
        for end, at in ((0, edge.ends[0]), (-1, edge.ends[1])):
            if at == name:
                yaw = headings(edge.path)[end]
                directions.append(float(yaw if end == 0 else yaw + np.pi))
                halves.append(max(edge.lanes) * edge.width)
    reach = max(halves)
    for yaw, half in zip(directions, halves, strict=True):
        for other, beside in zip(directions, halves, strict=True):
            angle = abs(float(wrap(other - yaw)))
            if 0.3 < angle < 2.6:
                reach = max(reach, (beside + half * np.cos(angle)) / np.sin(angle))
    return float(reach + CORNER + SETBACK)


def add_crosswalk(graph: LaneGraph, arm: Arm, inside: float) -> None:
    """Add a crosswalk over an arm, `inside` metres from its beginning towards the node."""
    middle = arm.point - inside * direction(arm.yaw)
    left = direction(arm.yaw + np.pi / 2)
    into, out = len(arm.into) * arm.width + KERB, len(arm.out) * arm.width + KERB
    graph.crosswalks.append(np.stack((middle + into * left, middle - out * left)))


def add_turn(graph: LaneGraph, name: str, lane: Lane, before: str, after: str) -> None:
    """Add a junction lane between two lanes."""
    graph.lanes[name] = lane
    graph.connect(before, name)
    graph.connect(name, after)


def rule(graph: LaneGraph, lanes: list[str], control: Control, signal: str | None = None) -> None:
    """Put a control at the ends of lanes."""
    for name in lanes:
        graph.lanes[name].control = control
        graph.lanes[name].signal = signal
