"""What a reward is: a function of what worlds reported, with its parts kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from palaestra.envs.core import Step


class Reward(Protocol):
    """Judges every action that was played in a step."""

    def __call__(self, step: Step) -> Tensor:
        """Return [N, C] float32, one column an action; zero where none was played."""
        ...


class WorldReward:
    """The world's own reward."""

    def __call__(self, step: Step) -> Tensor:
        """Return `step.rewards`."""
        return step.rewards


@dataclass
class WeightedSum:
    """A weighted sum of rewards that keeps what each part added."""

    parts: Mapping[str, tuple[float, Reward]]
    """Name to (weight, reward)."""
    totals: dict[str, float] = field(default_factory=dict)
    """What each part has added up to since `clear`, over all rows and actions."""

    def __call__(self, step: Step) -> Tensor:
        """Return [N, C] float32.

        Raises:
            FloatingPointError: A part is not finite; the message names it and its first such row.
        """
        total = torch.zeros_like(step.rewards)
        for name, (weight, reward) in self.parts.items():
            value = weight * reward(step)
            added = float(value.sum())
            if not torch.isfinite(value).all():
                row = int(step.rows[~torch.isfinite(value).all(1)][0])
                raise FloatingPointError(f"the reward {name!r} of row {row} is not finite: a bug in that reward.")
            self.totals[name] = self.totals.get(name, 0.0) + added
            total = total + value
        return total

    def clear(self) -> dict[str, float]:
        """Return the totals and start them afresh."""
        totals, self.totals = self.totals, {}
        return totals
