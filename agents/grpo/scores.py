"""What conversations earned, as a learner takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scores:
    """What conversations earned."""

    total: Tensor
    """[N] float32; anything where the episode is void."""
    valid: Tensor
    """[N] bool: False where the world or the judge broke."""
    solved: Tensor
    """[N] bool: whether the task was; what curricula look at."""
    parts: Tensor
    """[N, K] float32: the parts before they are weighed; gdpo normalises each alone."""
    weights: Tensor
    """[K]."""

    def __len__(self) -> int:
        return len(self.total)

    def select(self, rows: Tensor) -> Scores:
        """Return those of some conversations."""
        return Scores(self.total[rows], self.valid[rows], self.solved[rows], self.parts[rows], self.weights)

    @staticmethod
    def join(some: Sequence[Scores]) -> Scores:
        """Return one after the other; all have the same weights."""
        return Scores(
            torch.cat([one.total for one in some]),
            torch.cat([one.valid for one in some]),
            torch.cat([one.solved for one in some]),
            torch.cat([one.parts for one in some]),
            some[0].weights,
        )
