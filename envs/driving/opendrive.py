"""OpenDRIVE files (.xodr) as lane graphs: their roads, lanes, links, junctions, signals and signs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.curves import Floats, direction
from palaestra.envs.driving.importing import (
    draw_routes,
    in_turn,
    label,
    number,
    read_xml,
    text_of,
    weld,
    without_repeats,
)
from palaestra.envs.driving.lanes import Lane, LaneGraph, MapError
from palaestra.envs.driving.opendrive_geometry import cubic, reference_line

LIMIT = 13.9
"""m/s where the file says nothing."""
NARROWEST = 0.3
"""Metres: lanes that begin or end as a point have this width there."""
UNITS = {"m/s": 1.0, "km/h": 1 / 3.6, "mph": 0.44704}
"""m/s in the file's units of speed."""
SIGNS = {"205": Control.YIELD, "206": Control.STOP}
"""Types of signs, as German law counts them, that rule a lane's end."""
OTHER = {"start": "end", "end": "start"}
"""The other end of a road."""
End = tuple[str, str]
"""A lane by name, and "start" or "end": which end of its road section."""


@dataclass(slots=True)
class Road:
    """A road as read."""

    element: Element
    """<road>."""
    sections: list[dict[int, str]] = field(default_factory=list)
    """Of each section, the names of the lanes for cars by their ids."""

    def at(self, contact: str) -> dict[int, str]:
        """Return the lanes of the section at the road's "start" or "end"."""
        return self.sections[0 if contact == "start" else -1]


def load(path: str | Path, seed: int = 0, routes: int = 16, lengths: tuple[float, float] = (100.0, 400.0)) -> LaneGraph:
    """Return the map of an OpenDRIVE file, with random routes.

    Read are lines, arcs, spirals and parametric cubics, lane offsets and widths, links of roads and lanes, junctions,
    speeds, dynamic signals with their controllers, and stop and give-way signs. Traffic keeps to the right. A file
    does not say when signals change: the controllers of a junction, or its signals, are green in turn. Lanes of
    other types than driving, elevation, superelevation and crosswalks are not read.

    Args:
        path: The file.
        seed: Of the routes.
        routes: How many at most.
        lengths: Their shortest and longest length, metres.

    Raises:
        MapError: broken XML, a missing or bad attribute, an unknown road or lane; named with its element.
    """
    root = read_xml(path, "OpenDRIVE")
    graph = LaneGraph(Path(path).name)
    roads = {}
    for element in root.iterfind("road"):
        identifier = text_of(element, "id", str(path))
        roads[identifier] = Road(element)
        _add_road(graph, identifier, roads[identifier], f"{path}: {label(element)}")
    if not graph.lanes:
        raise MapError(f"{path} has no <road> with a lane of type driving.")
    for road in roads.values():
        _link_road(graph, roads, road, f"{path}: {label(road.element)}")
    for junction in root.iterfind("junction"):
        _link_junction(graph, roads, junction, f"{path}: {label(junction)}")
    _rule(graph, root, roads, str(path))
    weld(graph)
    draw_routes(graph, seed, routes, lengths)
    return graph


def _add_road(graph: LaneGraph, identifier: str, road: Road, where: str) -> None:
    """Add the lanes of all sections of a road."""
    element = road.element
    if element.get("rule", "RHT") != "RHT":
        raise MapError(f"{where}: traffic keeps to the left (rule={element.get('rule')!r}); only RHT can be read.")
    sections = element.findall("lanes/laneSection")
    if not sections:
        raise MapError(f"{where} has no <laneSection>.")
    length = number(element, "length", where)
    starts = [number(section, "s", where) for section in sections]
    line = reference_line(element, where)
    for index, (section, start, end) in enumerate(zip(sections, starts, [*starts[1:], length], strict=True)):
        if end - start < 1e-2:
            raise MapError(f"{where}: {label(section)} ends at {end} m: sections are in order and have a length.")
        at = np.linspace(start, end, max(3, round((end - start) / 0.5) + 1))
        point, yaw = line(at)
        middle = cubic(element.findall("lanes/laneOffset"), "s", at, where)
        names: dict[int, str] = {}
        for side, sign in (("left", 1), ("right", -1)):
            lanes = sorted(section.iterfind(f"{side}/lane"), key=lambda lane: abs(int(number(lane, "id", where))))
            edge = middle.copy()
            for lane in lanes:
                width = cubic(lane.findall("width"), "sOffset", at - start, f"{where}: {label(lane)}")
                if lane.get("type") == "driving":
                    ordinal = int(number(lane, "id", where))
                    names[ordinal] = f"{identifier}.{index}.{ordinal}"
                    centre = point + (edge + sign * width / 2)[:, None] * direction(yaw + np.pi / 2)
                    _add_lane(graph, names[ordinal], element, lane, (centre, width, start), where)
                edge = edge + sign * width
        for ordinal, name in names.items():
            inner, outer = (names.get(ordinal + step * (1 if ordinal > 0 else -1)) for step in (-1, 1))
            if not graph.lanes[name].junction:
                graph.lanes[name].left, graph.lanes[name].right = inner, outer
        road.sections.append(names)


def _add_lane(
    graph: LaneGraph, name: str, road: Element, lane: Element, shape: tuple[Floats, Floats, float], where: str
) -> None:
    """Add one lane, its points and widths given along the road; left lanes lead against it."""
    points, width, start = shape
    backward = number(lane, "id", where) > 0
    if backward:
        points, width = points[::-1], width[::-1]
    limit = LIMIT
    speeds = [kind.find("speed") for kind in road.iterfind("type") if number(kind, "s", where, 0.0) <= start]
    for speed in (*speeds, lane.find("speed")):
        if speed is not None and speed.get("max") not in (None, "no limit", "undefined"):
            unit = speed.get("unit", "m/s")
            if unit not in UNITS:
                raise MapError(f"{where}: <speed unit={unit!r}>; units are {', '.join(UNITS)}.")
            limit = number(speed, "max", where) * UNITS[unit]
    inside = road.get("junction", "-1") != "-1"
    clean = without_repeats(points)
    wide = np.maximum(width, NARROWEST) if len(clean) == len(points) else float(max(width.mean(), NARROWEST))
    graph.lanes[name] = Lane(clean, limit, wide, junction=inside)


def _connect(graph: LaneGraph, one: End, other: End) -> None:
    """Connect two lanes at two of their ends in the direction in which one can drive, if any."""
    for (before, leaves), (after, enters) in ((one, other), (other, one)):
        forward = [int(name.rpartition(".")[2]) < 0 for name in (before, after)]
        drives = leaves == ("end" if forward[0] else "start") and enters == ("start" if forward[1] else "end")
        if drives and after not in graph.lanes[before].successors:
            graph.connect(before, after)


def _lane_links(road: Road, section: int, kind: str) -> dict[int, list[int]]:
    """Return, by lane id, the ids that the lanes of a section name as predecessor or successor."""
    element = road.element.findall("lanes/laneSection")[section]
    return {
        int(lane.get("id", "0")): [int(link.get("id", "0")) for link in lane.iterfind(f"link/{kind}")]
        for lane in element.iterfind("*/lane")
    }


def _link_road(graph: LaneGraph, roads: dict[str, Road], road: Road, where: str) -> None:
    """Connect lanes from section to section and to the roads that the road names as its neighbours."""
    for index, (section, following) in enumerate(zip(road.sections, road.sections[1:], strict=False)):
        for lane, targets in _lane_links(road, index, "successor").items():
            for target in targets:
                if lane in section and target in following:
                    _connect(graph, (section[lane], "end"), (following[target], "start"))
    for kind, mine in (("predecessor", "start"), ("successor", "end")):
        link = road.element.find(f"link/{kind}")
        if link is None or link.get("elementType", "road") != "road":
            continue
        theirs = contact_of(link, where)
        other = road_of(roads, text_of(link, "elementId", where), where)
        for lane, targets in _lane_links(road, 0 if mine == "start" else -1, kind).items():
            for target in targets:
                if lane in road.at(mine) and target in other.at(theirs):
                    _connect(graph, (road.at(mine)[lane], mine), (other.at(theirs)[target], theirs))


def road_of(roads: dict[str, Road], identifier: str, where: str) -> Road:
    """Return a road by its id.

    Raises:
        MapError: there is none.
    """
    if identifier not in roads:
        raise MapError(f"{where} names the road {identifier!r}, which the file does not have.")
    return roads[identifier]


def contact_of(element: Element, where: str) -> str:
    """Return an element's contact point.

    Raises:
        MapError: it is neither "start" nor "end".
    """
    contact = text_of(element, "contactPoint", where)
    if contact not in OTHER:
        raise MapError(f"{where}: {label(element)}: contactPoint is {contact!r}; it must be 'start' or 'end'.")
    return contact


def _link_junction(graph: LaneGraph, roads: dict[str, Road], junction: Element, where: str) -> None:
    """Connect the lanes that enter a junction with those that lead through it."""
    for connection in junction.iterfind("connection"):
        incoming = road_of(roads, text_of(connection, "incomingRoad", where), f"{where}: {label(connection)}")
        through = road_of(roads, text_of(connection, "connectingRoad", where), f"{where}: {label(connection)}")
        theirs = contact_of(connection, where)
        for kind, mine in (("predecessor", "start"), ("successor", "end")):
            link = incoming.element.find(f"link/{kind}")
            if link is None or link.get("elementId") != junction.get("id") or link.get("elementType") != "junction":
                continue
            for pair in connection.iterfind("laneLink"):
                lane, target = (int(number(pair, key, where)) for key in ("from", "to"))
                if lane in incoming.at(mine) and target in through.at(theirs):
                    _connect(graph, (incoming.at(mine)[lane], mine), (through.at(theirs)[target], theirs))


def _rule(graph: LaneGraph, root: Element, roads: dict[str, Road], where: str) -> None:
    """Put signals and signs at the ends of lanes; the groups of each junction are green in turn."""
    controller = {
        control.get("signalId", ""): "controller " + text_of(element, "id", where)
        for element in root.iterfind("controller")
        for control in element.iterfind("control")
    }
    junctions: dict[str, set[str]] = {}
    before = graph.predecessors()
    for road in roads.values():
        for mark in road.element.iterfind("signals/*"):
            identifier = text_of(mark, "id", f"{where}: {label(road.element)}")
            source = mark if mark.tag == "signal" else root.find(f"road/signals/signal[@id='{identifier}']")
            if source is None:
                raise MapError(f"{where}: {label(mark)} refers to a <signal> that the file does not have.")
            control = Control.SIGNAL if source.get("dynamic") == "yes" else SIGNS.get(source.get("type", ""))
            if control is None:
                continue
            group = controller.get(identifier, f"signal {identifier}") if control == Control.SIGNAL else None
            for name in _ruled(road, mark, before):
                graph.lanes[name].control, graph.lanes[name].signal = control, group
                if group is not None:
                    after = graph.lanes[name].successors
                    place = after[0].rsplit(".", 2)[0] if after else ""
                    junction = roads[place].element.get("junction", "-1") if place else "-1"
                    junctions.setdefault(junction, set()).add(group)
    for groups in junctions.values():
        in_turn(graph, sorted(groups))


def _ruled(road: Road, mark: Element, before: dict[str, list[str]]) -> list[str]:
    """Return the lanes whose ends a signal or sign rules: of its road, or before it where that is in a junction."""
    forward = mark.get("orientation", "+") != "-"
    lanes = road.at("end" if forward else "start")
    spans = [(int(span.get("fromLane", "-99")), int(span.get("toLane", "99"))) for span in mark.iterfind("validity")]
    found = []
    for ordinal, name in lanes.items():
        valid = not spans or any(min(span) <= ordinal <= max(span) for span in spans)
        if (ordinal < 0) == forward and valid:
            found.append(name)
    if road.element.get("junction", "-1") == "-1":
        return found
    return [name for through in found for name in before[through]]
