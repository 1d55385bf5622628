"""Success rates and scores with their intervals, in NumPy alone.

Success is binomial: one policy's rate gets Wilson's interval, two rates get Newcombe's interval of their difference.
Scores over runs and worlds get rliable's estimates (Agarwal et al. 2021, "Deep reinforcement learning at the edge
of the statistical precipice"): the interquartile mean, the probability of improvement and performance profiles,
with a bootstrap stratified by world.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
Array = NDArray[np.float64]
Statistic = Callable[..., Array]
"""Takes score arrays [B, runs, worlds, ...] and returns [B, ...]: it reduces runs and worlds."""

POWER = 0.8
"""The chance of seeing a true difference that `episodes_to_separate` plans for (the usual choice)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and how far it can be trusted."""

    value: float
    """The point estimate."""
    interval: Interval | None
    """Its interval, None where one run a world leaves nothing to resample."""


@dataclass(frozen=True, slots=True)
class Separation:
    """Whether two success rates can be told apart."""

    difference: float
    """First rate minus second."""
    interval: Interval
    """Interval of the difference."""
    disjoint: bool
    """The two rates' own intervals do not overlap: stricter than `separable`, and implies it when unpaired."""
    episodes: int | None
    """Episodes a policy that would separate such rates in 4 tries of 5; None where the rates are equal."""

    @property
    def separable(self) -> bool:
        """The interval of the difference leaves zero out."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @property
    def warning(self) -> str:
        """What to tell the reader; empty where the rates are separated."""
        if self.separable:
            return ""
        low, high = (f"{100 * bound:+.1f}" for bound in self.interval)
        text = f"this count cannot separate the two policies (difference {low} to {high} points)"
        if self.episodes is None:
            return f"{text}: their rates are equal here, so no count that can be named would."
        return f"{text}; you need about {self.episodes:,} episodes for each."


# ------------------------------------------------------------------------------------------------ success counts


def wilson(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a success rate (Wilson 1927), (0, 1) when nothing was counted.

    Args:
        successes: Episodes that succeeded.
        count: Episodes played.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: Where the counts are not 0 <= successes <= count.
    """
    _check_count(successes, count)
    if count == 0:
        return 0.0, 1.0
    z = _quantile(confidence)
    rate, spread = successes / count, z * z / count
    centre = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / count + spread / (4 * count)) / (1 + spread)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == count else centre + half
    return low, high


def separate(
    successes: int, count: int, other_successes: int, other_count: int, confidence: float = 0.95
) -> Separation:
    """Compare two success counts from independent episodes.

    The interval of the difference is Newcombe's hybrid of the two Wilson intervals (Newcombe 1998, "Interval
    estimation for the difference between independent proportions", method 10).
    """
    first = wilson(successes, count, confidence)
    second = wilson(other_successes, other_count, confidence)
    if not count or not other_count:
        return Separation(0.0, (-1.0, 1.0), disjoint=False, episodes=None)
    return _separation(successes / count, first, other_successes / other_count, second, 0.0, confidence)


def separate_paired(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Separation:
    """Compare two policies that played the same episodes (same seeds, in the same order).

    Newcombe's hybrid for paired proportions (Newcombe 1998, "Improved confidence intervals for the difference
    between binomial proportions based on paired data", method 10): it is narrower where the same episodes are hard
    for both.

    Args:
        first: [N] bool, the first policy's success in each episode.
        second: [N] bool, the second's.
        confidence: Coverage.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"paired episodes need two equal, non-empty lists, got shapes {a.shape} and {b.shape}.")
    n, both, neither = a.size, int((a & b).sum()), int((~a & ~b).sum())
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    margins = math.prod((a.sum(), n - a.sum(), b.sum(), n - b.sum()), start=1.0)
    covariance: float = both * neither - only_first * only_second
    if covariance > 0:
        covariance = max(covariance - n / 2, 0.0)  # Newcombe's continuity correction
    correlation = covariance / math.sqrt(margins) if margins else 0.0
    bounds = (wilson(int(x.sum()), n, confidence) for x in (a, b))
    return _separation(a.mean().item(), next(bounds), b.mean().item(), next(bounds), correlation, confidence)


def separable(
    successes: int, count: int, other_successes: int, other_count: int, confidence: float = 0.95
) -> bool:
    """Whether two success counts tell their policies apart (the interval of the difference leaves zero out)."""
    return separate(successes, count, other_successes, other_count, confidence).separable


def episodes_to_separate(rate: float, other: float, confidence: float = 0.95) -> int | None:
    """Return how many episodes each policy needs for these rates to be told apart in 4 tries of 5.

    n = (z_{α/2} + z_β)² (p(1−p) + q(1−q)) / (p − q)², the usual sample size for two proportions; None where p = q.
    """
    if rate == other:
        return None
    z = _quantile(confidence) + NormalDist().inv_cdf(POWER)
    variance = rate * (1 - rate) + other * (1 - other)
    return max(1, math.ceil(z * z * variance / (rate - other) ** 2))


def smallest_visible_difference(successes: int, count: int, confidence: float = 0.95) -> float:
    """Return the difference of success rates that `count` episodes a policy would show in 4 tries of 5.

    The inverse of `episodes_to_separate`, near this rate. The rate is first drawn towards one half as Wilson's
    centre is, so that a perfect score does not claim to see any difference; 1 where nothing was counted.
    """
    if not count:
        return 1.0
    z = _quantile(confidence)
    rate = (successes + z * z / 2) / (count + z * z)
    return min(1.0, (z + NormalDist().inv_cdf(POWER)) * math.sqrt(2 * rate * (1 - rate) / count))


def _separation(
    rate: float, bounds: Interval, other: float, other_bounds: Interval, correlation: float, confidence: float
) -> Separation:
    (low, high), (other_low, other_high) = bounds, other_bounds

    def reach(here: float, there: float) -> float:
        # Rounding can leave a tiny negative number where here = there and the correlation is 1.
        return math.sqrt(max(0.0, here**2 - 2 * correlation * here * there + there**2))

    difference = rate - other
    interval = (
        difference - reach(rate - low, other_high - other),
        difference + reach(high - rate, other - other_low),
    )
    disjoint = low > other_high or other_low > high
    return Separation(difference, interval, disjoint, episodes_to_separate(rate, other, confidence))


def _check_count(successes: int, count: int) -> None:
    if not 0 <= successes <= count:
        raise ValueError(
            f"a success count must lie between 0 and its episodes: got {successes} successes of {count} episodes."
        )


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence} (0.95 is the usual).")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


# --------------------------------------------------------------------------------------- scores over runs and worlds


def interquartile_mean(scores: Array) -> Array:
    """Return the mean of the middle half of all runs and worlds: [B, R, M, ...] -> [B, ...]."""
    flat = np.sort(scores.reshape(scores.shape[0], -1, *scores.shape[3:]), axis=1)
    cut = int(0.25 * flat.shape[1])
    return np.asarray(flat[:, cut : flat.shape[1] - cut].mean(axis=1))


def mean(scores: Array) -> Array:
    """Return the mean over runs and worlds: [B, R, M, ...] -> [B, ...]."""
    return np.asarray(scores.mean(axis=(1, 2)))


def median(scores: Array) -> Array:
    """Return the median over worlds of each world's mean over runs: [B, R, M, ...] -> [B, ...]."""
    return np.asarray(np.median(scores.mean(axis=1), axis=1))


def optimality_gap(scores: Array, target: float = 1.0) -> Array:
    """Return by how much the scores, capped at `target`, fall short of it on average: [B, R, M] -> [B]."""
    return target - mean(np.minimum(scores, target))


def probability_of_improvement(first: Array, second: Array) -> Array:
    """Return P(a run of the first beats a run of the second), averaged over worlds; a tie counts one half.

    The Mann-Whitney U statistic over its maximum.

    Args:
        first: [B, R, M].
        second: [B, R', M].

    Returns:
        [B].
    """
    left, right = first[:, :, None], second[:, None]
    return np.asarray(((left > right) + 0.5 * (left == right)).mean(axis=(1, 2, 3)))


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """Return the share of runs and worlds that score above each threshold: [B, R, M], [T] -> [B, T]."""
    flat = np.sort(scores.reshape(scores.shape[0], -1), axis=1)
    below = np.stack([np.searchsorted(row, thresholds, side="right") for row in flat])
    return np.asarray(1 - below / flat.shape[1])


def bootstrap(
    statistic: Statistic,
    *scores: ArrayLike,
    resamples: int = 2000,
    confidence: float = 0.95,
    worlds: bool = False,
    seed: int = 0,
) -> tuple[Array, Array, Array]:
    """Return a statistic with its percentile interval from a bootstrap stratified by world.

    Runs are drawn with replacement within each world, each array on its own. Draws come in blocks, so that memory
    stays small.

    Args:
        statistic: A function of arrays [B, R, M, ...], such as `interquartile_mean`.
        scores: [R, M, ...] each: runs by worlds. Their R may differ.
        resamples: How many draws.
        confidence: Coverage.
        worlds: Draw the worlds too, as if they were a sample of more worlds.
        seed: Of the draws, so that a report says the same twice.

    Returns:
        Value, low and high, each of the statistic's shape.

    Raises:
        ValueError: Where an array is not [R, M, ...], is empty or holds a number that is not finite.
    """
    arrays = [_check_scores(array) for array in scores]
    value = statistic(*(array[None] for array in arrays))[0]
    generator = np.random.default_rng(seed)
    block = max(1, int(4e6) // max(array.size for array in arrays))
    draws = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws.append(statistic(*(_resample(array, size, worlds, generator) for array in arrays)))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(draws), [tail, 100 - tail], axis=0)
    return value, low, high


def estimate(statistic: Statistic, *scores: ArrayLike, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return a scalar statistic as an `Estimate`; its interval is None where an array has one run only."""
    value, low, high = bootstrap(statistic, *scores, resamples=resamples, seed=seed)
    alone = any(np.shape(array)[0] < 2 for array in scores)
    return Estimate(float(value), None if alone else (float(low), float(high)))


def success_area(steps: ArrayLike, success: ArrayLike) -> Array:
    """Return the area under success curves over the span of their steps: the mean success while learning.

    Args:
        steps: [T] environment steps, ascending, at least two.
        success: [..., T].

    Returns:
        [...] in [0, 1] for rates.
    """
    at, curve = np.asarray(steps, float), np.asarray(success, float)
    if at.ndim != 1 or at.size < 2 or np.any(np.diff(at) <= 0) or curve.shape[-1] != at.size:
        raise ValueError(
            f"a success curve needs at least two ascending steps and as many values: got steps {at.shape} "
            f"and values {curve.shape}."
        )
    return np.asarray(np.trapezoid(curve, at, axis=-1) / (at[-1] - at[0]))


def paired_difference(first: ArrayLike, second: ArrayLike, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return the mean difference of scores whose runs are pairs (same seed, same world), with its interval.

    Pairs are drawn together, so what a seed does to both drops out. For curves, pass each run's `success_area`.

    Args:
        first: [R, M].
        second: [R, M].
        resamples: How many draws.
        seed: Of the draws.
    """
    left, right = np.asarray(first, float), np.asarray(second, float)
    if left.shape != right.shape:
        raise ValueError(f"pairs need equal shapes [runs, worlds], got {left.shape} and {right.shape}.")
    return estimate(mean, left - right, resamples=resamples, seed=seed)


def _check_scores(scores: ArrayLike) -> Array:
    array = np.asarray(scores, float)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"scores must be [runs, worlds, ...] and not empty, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"scores must be finite, got {int((~np.isfinite(array)).sum())} that are not.")
    return array


def _resample(array: Array, size: int, worlds: bool, generator: np.random.Generator) -> Array:
    runs, tasks = array.shape[:2]
    rows = generator.integers(runs, size=(size, runs, tasks))
    columns = generator.integers(tasks, size=(size, 1, tasks)) if worlds else np.arange(tasks)
    return np.asarray(array[rows, columns])
