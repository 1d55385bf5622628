"""Intervals against hand-computed and published numbers, and scores against rliable itself."""

import math
from types import ModuleType

import numpy as np
import pytest

from palaestra.launch import statistics as st


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (490, 500, 0.9636, 0.9891),  # 98.0 % of one LIBERO suite
        (481, 500, 0.9414, 0.9755),
        (480, 500, 0.9390, 0.9740),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_numbers(successes: int, count: int, low: float, high: float) -> None:
    assert st.wilson(successes, count) == pytest.approx((low, high), abs=6e-5)


def test_wilson_laws() -> None:
    for count in (1, 7, 200):
        for successes in range(count + 1):
            low, high = st.wilson(successes, count)
            assert 0 <= low <= successes / count <= high <= 1
            mirrored = st.wilson(count - successes, count)
            assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    assert st.wilson(5, 5)[1] == 1.0
    assert st.wilson(0, 5)[0] == 0.0
    assert st.wilson(0, 0) == (0.0, 1.0)
    narrow, wide = st.wilson(30, 50, 0.5), st.wilson(30, 50, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(("successes", "count"), [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts_are_named(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes of {count} episodes"):
        st.wilson(successes, count)


def test_confidence_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, got 95"):
        st.wilson(1, 2, confidence=95)


def test_newcombe_difference_numbers() -> None:
    # Newcombe 1998, table II, method 10: 56/70 - 48/80, 9/10 - 3/10, 10/10 - 0/10.
    assert st.separate(56, 70, 48, 80).interval == pytest.approx((0.0524, 0.3339), abs=6e-5)
    assert st.separate(9, 10, 3, 10).interval == pytest.approx((0.1705, 0.8090), abs=6e-5)
    assert st.separate(10, 10, 0, 10).interval == pytest.approx((0.6075, 1.0), abs=6e-5)


def test_separation_is_antisymmetric_and_disjoint_is_stricter() -> None:
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(500):
        n, m = generator.integers(1, 80, 2)
        a, b = int(generator.integers(0, n + 1)), int(generator.integers(0, m + 1))
        here, there = st.separate(a, n, b, m), st.separate(b, m, a, n)
        assert (here.difference, *here.interval) == pytest.approx(
            (-there.difference, -there.interval[1], -there.interval[0])
        )
        assert here.separable == there.separable == st.separable(a, n, b, m)
        if here.disjoint:
            assert here.separable
        seen.add((here.disjoint, here.separable))
    assert seen == {(True, True), (False, True), (False, False)}


def test_counts_that_cannot_separate_say_how_many_would() -> None:
    # 98.0 % against 96.1 % of 500 is no evidence.
    found = st.separate(490, 500, 481, 500)
    assert not found.separable and "cannot separate" in found.warning
    # (1.95996 + 0.84162)² (0.98·0.02 + 0.962·0.038) / 0.018² = 1360.4
    assert found.episodes == 1361 and "1,361 episodes" in found.warning
    assert st.separable(490, 500, 400, 500) and st.separate(490, 500, 400, 500).warning == ""
    equal = st.separate(40, 50, 40, 50)
    assert equal.episodes is None and "equal" in equal.warning
    assert not st.separable(0, 0, 5, 5)


def test_planned_count_has_the_planned_power() -> None:
    count = st.episodes_to_separate(0.9, 0.8)
    generator = np.random.default_rng(1)
    draws = generator.binomial(count, (0.9, 0.8), (2000, 2))
    power = np.mean([st.separable(int(a), count, int(b), count) for a, b in draws])
    assert power == pytest.approx(0.8, abs=0.04)


def test_smallest_visible_difference_inverts_the_planned_count() -> None:
    difference = st.smallest_visible_difference(100, 200)
    assert st.episodes_to_separate(0.5 - difference / 2, 0.5 + difference / 2) == pytest.approx(200, rel=0.04)
    assert 0 < st.smallest_visible_difference(200, 200) < st.smallest_visible_difference(100, 200)
    assert st.smallest_visible_difference(0, 0) == st.smallest_visible_difference(1, 1) == 1.0


def test_paired_episodes_separate_where_unpaired_ones_cannot() -> None:
    hard = np.arange(100) % 2 == 0  # half the episodes defeat the first policy, and nearly all of those the second
    first, second = ~hard, ~hard
    second = second | (np.arange(100) % 20 == 0)
    paired = st.separate_paired(second, first)
    assert paired.difference == pytest.approx(0.05)
    unpaired = st.separate(int(second.sum()), 100, int(first.sum()), 100)
    assert paired.interval[0] > unpaired.interval[0] and paired.interval[1] < unpaired.interval[1]
    same = st.separate_paired(first, first)
    assert same.difference == 0 and same.interval[0] <= 0 <= same.interval[1]
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        st.separate_paired([True, False, True], [True, False])


def test_paired_interval_without_correlation_is_the_unpaired_one() -> None:
    first = np.repeat([True, True, False, False], 10)
    second = np.tile([True, False], 20)
    paired = st.separate_paired(first, second)
    assert paired.interval == pytest.approx(st.separate(20, 40, 20, 40).interval)


def test_paired_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(1500):
        hardness = generator.random(60)
        first, second = hardness < 0.8, np.where(generator.random(60) < 0.8, hardness, generator.random(60)) < 0.6
        low, high = st.separate_paired(first, second).interval
        covered.append(low <= 0.2 <= high)
    assert np.mean(covered) == pytest.approx(0.955, abs=0.02)


def rliable() -> tuple[ModuleType, ModuleType]:
    reason = "rliable checks our statistics: pip install 'palaestra[stats]'"
    return tuple(pytest.importorskip(f"rliable.{name}", reason=reason) for name in ("library", "metrics"))


def scores(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).beta(2, 1, shape).round(2)  # rounded, so that ties happen


def test_point_estimates_equal_rliable() -> None:
    library, metrics = rliable()
    for seed in range(12):
        runs, others, worlds = np.random.default_rng(seed).integers(1, 12, 3)
        x, y = scores(seed, runs, worlds), scores(seed + 100, others, worlds)
        assert st.interquartile_mean(x[None])[0] == pytest.approx(metrics.aggregate_iqm(x), abs=1e-9)
        assert st.mean(x[None])[0] == pytest.approx(metrics.aggregate_mean(x), abs=1e-9)
        assert st.median(x[None])[0] == pytest.approx(metrics.aggregate_median(x), abs=1e-9)
        assert st.optimality_gap(x[None])[0] == pytest.approx(metrics.aggregate_optimality_gap(x), abs=1e-9)
        better = st.probability_of_improvement(x[None], y[None])[0]
        assert better == pytest.approx(metrics.probability_of_improvement(x, y), abs=1e-9)
        thresholds = np.linspace(0, 1, 11)
        profile = st.performance_profile(x[None], thresholds)[0]
        assert profile == pytest.approx(library.score_distributions(x, thresholds), abs=1e-9)


@pytest.mark.parametrize("worlds", [False, True])
def test_bootstrap_interval_equals_rliable_within_monte_carlo_error(worlds: bool) -> None:
    library, metrics = rliable()
    x = scores(3, 5, 6)
    np.random.seed(0)
    _, theirs = library.get_interval_estimates(
        {"x": x}, lambda s: np.array([metrics.aggregate_iqm(s)]), task_bootstrap=worlds, reps=3000
    )
    _, low, high = st.bootstrap(st.interquartile_mean, x, resamples=20_000, worlds=worlds)
    assert (low, high) == pytest.approx(tuple(theirs["x"][:, 0]), abs=0.012)
    assert high - low > 0.1  # so that 0.012 can tell


def test_improvement_interval_equals_rliable_within_monte_carlo_error() -> None:
    library, metrics = rliable()
    x, y = scores(4, 4, 3), scores(5, 6, 3) * 0.9
    np.random.seed(0)
    _, theirs = library.get_interval_estimates(
        {"x,y": [x, y]}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=800
    )
    _, low, high = st.bootstrap(st.probability_of_improvement, x, y, resamples=20_000)
    assert (low, high) == pytest.approx(tuple(theirs["x,y"][:, 0]), abs=0.03)


def test_bootstrap_is_stratified_repeatable_and_blocks_do_not_show() -> None:
    x = np.array([[0.0, 1.0], [0.2, 0.8], [0.1, 0.9]])
    # Each world stays in each draw, so the mean never leaves 0.45 .. 0.55 although scores span 0 .. 1.
    _, low, high = st.bootstrap(st.mean, x, confidence=0.999999)
    assert 0.4 <= low < high <= 0.6
    assert st.bootstrap(st.mean, x, seed=1)[1:] == st.bootstrap(st.mean, x, seed=1)[1:]
    big = np.tile(x[:, :, None], (1, 1, 20_000))  # 33 draws a block
    value, low, high = st.bootstrap(st.mean, big, resamples=100)
    assert value.shape == low.shape == high.shape == (20_000,)
    assert np.all(low <= value) and np.all(value <= high)


def test_bootstrap_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(6)
    covered = []
    for trial in range(300):
        found = st.estimate(st.mean, generator.normal(0.3, 1, (30, 2)), resamples=300, seed=trial)
        covered.append(found.interval[0] <= 0.3 <= found.interval[1])
    assert np.mean(covered) == pytest.approx(0.945, abs=0.035)


def test_one_run_has_no_interval() -> None:
    assert st.estimate(st.interquartile_mean, [[0.5, 0.7]]) == st.Estimate(pytest.approx(0.6), None)


@pytest.mark.parametrize(
    ("bad", "message"), [([0.5, 0.7], "shape"), (np.ones((0, 2)), "empty"), ([[math.nan]], "1 that are not")]
)
def test_bad_scores_are_refused(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        st.bootstrap(st.mean, bad)


def test_success_area() -> None:
    assert st.success_area([0, 100], [0.0, 1.0]) == pytest.approx(0.5)
    assert st.success_area([0, 50, 200], [[0, 1, 1], [1, 1, 1]]) == pytest.approx([0.875, 1.0])
    with pytest.raises(ValueError, match="ascending"):
        st.success_area([0, 0], [0, 1])
    with pytest.raises(ValueError, match="at least two"):
        st.success_area([0], [0])


def test_pairing_removes_what_seeds_share() -> None:
    seeds = np.linspace(0, 1, 10)[:, None]
    found = st.paired_difference(seeds + 0.1, seeds)
    assert found.value == pytest.approx(0.1) and found.interval == pytest.approx((0.1, 0.1))
    with pytest.raises(ValueError, match="equal shapes"):
        st.paired_difference(seeds, seeds[:5])
