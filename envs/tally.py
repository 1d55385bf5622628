"""What each row of lock-step worlds has to report so far."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.core import Observation, Step


class Tally:
    """The numbers of `Step` for all of B rows, gathered action by action."""

    def __init__(self, count: int, chunk: int, device: torch.device) -> None:
        """Begin an episode of every row, with nothing played."""
        none = torch.zeros(count, dtype=torch.bool, device=device)
        self.rewards = torch.zeros(count, chunk, device=device)
        self.played = torch.zeros(count, dtype=torch.int64, device=device)
        self.terminated = self.truncated = self.success = self.success_once = none
        self.total = torch.zeros(count, device=device)  # the return so far

    def clear(self, held: Tensor, fresh: Tensor) -> None:
        """Begin new reports but for rows whose report is held back, and new episodes of fresh rows (bool [B])."""
        self.rewards = torch.where(held[:, None], self.rewards, 0.0)
        self.played = torch.where(held, self.played, 0)
        self.terminated, self.truncated = self.terminated & held, self.truncated & held
        self.success, self.success_once = self.success & held, self.success_once & ~fresh
        self.total = self.total.masked_fill(fresh, 0.0)

    def add(self, column: int, alive: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor) -> None:
        """Note what one action brought the rows that are alive; `column` says which of the chunk."""
        self.rewards[:, column] += reward
        self.total = self.total + reward
        self.played = self.played + alive
        self.terminated, self.truncated = self.terminated | terminated, self.truncated | truncated

    def judge(self, alive: Tensor, verdict: Tensor) -> None:
        """Take the task's verdict on the views that the rows alive have reached."""
        self.success = torch.where(alive, verdict, self.success)
        self.success_once = self.success_once | (verdict & alive)

    def step(self, rows: Tensor, observation: Observation) -> Step:
        """Return the report of some rows ([N] int64), who see `observation`."""
        full = len(rows) == len(self.played)

        def of(values: Tensor) -> Tensor:
            return values if full else values[rows]

        return Step(
            rows=rows,
            observation=observation if full else observation[rows],
            rewards=of(self.rewards),
            played=of(self.played),
            terminated=of(self.terminated),
            truncated=of(self.truncated),
            success=of(self.success),
            success_once=of(self.success_once),
        )
