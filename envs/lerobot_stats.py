"""Statistics of a dataset's columns, as LeRobot's `meta/stats.json` holds them.

Minimum, maximum, mean, standard deviation (of the population), count, and the quantiles 0.01, 0.1, 0.5, 0.9 and
0.99. Quantiles are exact within an episode; over episodes they are their mean weighted by count, which is
LeRobot's own definition and not the quantile of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Stats = dict[str, np.ndarray]
"""Statistic to values: [A] (or [3, 1, 1] of pictures) float64, and `count` [1] int64."""

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLED = 100


def vector_stats(values: np.ndarray) -> Stats:
    """Return the statistics of [T] or [T, A] numbers, each [A] (A = 1 of [T])."""
    table = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(table, list(QUANTILES.values()), axis=0)
    return {
        "min": table.min(0),
        "max": table.max(0),
        "mean": table.mean(0),
        "std": table.std(0),
        "count": np.array([len(table)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def table_stats(columns: Mapping[str, np.ndarray]) -> dict[str, Stats]:
    """Return the statistics of columns of as many rows, each [T] or [T, A], in one pass over all of them."""
    tables = [values.reshape(len(values), -1) for values in columns.values()]
    whole = vector_stats(np.concatenate(tables, axis=1, dtype=np.float64))
    count = whole.pop("count")
    ends = np.cumsum([table.shape[1] for table in tables]).tolist()
    return {
        name: {**{key: values[start:end] for key, values in whole.items()}, "count": count}
        for name, start, end in zip(columns, [0, *ends], ends, strict=False)
    }


def picture_stats(frames: np.ndarray) -> Stats:
    """Return the statistics of [T, H, W, 3] uint8 pictures on a scale of 0 to 1, each [3, 1, 1].

    At most 100 frames, evenly spread, are looked at; `count` says how many.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), SAMPLED)).round().astype(int))
    pixels = frames[chosen].reshape(-1, frames.shape[-1])
    levels = np.arange(256) / 255.0
    channels: list[dict[str, float]] = []
    for channel in pixels.T:
        counts = np.bincount(channel, minlength=256)
        total = np.cumsum(counts)
        mean = float(counts @ levels / total[-1])
        present = levels[counts > 0]
        channels.append(
            {
                "min": present[0],
                "max": present[-1],
                "mean": mean,
                "std": float(np.sqrt(counts @ (levels - mean) ** 2 / total[-1])),
                **{key: levels[np.searchsorted(total, q * total[-1])] for key, q in QUANTILES.items()},
            }
        )
    stats = {key: np.array([part[key] for part in channels]).reshape(-1, 1, 1) for key in channels[0]}
    return {**stats, "count": np.array([len(chosen)])}


def merge(left: Stats, right: Stats) -> Stats:
    """Return the statistics of two parts together (Chan et al. 1979 for the variance)."""
    n, m = left["count"][0], right["count"][0]
    share = m / (n + m)

    def mean(key: str) -> np.ndarray:
        return np.asarray(left[key] + (right[key] - left[key]) * share)

    variance = left["std"] ** 2 * (1 - share) + right["std"] ** 2 * share
    variance = variance + (right["mean"] - left["mean"]) ** 2 * share * (1 - share)
    return {
        "min": np.minimum(left["min"], right["min"]),
        "max": np.maximum(left["max"], right["max"]),
        "mean": mean("mean"),
        "std": np.sqrt(variance),
        "count": left["count"] + right["count"],
        **{key: mean(key) for key in QUANTILES},
    }
