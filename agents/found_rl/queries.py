"""Which views a teacher is asked about."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from palaestra.agents.found_rl.config import QueryConfig

Danger = Callable[[], Tensor]
"""Which worlds are in danger now, [W] bool."""
BURST = 1.0
"""Seconds of unused allowance that may be saved up."""
TOGETHER = 16
"""Asks that an allowance is saved up for: asked together, each costs the asking loop a fifth of what one alone does."""


class Query:
    """Chooses rows, decision by decision."""

    def __init__(
        self,
        config: QueryConfig,
        worlds: int,
        danger: Danger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose among some worlds.

        Args:
            config: How.
            worlds: W.
            danger: kind=unsafe: tells who is in danger.
            clock: Seconds.

        Raises:
            ValueError: kind=unsafe without `danger`.
        """
        if config.kind == "unsafe" and danger is None:
            raise ValueError("query.kind='unsafe' needs a world that tells danger, such as driving/*: choose another.")
        self.config, self.worlds, self._danger, self._clock = config, worlds, danger, clock
        self._allowance, self._since = 0.0, clock()

    def choose(self, decision: int, disagreement: Tensor | None, outstanding: int) -> Tensor:
        """Return the rows to ask about, [N] int64 on the CPU, N possibly 0.

        Args:
            decision: Its number.
            disagreement: [W]: of the critics, for kind=disagreement; None before they have learnt anything.
            outstanding: Asks without an answer.
        """
        rows = self._wanted(decision, disagreement).nonzero().flatten().cpu()
        room = max(0, self.config.outstanding - outstanding)
        if self.config.most_a_second:
            now, rate = self._clock(), self.config.most_a_second
            most = max(1.0, rate * BURST)
            self._allowance = min(most, self._allowance + rate * (now - self._since))
            self._since = now
            room = min(room, int(self._allowance) if self._allowance >= min(TOGETHER, most) else 0)
        if len(rows) > room:
            rows = rows[torch.randperm(len(rows))[:room]].sort().values
        self._allowance -= len(rows) * bool(self.config.most_a_second)
        return rows

    def _wanted(self, decision: int, disagreement: Tensor | None) -> Tensor:
        config, rows = self.config, torch.arange(self.worlds)
        if config.kind == "every":
            return (rows + decision) % config.every == 0
        if config.kind == "random" or (config.kind == "disagreement" and disagreement is None):
            return torch.rand(self.worlds) < config.share
        if config.kind == "unsafe":
            assert self._danger is not None
            return self._danger()
        assert disagreement is not None
        most = max(1, round(config.share * self.worlds))
        return torch.zeros(self.worlds, dtype=torch.bool).index_fill_(0, disagreement.topk(most).indices.cpu(), True)
