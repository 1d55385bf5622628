import numpy as np
import pytest

from palaestra.envs.driving.curves import (
    Curve,
    between,
    curvatures,
    direction,
    end_yaws,
    headings,
    integrate,
    interpolate,
    join,
    length_of,
    offset,
    resample,
    stations,
    wrap,
)


def arc(radius: float, turn: float, count: int) -> np.ndarray:
    angle = np.linspace(-np.pi / 2, turn - np.pi / 2, count)
    return radius * np.stack((np.cos(angle), np.sin(angle) + 1), 1)


def test_curvature_and_heading_of_an_arc() -> None:
    for sign in (1, -1):
        points = arc(20.0, 1.5, 61) * [1, sign]
        assert curvatures(points) == pytest.approx(sign / 20.0, rel=1e-3)
        assert headings(points) == pytest.approx(sign * np.linspace(0, 1.5, 61), abs=1e-3)
        assert length_of(points) == pytest.approx(30.0, rel=1e-4)


def test_resampling_stays_on_the_arc() -> None:
    """A chain of chords is up to 6 mm inside a circle; the cubic through its corners is not."""
    coarse = arc(10.0, np.pi, 32)
    fine = interpolate(coarse, np.linspace(0, length_of(coarse), 500))
    assert np.linalg.norm(fine - [0, 10], axis=1) == pytest.approx(10.0, abs=2e-3)
    again = resample(coarse, 1.0)
    assert len(again) == 32 and np.diff(stations(again)) == pytest.approx(stations(again)[-1] / 31, rel=2e-3)


def test_headings_go_on_past_half_a_turn() -> None:
    assert headings(arc(5.0, 7.0, 200))[-1] == pytest.approx(7.0, abs=1e-2)


def test_interpolation_passes_through_its_points() -> None:
    chain = np.array([[0.0, 0.0], [1.0, 0.2], [4.0, 0.0], [4.5, 1.0]])
    curve = Curve.of(chain)
    assert curve.at(curve.along) == pytest.approx(chain)
    two = chain[:2]
    assert interpolate(two, np.array([0.5 * length_of(two)]))[0] == pytest.approx([0.5, 0.1])


def test_a_part_of_a_curve() -> None:
    part = between(arc(20.0, 1.5, 61), 5.0, 12.0)
    assert length_of(part) == pytest.approx(7.0, rel=1e-3)
    assert end_yaws(part) == pytest.approx((0.25, 0.6), abs=2e-3)


def test_offsets_are_parallel() -> None:
    left = offset(arc(20.0, 1.5, 61), 3.0)
    assert np.linalg.norm(left - [0, 20], axis=1) == pytest.approx(17.0, abs=1e-3)


def test_a_join_meets_both_poses_and_is_an_arc_where_one_fits() -> None:
    curve = join(np.array([1.0, 2.0]), 0.3, np.array([15.0, 9.0]), 1.2)
    assert curve[0] == pytest.approx([1.0, 2.0]) and curve[-1] == pytest.approx([15.0, 9.0])
    assert end_yaws(curve) == pytest.approx((0.3, 1.2), abs=0.02)
    quarter = join(np.zeros(2), 0.0, np.array([12.0, 12.0]), np.pi / 2)
    assert np.linalg.norm(quarter - [0, 12], axis=1) == pytest.approx(12.0, abs=0.02)


def test_integration_of_constant_curvature_is_exact() -> None:
    points = integrate(np.array([3.0, -1.0]), 0.0, np.full(40, 0.05), 0.5)
    assert np.linalg.norm(points - [3.0, 19.0], axis=1) == pytest.approx(20.0, abs=1e-9)
    straight = integrate(np.zeros(2), 0.7, np.zeros(10), 1.0)
    assert straight[-1] == pytest.approx(10 * direction(0.7))


def test_wrap() -> None:
    assert wrap(np.array([0.0, 3 * np.pi, -3.5 * np.pi, 7.0])) == pytest.approx([0, -np.pi, np.pi / 2, 7 - 2 * np.pi])
