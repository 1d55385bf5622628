"""Curricula: which prompts are played, with how much of a teacher's help, and which groups are learnt from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from palaestra.agents.grpo.rollout import Trajectory
from palaestra.agents.grpo.scores import Scores

Kind = Literal["none", "dynamic", "balanced", "prefix", "seele"]


@dataclass(frozen=True)
class CurriculumConfig:
    """Which prompts, and which groups."""

    kind: Kind = "none"
    """dynamic: groups of which all or none succeed are replaced (DAPO); balanced: so are those outside of a band
    (online difficulty filtering); prefix: prompts that were never solved begin with part of a solution (PrefixRL);
    seele: as much of it as makes success even odds (SEELE)."""
    rounds: int = 4
    """Most rounds of playing for a batch; a batch that is not full by then is learnt from as it is, and says so."""
    band: tuple[float, float] = (0.2, 0.8)
    """balanced: smallest and largest success rate of a group, symmetric around one half in the paper."""
    share: tuple[float, float] = (0.4, 0.8)
    """prefix: least and most of a solution that is given."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it must be at least 1.")
        for name in ("band", "share"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name} is {low} to {high}; it must ascend within [0, 1].")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a group is asked."""

    number: int
    """Of the task."""
    hint: float = 0.0
    """Share of a teacher's solution that it begins with."""


class Curriculum:
    """Every prompt alike, and every group is learnt from."""

    def __init__(self, tasks: int, config: CurriculumConfig) -> None:
        """Take how many tasks there are to choose from."""
        self.tasks, self.config = tasks, config
        self.seen: list[tuple[int, float, float]] = []
        """Task, hint and success rate of every group so far."""

    def choose(self, count: int, generator: np.random.Generator) -> list[Prompt]:
        """Return at most so many prompts, of different tasks as far as there are enough."""
        chosen = generator.choice(self.tasks, count, replace=count > self.tasks)
        return [Prompt(int(number), self.hint(int(number), generator)) for number in chosen]

    def hint(self, task: int, generator: np.random.Generator) -> float:
        """Return how much of a solution a prompt begins with."""
        return 0.0

    def keep(self, rate: Tensor) -> Tensor:
        """Return which groups are learnt from, [P] bool, given their success rates [P]; NaN where all was void."""
        return torch.ones_like(rate, dtype=torch.bool)

    def note(self, prompts: Sequence[Prompt], rate: Tensor) -> None:
        """Remember what came of prompts."""
        rates = zip(prompts, rate.tolist(), strict=True)
        self.seen += [(prompt.number, prompt.hint, found) for prompt, found in rates if not np.isnan(found)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what must survive a restart."""
        return {"seen": torch.tensor(self.seen, dtype=torch.float64).reshape(-1, 3)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.seen = [(int(task), hint, rate) for task, hint, rate in state["seen"].tolist()]


class Dynamic(Curriculum):
    """Dynamic sampling (DAPO, Yu et al. 2025): groups that all or none of solve say nothing, and are replaced."""

    def keep(self, rate: Tensor) -> Tensor:
        """Keep 0 < rate < 1."""
        return (rate > 0) & (rate < 1)


class Balanced(Curriculum):
    """Balanced online difficulty filtering (Bae et al. 2025): learning gains most where success is even odds."""

    def keep(self, rate: Tensor) -> Tensor:
        """Keep rates within the band; half a thousandth of rounding is forgiven."""
        low, high = self.config.band
        return (rate >= low - 5e-4) & (rate <= high + 5e-4)


class Prefix(Curriculum):
    """PrefixRL (2026): tasks that were never solved begin with 40 to 80 % of a solution, cut at random."""

    def hint(self, task: int, generator: np.random.Generator) -> float:
        """Help where help is needed."""
        rates = [rate for seen, _, rate in self.seen if seen == task]
        return float(generator.uniform(*self.config.share)) if rates and not any(rates) else 0.0


class Seele(Curriculum):
    """SEELE (2025): a batch plays fewer tasks in several rounds, each with the hint that makes success even odds.

    The first round gives nearly all of a solution. What came of a task is fitted by an item-response curve, which says
    how much to give next. Nothing is filtered.
    """

    def __init__(self, tasks: int, config: CurriculumConfig) -> None:
        super().__init__(tasks, config)
        self._open: list[int] = []
        self._visits = 0

    def choose(self, count: int, generator: np.random.Generator) -> list[Prompt]:
        """Return new tasks in a batch's first round, then the same ones again."""
        if self._visits % self.config.rounds == 0:
            fewer = min(max(1, count // self.config.rounds), self.tasks)
            self._open = generator.choice(self.tasks, fewer, replace=False).tolist()
        self._visits += 1
        return [Prompt(task, self.hint(task, generator)) for task in self._open]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what must survive a restart."""
        return super().state_dict() | {"open": torch.tensor([self._visits, *self._open])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`."""
        super().load_state_dict(state)
        self._visits, *self._open = state["open"].tolist()

    def hint(self, task: int, generator: np.random.Generator) -> float:
        """Return the hint at which the fitted curve is one half."""
        seen = [(hint, rate) for number, hint, rate in self.seen if number == task]
        return even_odds(seen) if seen else FIRST_HINT


FIRST_HINT = 0.95
"""SEELE begins with nearly the whole solution."""
_GUESS, _SLOPE, _SHIFT = (
    part[..., None] for part in np.meshgrid([0.0, 0.1, 0.2, 0.3], [2.0, 4.0, 8.0, 16.0], np.linspace(-1.2, 0.4, 33))
)


def even_odds(seen: Sequence[tuple[float, float]]) -> float:
    """Return the hint p at which f(p) = b + (1 - b) / (1 + e^(-k (p + μ))) is one half, in [0, 1].

    b, k and μ are those of a grid with the least squared error on (hint, success rate); of equal ones their mean p is
    taken, so that a single observation already points somewhere (the three-parameter logistic model of SEELE).
    """
    hint, rate = (np.array(part) for part in zip(*seen, strict=True))
    curve = _GUESS + (1 - _GUESS) / (1 + np.exp(-_SLOPE * (hint + _SHIFT)))
    error = np.square(curve - rate).sum(-1)
    even = -_SHIFT[..., 0] - np.log((1 - _GUESS) / (0.5 - _GUESS) - 1)[..., 0] / _SLOPE[..., 0]
    best = even[error <= error.min() + 1e-3]
    return float(np.clip(best, 0, 1).mean())


KINDS: dict[Kind, type[Curriculum]] = {
    "none": Curriculum, "dynamic": Dynamic, "balanced": Balanced, "prefix": Prefix, "seele": Seele
}  # fmt: skip

Play = Callable[[Sequence[Prompt]], tuple[list[Trajectory], Scores]]
"""Plays a group a prompt, and scores it."""


def rates(scores: Scores, group: int) -> Tensor:
    """Return the success rate of each group's valid members, [P]; NaN where there is none."""
    valid = scores.valid.reshape(-1, group)
    solved = (scores.solved.reshape(-1, group) & valid).sum(1)
    return solved / valid.sum(1)


def gather(
    curriculum: Curriculum, play: Play, count: int, group: int, generator: np.random.Generator
) -> tuple[list[Trajectory], Scores, dict[str, float]]:
    """Play until so many groups may be learnt from, or rounds run out; return them, their scores, and metrics.

    Where no group at all may be learnt from, those of the last round are returned: the learner reports that they are
    equal, and `curriculum/kept` is 0.
    """
    trajectories: list[Trajectory] = []
    found: list[Scores] = []
    kept, tried, hints, rounds = 0, 0, 0.0, 0
    while kept < count and rounds < curriculum.config.rounds:
        prompts = curriculum.choose(count - kept, generator)
        played, scores = play(prompts)
        rate = rates(scores, group)
        curriculum.note(prompts, rate)
        wanted = curriculum.keep(rate)
        rows = wanted.repeat_interleave(group).nonzero().flatten()
        trajectories += [played[row] for row in rows.tolist()]
        found += [scores.select(rows)] if len(rows) else []
        kept, tried, rounds = kept + int(wanted.sum()), tried + len(prompts), rounds + 1
        hints += sum(prompt.hint for prompt in prompts)
    metrics = {
        "curriculum/kept": kept / tried, "curriculum/full": min(1.0, kept / count),
        "curriculum/rounds": float(rounds), "curriculum/hint": hints / tried,
    }  # fmt: skip
    if not found:
        return played, scores, metrics
    return trajectories, Scores.join(found), metrics
