"""What happens at a network's nodes: crossings with signals or priority, and roundabouts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.conflicts import turn_of
from palaestra.envs.driving.curves import STEP, Floats, direction, end_yaws, headings, join, offset, stations, wrap
from palaestra.envs.driving.lanes import Lane, LaneGraph, Signal
from palaestra.envs.driving.maps.network import SETBACK, Arm, Network, Node, add_crosswalk, add_turn, lay_roads, rule

LATERAL = 2.5
"""m/s²: the comfortable acceleration that sets a turn's speed limit."""
SLOWEST = 4.0
"""m/s: the lowest limit of a turn."""
YELLOW, ALL_RED = 3.0, 1.5
"""Seconds after each green."""
ENTRY, ENTRY_SHARE = 0.52, 0.35
"""Radians round the ring between an arm's middle and where its lanes meet the ring; at most this share of the angle
to the next arm."""


def build(network: Network, name: str, greens: tuple[float, float]) -> LaneGraph:
    """Return the map of a network, without routes.

    Args:
        network: Its roads and nodes.
        name: The map's name.
        greens: Seconds of green at signals, of the first and the second axis.
    """
    graph = LaneGraph(name)
    for node, arms in lay_roads(network, graph).items():
        kind = network.nodes[node].kind
        if kind == "roundabout":
            add_roundabout(graph, node, network.nodes[node], arms)
        elif kind != "end":
            add_crossing(graph, node, network.nodes[node], arms, greens)
    return graph


def add_crossing(graph: LaneGraph, name: str, node: Node, arms: list[Arm], greens: tuple[float, float]) -> None:
    """Join the arms of a node with turning lanes and rule their ends.

    Args:
        graph: Takes the lanes, signals and crosswalks.
        name: The node's name.
        node: The node: "signal", "priority" or "stop".
        arms: Its arms, counter-clockwise.
        greens: Seconds of green of the first and the second axis.
    """
    for arm in arms:
        for other in arms:
            if other is not arm:
                _connect(graph, name, node, arm, other)
    graph.areas.append(_outline(graph, arms))
    if node.crosswalks:
        for arm in arms:
            add_crosswalk(graph, arm, inside=SETBACK / 2 + 0.5)
    if node.kind == "signal":
        _signals(graph, name, node, arms, greens)
        return
    for arm in arms:
        if not arm.major:
            rule(graph, arm.into, Control.STOP if node.kind == "stop" else Control.YIELD)


def _connect(graph: LaneGraph, name: str, node: Node, arm: Arm, other: Arm) -> None:
    """Add the lanes from one arm to another."""
    turn = turn_of(arm.yaw + np.pi, other.yaw)
    apart = node.kind == "signal" and node.signals == "protected"
    if turn == 1:
        pairs = [(arm.into[0], other.out[0])]
    elif turn == -1:
        pairs = [(arm.into[-1], other.out[-1])]
    else:
        lanes = arm.into[1:] if apart else arm.into
        pairs = list(zip(reversed(lanes), reversed(other.out), strict=False))
    for before, after in pairs:
        start, end = graph.lanes[before].points, graph.lanes[after].points
        points = _turn(start[-1], end_yaws(start)[1], end[0], end_yaws(end)[0])
        limit = min(arm.limit, other.limit, turn_limit(points))
        add_turn(graph, f"{name}:{before}>{after}", Lane(points, limit, arm.width, junction=True), before, after)


def _turn(start: Floats, start_yaw: float, end: Floats, end_yaw: float) -> Floats:
    """Return a curve through a junction: straight over the setbacks, a smooth turn between."""
    first = start + SETBACK * direction(start_yaw)
    last = end - SETBACK * direction(end_yaw)
    curve = join(first, start_yaw, last, end_yaw)
    share = np.linspace(0, 1, round(SETBACK / STEP), endpoint=False)[:, None]
    return np.concatenate((start + share * (first - start), curve, end - share[::-1] * (end - last)))


def turn_limit(points: Floats) -> float:
    """Return the speed, m/s, at which a curve [n, 2] is comfortable."""
    yaw = headings(points)
    at = stations(points)
    reach = 3.0  # metres over which the curvature is averaged
    bend = np.abs(np.interp(at + reach, at, yaw) - np.interp(at - reach, at, yaw)).max() / (2 * reach)
    return float(max(SLOWEST, np.sqrt(LATERAL / max(bend, 1e-3))))


def _outline(graph: LaneGraph, arms: list[Arm]) -> Floats:
    """Return the corners [n, 2] of a junction's ground: the kerbs from each arm to the next one."""
    kerbs = []
    for arm, beside in zip(arms, [*arms[1:], arms[0]], strict=True):
        start, end = graph.lanes[arm.into[-1]].points, graph.lanes[beside.out[-1]].points
        curve = _turn(start[-1], end_yaws(start)[1], end[0], end_yaws(end)[0])
        kerbs.append(offset(curve[::6], -min(arm.width, beside.width) / 2))
    return np.concatenate(kerbs)


def _axes(arms: list[Arm]) -> list[list[Arm]]:
    """Return the arms in pairs that face each other, or alone."""
    axes: list[list[Arm]] = []
    left = list(arms)
    while left:
        arm = left.pop(0)
        facing = [other for other in left if turn_of(arm.yaw + np.pi, other.yaw) == 0]
        axes.append([arm, *facing[:1]])
        left = [other for other in left if other not in facing[:1]]
    return axes


def _signals(graph: LaneGraph, name: str, node: Node, arms: list[Arm], greens: tuple[float, float]) -> None:
    """Add the signal groups of a node: phases one after the other, all in one cycle."""
    phases: list[tuple[str, list[str], float]] = []
    if node.signals == "split":
        phases = [(arm.edge, arm.into, greens[0] * 0.6) for arm in arms]
    else:
        for number, axis in enumerate(_axes(arms)):
            green = greens[number % 2]
            into = [lane for arm in axis for lane in arm.into]
            if node.signals == "protected":
                turning = [arm.into[0] for arm in axis]
                phases.append((f"{number}left", turning, green * 0.5))
                into = [lane for lane in into if lane not in turning]
            phases.append((f"{number}", into, green))
    cycle = sum(green + YELLOW + ALL_RED for _, _, green in phases)
    start = 0.0
    for label, lanes, green in phases:
        graph.signals[f"{name}/{label}"] = Signal(cycle, start, green, YELLOW)
        rule(graph, lanes, Control.SIGNAL, f"{name}/{label}")
        start += green + YELLOW + ALL_RED


def add_roundabout(graph: LaneGraph, name: str, node: Node, arms: list[Arm]) -> None:
    """Join the arms of a node by a one-lane ring, counter-clockwise; who enters yields.

    Args:
        graph: Takes the lanes and crosswalks.
        name: The node's name.
        node: The node.
        arms: Its arms, counter-clockwise.
    """
    width = max(arm.width for arm in arms) + 1.0
    limit = float(np.sqrt(LATERAL * node.ring))
    angles = [float(np.arctan2(*(arm.point - node.position)[::-1])) for arm in arms]
    gaps = [float(wrap(after - angle) % (2 * np.pi)) for angle, after in pairwise([*angles, angles[0]])]
    entry = min(ENTRY, ENTRY_SHARE * min(gaps))
    marks = [angle + side * entry for angle in angles for side in (-1, 1)]
    marks = [marks[0] + float(wrap(mark - marks[0]) % (2 * np.pi)) for mark in marks] + [marks[0] + 2 * np.pi]
    ring = []
    for number, (low, high) in enumerate(pairwise(marks)):
        ring.append(f"{name}:ring{number}")
        graph.lanes[ring[-1]] = Lane(_arc(node, low, high), limit, width, junction=True)
    for number, at in enumerate(ring):
        graph.connect(at, ring[(number + 1) % len(ring)])
    for number, arm in enumerate(arms):
        tangents = [mark + np.pi / 2 for mark in marks[2 * number : 2 * number + 2]]
        leave, enter = (node.position + node.ring * direction(mark) for mark in marks[2 * number : 2 * number + 2])
        into, out = graph.lanes[arm.into[-1]].points, graph.lanes[arm.out[-1]].points
        curve = join(into[-1], end_yaws(into)[1], enter, tangents[1])
        lane = Lane(curve, min(limit, turn_limit(curve)), arm.width, junction=True)
        add_turn(graph, f"{name}:enter{number}", lane, arm.into[-1], ring[(2 * number + 1) % len(ring)])
        curve = join(leave, tangents[0], out[0], end_yaws(out)[0])
        lane = Lane(curve, min(limit, turn_limit(curve)), arm.width, junction=True)
        add_turn(graph, f"{name}:leave{number}", lane, ring[2 * number - 1], arm.out[-1])
        rule(graph, arm.into, Control.YIELD)
        if node.crosswalks:
            add_crosswalk(graph, arm, inside=-8.0)


def _arc(node: Node, low: float, high: float) -> Floats:
    """Return points [n, 2] of a node's ring between two angles."""
    count = max(8, round((high - low) * node.ring / 0.5))
    return np.asarray(node.position + node.ring * direction(np.linspace(low, high, count)))
