"""The world's own verdict as a reward: 1 when the task first succeeds in an episode."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.core import Step


class SuccessReward:
    """Pays 1 on the last action of the step in which a row's task first succeeded, and nothing after it.

    Remembers which rows have been paid in their running episode, so one instance belongs to one `Worlds`.
    """

    def __init__(self, count: int) -> None:
        """Watch `count` rows."""
        self._paid = torch.zeros(count, dtype=torch.bool)

    def __call__(self, step: Step) -> Tensor:
        """Return [N, C] float32."""
        rows = step.rows
        self._paid = self._paid.to(rows.device)
        # A step in which nothing was played is a reset: the row's episode is new.
        fresh = step.played == 0
        earned = step.success_once & ~(self._paid[rows] & ~fresh) & ~fresh
        reward = torch.zeros_like(step.rewards)
        last = (step.played - 1).clamp(min=0)[:, None]
        reward.scatter_(1, last, earned.to(reward.dtype)[:, None])
        self._paid[rows] = step.success_once & ~(step.ended | step.faulted) & ~fresh
        return reward
