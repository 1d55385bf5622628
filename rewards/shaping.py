"""Progress: how much nearer to its end an action brought the task."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.core import Step


class ProgressReward:
    """Pays the increase of the world's own reward from one action to the next within an episode.

    A world that pays a dense reward at every step pays a policy for dawdling where success ends the episode. Its
    increase does not: over an episode it sums to the last reward less the first, however long that took (potential-
    based shaping, Ng et al. 1999, with the world's reward as the potential and γ = 1; RLinf's `use_rel_reward`).

    Remembers each row's last reward, so one instance belongs to one `Worlds`.
    """

    def __init__(self, count: int) -> None:
        """Watch `count` rows."""
        self._last = torch.full((count,), torch.nan)

    def __call__(self, step: Step) -> Tensor:
        """Return [N, C] float32; 0 for an episode's first action, which has nothing to be compared with."""
        rows = step.rows
        self._last = self._last.to(rows.device)
        before = torch.cat([self._last[rows, None], step.rewards[:, :-1]], 1)
        action = torch.arange(step.rewards.shape[1], device=rows.device)
        counts = (action < step.played[:, None]) & ~before.isnan()
        newest = step.rewards.gather(1, (step.played - 1).clamp(min=0)[:, None])[:, 0]
        over = step.ended | step.faulted | (step.played == 0)
        self._last[rows] = torch.where(over, torch.nan, newest)
        return torch.where(counts, step.rewards - before, torch.zeros_like(before))
