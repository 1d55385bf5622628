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
    parts: Tensor
    """[N, K] float32: the parts before they are weighed; gdpo normalises each alone."""
    weights: Tensor
    """[K]."""

    def __len__(self) -> int:
        return len(self.total)

    def select(self, rows: Tensor) -> Scores:
        """Return those of some conversations."""
        return Scores(self.total[rows], self.valid[rows], self.parts[rows], self.weights)

    @staticmethod
    def join(some: Sequence[Scores]) -> Scores:
        """Return one after the other; all have the same weights."""
        total, valid, parts = (torch.cat([getattr(one, name) for one in some]) for name in ("total", "valid", "parts"))
        return Scores(total, valid, parts, some[0].weights)
