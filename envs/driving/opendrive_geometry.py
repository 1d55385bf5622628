"""OpenDRIVE's geometry: reference lines of lines, arcs, spirals and parametric cubics; cubics along a road."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element

import numpy as np

from palaestra.envs.driving.curves import Floats, integrate
from palaestra.envs.driving.importing import label, number
from palaestra.envs.driving.lanes import MapError

FINE = 0.1
"""Metres between the points from which a reference line is interpolated, about."""
SHAPES = ("line", "arc", "spiral", "paramPoly3")
"""Elements that say how a piece of a reference line runs."""
Line = Callable[[Floats], tuple[Floats, Floats]]
"""From stations [n] to points [n, 2] and directions [n]."""


def reference_line(road: Element, where: str) -> Line:
    """Return the reference line of a <road>.

    Raises:
        MapError: no geometry, an unknown shape, or a missing or bad number; named with its element.
    """
    pieces = road.findall("planView/geometry")
    if not pieces:
        raise MapError(f"{where} has no <geometry> in its <planView>.")
    stations, points, yaws = [], [], []
    for piece in pieces:
        along, point, yaw = sample(piece, f"{where}: {label(piece)}")
        stations.append(along)
        points.append(point)
        yaws.append(yaw)
    grid, chain, turned = np.concatenate(stations), np.concatenate(points), np.unwrap(np.concatenate(yaws))

    def line(at: Floats) -> tuple[Floats, Floats]:
        x, y = (np.interp(at, grid, axis) for axis in chain.T)
        return np.stack((x, y), 1), np.asarray(np.interp(at, grid, turned))

    return line


def sample(piece: Element, where: str) -> tuple[Floats, Floats, Floats]:
    """Return stations [n], points [n, 2] and directions [n] of a <geometry>.

    Raises:
        MapError: an unknown shape, or a missing or bad number.
    """
    start, x, y, yaw, length = (number(piece, key, where) for key in ("s", "x", "y", "hdg", "length"))
    if length <= 0:
        raise MapError(f"{where}: length is {length} m; it must be above 0.")
    shape = next((child for child in piece if child.tag in SHAPES), None)
    if shape is None:
        raise MapError(f"{where} has none of {', '.join(SHAPES)}; it has {[child.tag for child in piece]}.")
    count = max(2, round(length / FINE))
    along = np.linspace(0, length, count + 1)
    if shape.tag == "paramPoly3":
        point, turn = _cubics(shape, along, where)
        axis, side = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        return start + along, np.array([x, y]) + point[:, :1] * axis + point[:, 1:] * side, yaw + turn
    first = last = 0.0
    if shape.tag == "arc":
        first = last = number(shape, "curvature", where)
    elif shape.tag == "spiral":
        first, last = number(shape, "curvStart", where), number(shape, "curvEnd", where)
    curvature = first + (last - first) * along / length
    turned = yaw + first * along + (last - first) * along**2 / (2 * length)
    middle = (curvature[1:] + curvature[:-1]) / 2
    return start + along, integrate(np.array([x, y]), yaw, middle, length / count), turned


def _cubics(shape: Element, along: Floats, where: str) -> tuple[Floats, Floats]:
    """Return points [n, 2] and directions [n] of a <paramPoly3> in its own frame."""
    u, v = ([number(shape, f"{power}{axis}", where) for power in "abcd"] for axis in "UV")
    share = along if shape.get("pRange", "normalized") == "arcLength" else along / along[-1]
    point = np.stack([np.polynomial.polynomial.polyval(share, axis) for axis in (u, v)], 1)
    slope = [np.polynomial.polynomial.polyval(share, np.polynomial.polynomial.polyder(axis)) for axis in (u, v)]
    return point, np.arctan2(slope[1], slope[0])


def cubic(entries: list[Element], key: str, at: Floats, where: str) -> Floats:
    """Return [n] the values at stations [n] of what entries describe: from each one's station on, a cubic.

    Args:
        entries: Elements with a station and the coefficients a, b, c and d; none: 0 everywhere.
        key: The station's attribute.
        at: Stations.
        where: For errors.

    Raises:
        MapError: a missing or bad number.
    """
    result = np.zeros(len(at))
    for entry in sorted(entries, key=lambda entry: number(entry, key, where)):
        begin = number(entry, key, where)
        terms = [number(entry, power, where) for power in "abcd"]
        result = np.where(at >= begin - 1e-9, np.polynomial.polynomial.polyval(at - begin, terms), result)
    return np.asarray(result)
