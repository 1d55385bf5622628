"""SUMO's networks (.net.xml) as lane graphs."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.curves import Floats, end_yaws, join
from palaestra.envs.driving.importing import draw_routes, number, read_xml, round_corners, text_of, without_repeats
from palaestra.envs.driving.lanes import SHORTEST, Lane, LaneGraph, MapError, Signal
from palaestra.envs.driving.maps.junctions import turn_limit

WIDTH = 3.2
"""Metres: SUMO's width of lanes that do not say theirs."""
MINOR = {"m": Control.YIELD, "s": Control.STOP, "w": Control.STOP, "Z": Control.YIELD}
"""States of connections that have to wait, and what their lanes meet. Where all are equal the right-hand rule holds."""


def load(path: str | Path, seed: int = 0, routes: int = 16, lengths: tuple[float, float] = (100.0, 400.0)) -> LaneGraph:
    """Return the map of a SUMO network, with random routes.

    Lanes closed to passenger cars are left out. Each connection becomes one smooth lane between the lanes that it
    joins, whatever the shape of its internal lanes; one that is shorter than 2 m joins them directly where their ends
    meet. A lane has one signal: it is green while all its connections are, and only for the longest such time in a
    cycle. Crossings for walkers are not read.

    Args:
        path: The file.
        seed: Of the routes.
        routes: How many at most.
        lengths: Their shortest and longest length, metres.

    Raises:
        MapError: broken XML, a missing or bad attribute, an unknown lane; named with its element.
    """
    root = read_xml(path, "net")
    where = str(path)
    graph = LaneGraph(Path(path).name)
    for edge in root.iterfind("edge"):
        if edge.get("function", "normal") == "normal":
            _add_edge(graph, edge, where)
    if not graph.lanes:
        raise MapError(f"{where} has no <edge> with a lane for passenger cars.")
    programs = {text_of(logic, "id", where): logic for logic in root.iterfind("tlLogic")}
    outgoing: dict[str, list[Element]] = {name: [] for name in graph.lanes}
    speeds = {lane.get("id", ""): lane for lane in root.iterfind("edge[@function='internal']/lane")}
    for connection in root.iterfind("connection"):
        _connect(graph, connection, speeds, outgoing, where)
    states: dict[str, set[str]] = {}
    for name, connections in outgoing.items():
        found = {connection.get("state", "M") for connection in connections}
        states.setdefault(name.rpartition("_")[0], set()).update(found)
    for name, connections in outgoing.items():
        if connections:
            _rule(graph, name, connections, states[name.rpartition("_")[0]], programs, where)
    draw_routes(graph, seed, routes, lengths)
    return graph


def _add_edge(graph: LaneGraph, edge: Element, where: str) -> None:
    """Add an edge's lanes for passenger cars; neighbours have neighbouring indices, 0 being the rightmost."""
    names = {}
    for lane in edge.iterfind("lane"):
        name = text_of(lane, "id", where)
        points = without_repeats(round_corners(shape(lane, where)))
        if _for_cars(lane):
            width, limit = number(lane, "width", where, WIDTH), number(lane, "speed", where)
            graph.lanes[name] = Lane(points, min(limit, 50.0), width)
            names[int(number(lane, "index", where))] = name
    for index, name in names.items():
        graph.lanes[name].right = names.get(index - 1)
        graph.lanes[name].left = names.get(index + 1)


def _for_cars(lane: Element) -> bool:
    if "allow" in lane.attrib:
        return bool({"passenger", "all"} & set(lane.attrib["allow"].split()))
    return not {"passenger", "all"} & set(lane.get("disallow", "").split())


def shape(lane: Element, where: str) -> Floats:
    """Return a lane's points [n, 2].

    Raises:
        MapError: the attribute `shape` is missing or is not a list of points.
    """
    text = text_of(lane, "shape", where)
    try:
        points = np.array([[float(value) for value in point.split(",")[:2]] for point in text.split()])
    except ValueError:
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or not np.isfinite(points).all():
        raise MapError(f"{where}: <lane id={lane.get('id')!r}>: shape is {text[:80]!r}, not 'x,y x,y ...'.")
    return points


def _connect(
    graph: LaneGraph, connection: Element, internal: dict[str, Element], outgoing: dict[str, list[Element]], where: str
) -> None:
    """Add the junction lane of a connection between two lanes for cars."""
    start, end = text_of(connection, "from", where), text_of(connection, "to", where)
    if start.startswith(":") or end.startswith(":"):
        return  # from or to the middle of a junction: part of a connection that is read
    before = f"{start}_{text_of(connection, 'fromLane', where)}"
    after = f"{end}_{text_of(connection, 'toLane', where)}"
    for name, edge in ((before, start), (after, end)):
        if name not in graph.lanes:
            if any(other.rpartition("_")[0] == edge for other in graph.lanes):
                return  # a lane that is closed to cars
            raise MapError(f"{where}: <connection from={start!r} to={end!r}> names the lane {name!r}, not there.")
    outgoing[before].append(connection)
    first, last = graph.lanes[before].points, graph.lanes[after].points
    if float(np.linalg.norm(last[0] - first[-1])) < SHORTEST:
        graph.lanes[after].points = without_repeats(np.concatenate((first[-1:], last)))
        graph.connect(before, after)
        return
    curve = join(first[-1], end_yaws(first)[1], last[0], end_yaws(last)[0])
    via = connection.get("via", "")
    speed = number(internal[via], "speed", where) if via in internal else graph.lanes[after].limit
    name = f"{before}>{after}"
    graph.lanes[name] = Lane(curve, min(speed, turn_limit(curve)), graph.lanes[before].width, junction=True)
    graph.connect(before, name)
    graph.connect(name, after)


def _rule(
    graph: LaneGraph,
    name: str,
    connections: list[Element],
    states: set[str],
    programs: dict[str, Element],
    where: str,
) -> None:
    """Put a control at a lane's end, by its connections and by the states of all its edge's connections."""
    lane = graph.lanes[name]
    lights = {connection.attrib["tl"] for connection in connections if "tl" in connection.attrib}
    if lights:
        light = sorted(lights)[0]
        if light not in programs:
            raise MapError(f"{where}: lane {name!r} obeys the traffic light {light!r}; there is no such <tlLogic>.")
        links = [int(number(connection, "linkIndex", where)) for connection in connections if "tl" in connection.attrib]
        group = f"{light}/{','.join(map(str, sorted(links)))}"
        graph.signals[group] = signal_of(programs[light], links, where)
        lane.control, lane.signal = Control.SIGNAL, group
        return
    if states <= set(MINOR):  # else it is a main road, on which left turns wait too
        stops = any(MINOR[state] == Control.STOP for state in states)
        lane.control = Control.STOP if stops else Control.YIELD


def signal_of(logic: Element, links: list[int], where: str) -> Signal:
    """Return the group of a traffic light's links: green while all are, for the longest such time in a cycle.

    Raises:
        MapError: a phase's state has no such link, or the links are never green together.
    """
    phases = logic.findall("phase")
    durations = [number(phase, "duration", where) for phase in phases]
    colors = []
    for phase in phases:
        state = text_of(phase, "state", where)
        if max(links) >= len(state):
            raise MapError(f"{where}: <tlLogic id={logic.get('id')!r}>: state {state!r} has no link {max(links)}.")
        shown = {state[link] for link in links}
        colors.append("g" if shown <= set("gG") else "y" if shown <= set("gGyY") else "r")
    if "g" not in colors:
        raise MapError(f"{where}: <tlLogic id={logic.get('id')!r}>: links {links} are never green together.")
    cycle = sum(durations)
    begins = np.concatenate(([0.0], np.cumsum(durations)[:-1]))
    best = (0.0, 0.0, 0.0)
    for first in range(len(colors)):
        if colors[first] != "g" or (colors[first - 1] == "g" and "g" * len(colors) != "".join(colors)):
            continue  # not where a green begins
        around = [(at + first) % len(colors) for at in range(len(colors))]
        green = yellow = 0.0
        for at, before in zip(around, [first, *around], strict=False):
            if colors[at] == "r" or (colors[at] == "g" and colors[before] == "y"):
                break
            green, yellow = (green + durations[at], yellow) if colors[at] == "g" else (green, yellow + durations[at])
        best = max(best, (green, float(begins[first]), yellow))
    start = (best[1] + number(logic, "offset", where, 0.0)) % cycle
    return Signal(cycle, start, best[0], best[2])
