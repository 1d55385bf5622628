"""What an agent is: something that decides, and perhaps learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from palaestra.envs.core import Observation


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy does with N observations."""

    action: Tensor | Sequence[str]
    """[N, C, A] float32 for chunks of C actions, or N strings."""
    trace: Mapping[str, Tensor] = field(default_factory=dict)
    """The agent's own record of how it decided, each [N, …]: a denoising chain, log-probabilities, values,
    token ids, advice and its age. The platform stores it and hands it back to `learn`, unread."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """T decisions of B worlds, in the order each row made them.

    A row may have made fewer than T decisions (worlds that answer one by one): `mask` says which slots hold
    one. A slot whose world broke is masked out too, and cuts the row's trajectory.
    """

    observation: Observation
    """[T, B, …]: what each decision saw. `text` is flat, T * B of it, row-major, or empty."""
    action: Tensor
    """[T, B, C, A]."""
    trace: Mapping[str, Tensor]
    """[T, B, …] each."""
    rewards: Tensor
    """[T, B, C] float32, one a played action."""
    played: Tensor
    """[T, B] int64: actions played, at most C."""
    terminated: Tensor
    """[T, B] bool."""
    truncated: Tensor
    """[T, B] bool."""
    success_once: Tensor
    """[T, B] bool: the episode has succeeded by the end of this slot."""
    mask: Tensor
    """[T, B] bool: the slot holds a decision whose outcome is known."""
    filled: Tensor
    """[B] int64: how many slots each row filled, from the first on."""
    final: Observation | None
    """[E, …]: last views of the slots where `terminated | truncated`, in row-major order of (t, b)."""
    last: Observation
    """[B, …]: the view after each row's last slot."""

    @property
    def ended(self) -> Tensor:
        """[T, B] bool."""
        return self.terminated | self.truncated

    @property
    def reward(self) -> Tensor:
        """[T, B] float32: the sum over a slot's actions."""
        return self.rewards.sum(-1)


class Policy(Protocol):
    """All that evaluation needs.

    Draws its randomness from torch's global generators, which evaluation forks and seeds.
    """

    def act(self, observation: Observation) -> Decision:
        """Decide for N worlds, as the policy would be deployed."""
        ...


class Stateful(Protocol):
    """What a run saves and restores."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that must survive a restart: weights, optimiser, normalisers, counters."""
        ...

    def load_state_dict(self, state: dict[str, Tensor], /) -> None:
        """Restore `state_dict`; raises on any missing, unknown or misshaped entry."""
        ...


class Trained(Stateful, Protocol):
    """What a run evaluates, too, however it learns."""

    @property
    def policy(self) -> Policy:
        """The policy as it would be deployed (a flow policy: its ODE, without exploration noise)."""
        ...


class Learner(Trained, Protocol):
    """What learns from rollouts of decisions."""

    def act(self, observation: Observation) -> Decision:
        """Decide for N worlds, exploring, with the trace that `learn` needs."""
        ...

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Improve from one rollout and return metrics."""
        ...


def explained_variance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 1 - Var(target - prediction) / Var(target), shape []: 1 is perfect, 0 as good as the mean."""
    variance = target.var(unbiased=False)
    residual = (target - prediction).var(unbiased=False)
    return torch.where(variance > 0, 1 - residual / variance, torch.zeros_like(variance))
