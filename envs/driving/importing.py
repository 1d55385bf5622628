"""What importers of maps share: XML read with care, and what foreign maps lack."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

import numpy as np

from palaestra.envs.driving.curves import Floats, length_of, stations
from palaestra.envs.driving.lanes import SHORTEST, Lane, LaneGraph, MapError, Signal
from palaestra.envs.driving.maps.draw import Draw
from palaestra.envs.driving.maps.ways import add_routes

LARGEST = 64 * 2**20
"""Bytes: the largest file that is read."""


def read_xml(path: str | Path, root: str) -> Element:
    """Return the root element of an XML file.

    Raises:
        MapError: a file that is too large, is not XML, declares a document type, or has another root element.
    """
    size = Path(path).stat().st_size
    if size > LARGEST:
        raise MapError(f"{path} has {size} bytes; maps of up to {LARGEST} are read. Cut out the part to drive on.")
    text = Path(path).read_bytes()
    scanner = expat.ParserCreate()

    def refuse(name: str, *_: object) -> NoReturn:
        raise MapError(f"{path} declares a document type ({name!r}); maps need none. Remove the <!DOCTYPE ...>.")

    scanner.StartDoctypeDeclHandler = refuse  # entities, inside the file or out of it, need one
    try:
        scanner.Parse(text, True)
        element = ElementTree.fromstring(text)
    except (expat.ExpatError, ElementTree.ParseError) as error:
        raise MapError(f"{path} is not XML: {error}.") from error
    if element.tag != root:
        raise MapError(f"{path}: the root element is <{element.tag}>, not <{root}>.")
    return element


def label(element: Element) -> str:
    """Return how an error names an element: its tag and what identifies it."""
    parts = [f'{key}="{element.attrib[key]}"' for key in ("id", "from", "to", "s", "index") if key in element.attrib]
    return f"<{' '.join([element.tag, *parts])}>"


def text_of(element: Element, key: str, where: str) -> str:
    """Return an attribute.

    Raises:
        MapError: it is missing; `where` says in which file and element.
    """
    if key not in element.attrib:
        raise MapError(f"{where}: {label(element)} lacks the attribute {key!r}; it has {sorted(element.attrib)}.")
    return element.attrib[key]


def number(element: Element, key: str, where: str, default: float | None = None) -> float:
    """Return an attribute as a finite number.

    Raises:
        MapError: it is missing and has no default, or is not a finite number.
    """
    if default is not None and key not in element.attrib:
        return default
    text = text_of(element, key, where)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise MapError(f"{where}: {label(element)}: {key} is {text!r}, not a finite number.")
    return value


def round_corners(points: Floats, times: int = 3) -> Floats:
    """Return a chain [n, 2] with its corners cut, its ends kept: Chaikin's algorithm."""
    for _ in range(times if len(points) > 2 else 0):
        near, far = points[:-1], points[1:]
        cut = np.stack((0.75 * near + 0.25 * far, 0.25 * near + 0.75 * far), 1).reshape(-1, 2)
        points = np.concatenate((points[:1], cut[1:-1], points[-1:]))
    return points


def without_repeats(points: Floats) -> Floats:
    """Return a chain [n, 2] without points that lie within a millimetre of the one before."""
    keep = np.concatenate(([True], np.diff(stations(points)) > 1e-3))
    return points[keep]


def weld(graph: LaneGraph) -> None:
    """Join lanes that are too short with the only one that follows, or the only one before."""
    for name in [name for name, lane in graph.lanes.items() if length_of(lane.points) < SHORTEST]:
        if name not in graph.lanes:
            continue  # joined with one that was too short as well
        before = [other for other, lane in graph.lanes.items() if name in lane.successors]
        after = graph.lanes[name].successors
        if len(after) == 1 and graph.predecessors()[after[0]] == [name]:
            _join(graph, name, after[0])
        elif len(before) == 1 and graph.lanes[before[0]].successors == [name]:
            _join(graph, before[0], name)


def _join(graph: LaneGraph, first: str, second: str) -> None:
    """Make one lane of two; it is called as the longer one was, and keeps that one's neighbours."""
    one, other = graph.lanes.pop(first), graph.lanes.pop(second)
    points = np.concatenate((one.points, other.points))
    keep = np.concatenate(([True], np.diff(stations(points)) > 1e-3))
    widths = [np.broadcast_to(lane.width, len(lane.points)) for lane in (one, other)]
    longer, name = (one, first) if length_of(one.points) > length_of(other.points) else (other, second)
    gone = second if name == first else first
    for lane in graph.lanes.values():
        lane.successors = [name if after == gone else after for after in lane.successors]
        lane.left = None if lane.left == gone else lane.left
        lane.right = None if lane.right == gone else lane.right
    graph.lanes[name] = Lane(
        points[keep],
        longer.limit,
        np.concatenate(widths)[keep],
        other.successors,
        longer.left,
        longer.right,
        longer.junction,
        other.control,
        other.signal,
    )


def in_turn(graph: LaneGraph, groups: list[str], green: float = 12.0, yellow: float = 3.0, red: float = 1.5) -> None:
    """Add signal groups that are green one after the other, for maps that do not say when."""
    each = green + yellow + red
    for number_, group in enumerate(groups):
        graph.signals[group] = Signal(each * len(groups), each * number_, green, yellow)


def draw_routes(graph: LaneGraph, seed: int, count: int, lengths: tuple[float, float]) -> None:
    """Add random routes to an imported map; through junctions if it has any."""
    inside = any(lane.junction for lane in graph.lanes.values())
    add_routes(graph, Draw(graph.name, "train", seed), count, lengths, wanted=None if inside else lambda way: True)
