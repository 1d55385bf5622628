"""Rubrics: weighted criteria of which some are hard, and none pays without end.

Rubicon (arXiv:2508.12790) names veto and saturation but gives no formula. Ours, for criteria scored s_k >= 0:
r = 1[no veto] Σ_k w_k sat(s_k) / Σ_k w_k, with sat(s) = (1 - e^(-κ s)) / (1 - e^(-κ)), which is 0 at 0 and 1 at 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from palaestra.envs.retrieval.core import VOID, Record

Criterion = Callable[[Record], float]
"""An episode to a score in [0, 1]; it raises where it has no verdict."""


@dataclass(frozen=True)
class Item:
    """One line of a rubric."""

    name: str
    criterion: Criterion
    weight: float = 1.0
    veto: float | None = None
    """If given, an episode that scores less than this earns nothing at all."""
    saturation: float = 0.0
    """κ: how soon a better score pays less; 0 is linear."""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.saturation < 0:
            raise ValueError(f"{self.name}: weight {self.weight} and saturation {self.saturation} must be at least 0.")


@dataclass(frozen=True, slots=True)
class Graded:
    """What a rubric says of an episode."""

    total: float
    """In [0, 1]."""
    scores: dict[str, float]
    """Each criterion's own score."""
    vetoed: tuple[str, ...]
    """Criteria that forbid any reward."""


class Rubric:
    """A list of criteria."""

    def __init__(self, items: Sequence[Item]) -> None:
        """Take criteria with different names, at least one of which weighs something."""
        if len({item.name for item in items}) < len(items) or not sum(item.weight for item in items) > 0:
            raise ValueError(
                f"a rubric has criteria of different names and some weight, got {[i.name for i in items]}."
            )
        self.items = tuple(items)

    def __call__(self, record: Record) -> Graded | None:
        """Return the grades, or None where the world broke or a criterion did, which the record then says."""
        if record.outcome in VOID:
            return None
        scores: dict[str, float] = {}
        for item in self.items:
            try:
                scores[item.name] = item.criterion(record)
                if not 0 <= scores[item.name] <= 1:
                    raise ValueError(f"a score lies in [0, 1], got {scores[item.name]}")
            except Exception as error:  # a criterion may be a model: whatever it raises is its own failure
                record.outcome, record.error = "judge", f"{item.name}: {type(error).__name__}: {error}"
                return None
        vetoed = tuple(item.name for item in self.items if item.veto is not None and scores[item.name] < item.veto)
        weights = sum(item.weight for item in self.items)
        total = sum(item.weight * saturate(scores[item.name], item.saturation) for item in self.items) / weights
        return Graded(0.0 if vetoed else total, scores, vetoed)


def saturate(score: float, rate: float) -> float:
    """Return (1 - e^(-κ s)) / (1 - e^(-κ)), or s itself at κ = 0."""
    return math.expm1(-rate * score) / math.expm1(-rate) if rate else score
