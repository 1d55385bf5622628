"""Plane curves as chains of points: arc length, resampling, headings, curvature, offsets, joining curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEP = 0.5
"""Metres between the points of the curves made here, about."""


def stations(points: Floats) -> Floats:
    """Return [n], the length of the chain [n, 2] up to each of its points."""
    step = points[1:] - points[:-1]
    return np.concatenate(([0.0], np.cumsum(np.hypot(step[:, 0], step[:, 1]))))


def slopes(values: Floats, at: Floats) -> Floats:
    """Return the derivative of values [n, ...] with respect to `at` [n]: that of parabolas through 3 points each."""
    width = (at[1:] - at[:-1]).reshape(-1, *[1] * (values.ndim - 1))
    slope = (values[1:] - values[:-1]) / width
    result = np.empty_like(values)
    if len(at) == 2:
        result[:] = slope
        return result
    result[1:-1] = (width[:-1] * slope[1:] + width[1:] * slope[:-1]) / (width[:-1] + width[1:])
    result[0], result[-1] = 2 * slope[0] - result[1], 2 * slope[-1] - result[-2]
    return result


@dataclass(frozen=True, slots=True)
class Curve:
    """A smooth curve through a chain of points: cubic Hermite."""

    points: Floats
    """[n, 2]."""
    along: Floats
    """[n]: stations."""
    tangent: Floats
    """[n, 2], about of length 1."""

    @staticmethod
    def of(points: Floats) -> Curve:
        """Return the curve through a chain [n, 2]."""
        along = stations(points)
        return Curve(points, along, slopes(points, along))

    def at(self, where: Floats) -> Floats:
        """Return points [k, 2] at stations [k]."""
        index = np.clip(np.searchsorted(self.along, where, side="right") - 1, 0, len(self.along) - 2)
        after = index + 1
        width = (self.along[after] - self.along[index])[:, None]
        share = (where - self.along[index])[:, None] / width
        rest = 1 - share
        near = (1 + 2 * share) * self.points[index] + share * width * self.tangent[index]
        far = (1 + 2 * rest) * self.points[after] - rest * width * self.tangent[after]
        return np.asarray(rest * rest * near + share * share * far)

    def headings(self) -> Floats:
        """Return [n] its directions in radians, without jumps by 2π."""
        return np.unwrap(np.arctan2(self.tangent[:, 1], self.tangent[:, 0]))


def interpolate(points: Floats, at: Floats) -> Floats:
    """Return points [k, 2] at stations [k] of the smooth curve through a chain [n, 2]."""
    return Curve.of(points).at(at)


def resample(points: Floats, spacing: float) -> Floats:
    """Return at least 2 points about `spacing` apart that divide the chain [n, 2] evenly."""
    curve = Curve.of(points)
    length = curve.along[-1]
    return curve.at(np.linspace(0, length, max(2, round(length / spacing) + 1)))


def headings(points: Floats) -> Floats:
    """Return [n] the directions of a chain [n, 2] in radians, without jumps by 2π."""
    return Curve.of(points).headings()


def length_of(points: Floats) -> float:
    """Return the length of a chain [n, 2]."""
    return float(stations(points)[-1])


def end_yaws(points: Floats) -> tuple[float, float]:
    """Return the directions in which a chain [n, 2] starts and ends."""
    return float(headings(points[:3])[0]), float(headings(points[-3:])[-1])


def curvatures(points: Floats) -> Floats:
    """Return [n], 1/m, positive to the left, of a chain [n, 2]."""
    return slopes(headings(points), stations(points))


def wrap(angle: Floats | float) -> Floats:
    """Return the same angle in [-π, π)."""
    return np.asarray((np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi)


def direction(yaw: float | Floats) -> Floats:
    """Return the unit vectors [..., 2] of directions [...]."""
    return np.stack((np.cos(yaw), np.sin(yaw)), -1)


def offset(points: Floats, distance: float | Floats) -> Floats:
    """Return the chain [n, 2] moved to its left by `distance`, a number or [n]."""
    normal = direction(headings(points) + np.pi / 2)
    return np.asarray(points + np.broadcast_to(distance, len(points))[:, None] * normal)


def between(points: Floats, start: float, end: float) -> Floats:
    """Return the part of a chain [n, 2] from one station to another, resampled at about `STEP`."""
    return interpolate(points, np.linspace(start, end, max(2, round((end - start) / STEP) + 1)))


def line(start: Floats, end: Floats) -> Floats:
    """Return points [n, 2] of the segment between two points [2]."""
    count = max(2, round(float(np.linalg.norm(end - start)) / STEP) + 1)
    return np.asarray(np.linspace(start, end, count))


def join(start: Floats, start_yaw: float, end: Floats, end_yaw: float) -> Floats:
    """Return points [n, 2] of a smooth curve between two poses: a cubic that is nearly an arc where an arc fits."""
    chord = float(np.linalg.norm(end - start))
    reach = chord / (3 * np.cos(float(wrap(end_yaw - start_yaw)) / 4) ** 2)
    control = np.stack((start, start + reach * direction(start_yaw), end - reach * direction(end_yaw), end))
    share = np.linspace(0, 1, max(8, round(2 * chord / STEP)))[:, None]
    rest = 1 - share
    curve = rest**3 * control[0] + 3 * rest**2 * share * control[1] + 3 * rest * share**2 * control[2]
    return resample(np.asarray(curve + share**3 * control[3]), STEP)


def integrate(start: Floats, yaw: float, curvature: Floats, step: float = STEP) -> Floats:
    """Return the points [n + 1, 2] of a curve from its pose and its mean curvature on each step [n]."""
    turn = np.concatenate(([0.0], np.cumsum(curvature * step)))
    middle = yaw + (turn[:-1] + turn[1:]) / 2
    bend = np.sinc(curvature * step / (2 * np.pi))[:, None]  # a chord is shorter than its arc
    return np.concatenate((start[None], start + np.cumsum(step * bend * direction(middle), axis=0)))
