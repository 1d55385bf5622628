"""A map that can be edited: named lanes with what joins them, signals, crosswalks, routes; and its check."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.curves import Floats, end_yaws, length_of, stations, wrap

GAP, KINK = 0.5, 0.2
"""How far, in metres and radians, a successor may start from its lane's end."""
SHORTEST = 2.0
"""Metres: a lane is at least this long."""
MOST_SUCCESSORS = 3
"""How many ways on a lane may have: what an arena has room for."""


@dataclass(slots=True)
class Lane:
    """One lane, from its start to its end in the direction of travel. Neighbours and successors are names."""

    points: Floats
    """[n, 2] metres: its centre line, at any spacing."""
    limit: float
    """Speed limit in m/s."""
    width: Floats | float = 3.5
    """Metres, a number or [n]."""
    successors: list[str] = field(default_factory=list)
    """Lanes that begin where this one ends, at most 3; none: it ends here."""
    left: str | None = None
    """The lane beside it in the same direction, made of the same cross-sections."""
    right: str | None = None
    """The same to the right."""
    junction: bool = False
    """It leads through a junction: not marked, no starts, no lane changes."""
    control: Control = Control.NONE
    """What a driver meets at its end."""
    signal: str | None = None
    """The signal group that rules its end, where control is SIGNAL."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal group: in each cycle green from `start` on for `green` seconds, then yellow, then red."""

    cycle: float
    """Seconds."""
    start: float
    """Seconds from the cycle's start."""
    green: float
    """Seconds."""
    yellow: float = 3.0
    """Seconds."""

    def overlaps(self, other: Signal) -> bool:
        """Return whether both can be green or yellow at the same time; groups of other cycles always can."""
        if self.cycle != other.cycle:
            return True
        later = (other.start - self.start) % self.cycle
        return later < self.green + self.yellow or self.cycle - later < other.green + other.yellow


@dataclass(frozen=True, slots=True)
class Route:
    """A way for the ego: each lane is a successor or a neighbour of the one before."""

    lanes: tuple[str, ...]
    """Names."""
    start: float = 5.0
    """Station on the first lane."""
    end: float = -5.0
    """Station on the last lane; negative counts from its end."""


@dataclass(slots=True)
class LaneGraph:
    """A map: lanes by name and what belongs to them."""

    name: str
    """For error messages."""
    lanes: dict[str, Lane] = field(default_factory=dict)
    """In the order in which an arena numbers them."""
    signals: dict[str, Signal] = field(default_factory=dict)
    """Signal groups by name; those of one junction share a cycle."""
    crosswalks: list[Floats] = field(default_factory=list)
    """[2, 2] each: the two ends, on the kerbs."""
    routes: list[Route] = field(default_factory=list)
    """At least one for an arena."""
    areas: list[Floats] = field(default_factory=list)
    """[n, 2] each: corners, in order, of ground that is road though no lane leads over it."""

    def connect(self, first: str, second: str) -> None:
        """Let `second` begin where `first` ends."""
        self.lanes[first].successors.append(second)

    def predecessors(self) -> dict[str, list[str]]:
        """Return the lanes that end where each lane begins."""
        found: dict[str, list[str]] = {name: [] for name in self.lanes}
        for name, lane in self.lanes.items():
            for after in lane.successors:
                found[after].append(name)
        return found


class MapError(ValueError):
    """A map that cannot be driven; the message names the map, the lane and the station."""


def validate(graph: LaneGraph) -> None:
    """Check that a map can be compiled.

    Raises:
        MapError: no lanes or routes; NaN; a lane shorter than `SHORTEST`; a width or limit that is not positive; an
            unknown, one-sided or circular neighbour; an unknown successor, too many, or one that starts elsewhere; a
            signal that is unknown, missing or never green; a route through lanes that do not connect.
    """
    if not graph.lanes:
        raise MapError(f"map {graph.name!r} has no lanes; add at least one to graph.lanes.")
    for name, lane in graph.lanes.items():
        _check_shape(graph, name, lane)
    for name, lane in graph.lanes.items():
        _check_neighbours(graph, name, lane)
        _check_successors(graph, name, lane)
        _check_signal(graph, name, lane)
    for name, signal in graph.signals.items():
        if not 0 < signal.green <= signal.cycle or not np.isfinite([signal.cycle, signal.start, signal.yellow]).all():
            raise MapError(
                f"map {graph.name!r}: signal {name!r} is green for {signal.green} s of a cycle of {signal.cycle} s; "
                f"green must be above 0 and at most the cycle."
            )
    for number, crosswalk in enumerate(graph.crosswalks):
        if np.shape(crosswalk) != (2, 2) or not np.isfinite(crosswalk).all():
            raise MapError(f"map {graph.name!r}: crosswalk {number} is {np.asarray(crosswalk).tolist()}, not 2 points.")
    if not graph.routes:
        raise MapError(f"map {graph.name!r} has no routes; add at least one to graph.routes.")
    for number, route in enumerate(graph.routes):
        _check_route(graph, number, route)


def _lane(graph: LaneGraph, wanted: str, asker: str) -> Lane:
    """Return the named lane, or say who asked for a lane that is not there."""
    if wanted not in graph.lanes:
        near = get_close_matches(wanted, graph.lanes, 1)
        hint = f" Did you mean {near[0]!r}?" if near else f" The map has {len(graph.lanes)} lanes."
        raise MapError(f"map {graph.name!r}: {asker} names the lane {wanted!r}, which the map does not have.{hint}")
    return graph.lanes[wanted]


def _check_shape(graph: LaneGraph, name: str, lane: Lane) -> None:
    who = f"map {graph.name!r}: lane {name!r}"
    points = np.asarray(lane.points)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise MapError(f"{who} has points of shape {points.shape}; a centre line is [n, 2] with n of 2 or more.")
    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
        raise MapError(f"{who}, point {bad} is {points[bad].tolist()}; coordinates must be finite metres.")
    along = stations(points)
    if along[-1] < SHORTEST:
        raise MapError(f"{who} is {along[-1]:.2f} m long; the shortest lane is {SHORTEST} m. Join it to the next one.")
    if (np.diff(along) <= 0).any():
        bad = int(np.flatnonzero(np.diff(along) <= 0)[0])
        raise MapError(f"{who}, station {along[bad]:.1f}: points {bad} and {bad + 1} coincide; remove one.")
    width = np.asarray(lane.width)
    if width.shape not in ((), (len(points),)) or not (np.isfinite(width) & (width > 0)).all():
        raise MapError(f"{who}: width must be positive metres, one number or one for each of {len(points)} points.")
    if not 0 < lane.limit < 100:
        raise MapError(f"{who} has the limit {lane.limit} m/s; it must be above 0 and below 100.")


def _check_neighbours(graph: LaneGraph, name: str, lane: Lane) -> None:
    for side, back in (("left", "right"), ("right", "left")):
        beside = getattr(lane, side)
        if beside is None:
            continue
        other = getattr(_lane(graph, beside, f"lane {name!r} ({side})"), back)
        if other != name:
            raise MapError(
                f"map {graph.name!r}: {beside!r} is {side} of lane {name!r}, but {other!r} is {back} of it; "
                "neighbours must be mutual."
            )
    seen, at = {name}, lane.left
    while at is not None and at not in seen:  # mutual neighbours make chains and rings only
        seen.add(at)
        at = graph.lanes[at].left
    if at is not None:
        raise MapError(f"map {graph.name!r}: going left from lane {name!r} comes back to it: {sorted(seen)}.")


def _check_successors(graph: LaneGraph, name: str, lane: Lane) -> None:
    who = f"map {graph.name!r}: lane {name!r}"
    if len(lane.successors) > MOST_SUCCESSORS or len(set(lane.successors)) < len(lane.successors):
        raise MapError(f"{who} has the successors {lane.successors}; at most {MOST_SUCCESSORS} different ones.")
    for after in lane.successors:
        following = _lane(graph, after, f"lane {name!r} (successors)")
        gap = float(np.linalg.norm(following.points[0] - lane.points[-1]))
        kink = abs(float(wrap(end_yaws(following.points)[0] - end_yaws(lane.points)[1])))
        if gap > GAP or kink > KINK:
            raise MapError(
                f"{who}, station {length_of(lane.points):.1f}: its successor {after!r} starts {gap:.2f} m and "
                f"{kink:.2f} rad away; at most {GAP} m and {KINK} rad."
            )


def _check_signal(graph: LaneGraph, name: str, lane: Lane) -> None:
    ruled = lane.control == Control.SIGNAL
    if ruled != (lane.signal is not None) or (ruled and lane.signal not in graph.signals):
        raise MapError(
            f"map {graph.name!r}: lane {name!r} has the control {lane.control.name} and the signal {lane.signal!r}; "
            f"SIGNAL needs one of {sorted(graph.signals)}, other controls need None."
        )


def _check_route(graph: LaneGraph, number: int, route: Route) -> None:
    who = f"route {number}"
    if not route.lanes:
        raise MapError(f"map {graph.name!r}: {who} names no lanes.")
    chain = [_lane(graph, name, who) for name in route.lanes]
    for name, lane, after in zip(route.lanes, chain, route.lanes[1:], strict=False):
        if after not in (*lane.successors, lane.left, lane.right):
            raise MapError(
                f"map {graph.name!r}: {who} goes from lane {name!r} to {after!r}, which is neither its successor "
                f"({lane.successors}) nor beside it ({lane.left!r}, {lane.right!r})."
            )
        if after in (lane.left, lane.right) and lane.junction:
            raise MapError(f"map {graph.name!r}: {who} changes lanes in a junction, from {name!r} to {after!r}.")
    for what, lane, station in (("start", chain[0], route.start), ("end", chain[-1], route.end)):
        length = length_of(lane.points)
        if not -length <= station <= length:
            raise MapError(f"map {graph.name!r}: {who}: its {what}, {station}, is off a lane of {length:.1f} m.")
