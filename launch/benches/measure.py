"""Speed, measured as ratios: contenders take turns in rounds, so that whatever else runs here slows all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Play = Callable[[int], int]
"""Plays at least so many steps and returns how many they were."""


def measure(
    plays: Mapping[str, Play], pairs: Sequence[tuple[str, str]], rounds: int, seconds: float
) -> dict[str, Any]:
    """Let contenders play in turns and return their rates and the ratios of some pairs.

    Every second round goes backwards, so that a steady drift of the machine cancels out.
    """
    steps = {}
    for name, play in plays.items():
        play(1)
        began = time.perf_counter()
        done = play(20)
        steps[name] = max(1, round(done * seconds / (time.perf_counter() - began)))
    rates: dict[str, list[float]] = {name: [] for name in plays}
    for turn in range(rounds):
        for name in list(plays)[:: -1 if turn % 2 else 1]:
            began = time.perf_counter()
            done = plays[name](steps[name])
            rates[name].append(done / (time.perf_counter() - began))
    ratios = {}
    for left, right in pairs:
        paired = [a / b for a, b in zip(rates[left], rates[right], strict=True)]
        ratios[f"{left} / {right}"] = {
            "median": round(median(paired), 3),
            "least": round(min(paired), 3),
            "greatest": round(max(paired), 3),
        }
    return {"rates": {name: round(median(turn), 1) for name, turn in rates.items()}, "ratios": ratios}
