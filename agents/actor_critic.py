"""What PPO and GRPO share, whatever the policy is: advantages of a rollout, passes over it, optimiser and critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from palaestra.agents.advantages import normalise
from palaestra.agents.core import Rollout, explained_variance
from palaestra.agents.credit import Credit, generalised, grouped
from palaestra.agents.flow.network import mlp
from palaestra.agents.losses import clipped_value, trajectory_weights, weighted_mean
from palaestra.agents.metrics import Meter, require_finite
from palaestra.agents.optimiser import load_optimiser_tensors, optimiser_tensors
from palaestra.envs.core import Observation


@dataclass(frozen=True)
class ActorCriticConfig:
    """How a policy learns from its rollouts."""

    advantage: Literal["gae", "group"] = "gae"
    """PPO's generalised advantages with a critic, or GRPO's group-relative ones without."""
    group: int = 8
    """group: episodes that start alike."""
    keep: tuple[float, float] = (0.1, 0.9)
    """group: keep groups whose mean score lies here; others teach nothing."""
    detach_critic: bool = True
    """Keep the critic's gradient out of the network whose features it reads: expert or backbone."""
    discount: float = 0.99
    """γ, a decision (credit=chunk) or an action (credit=action)."""
    decay: float = 0.95
    """λ of generalised advantages."""
    clip: float = 0.2
    """ε of PPO's clipped ratio."""
    value_clip: float = 0.2
    """How far a value may move from the old one before its loss stops helping."""
    epochs: int = 4
    """Passes over a rollout."""
    batch: int = 256
    """Decisions a gradient step."""
    actor_rate: float = 3e-4
    """Adam's step size of the policy."""
    critic_rate: float = 1e-3
    """Adam's step size of the critic."""
    anneal: int = 0
    """Rollouts over which both step sizes fall to a tenth, linearly, and stay; 0 keeps them as they are."""
    gradient_clip: float = 1.0
    """Largest norm of the policy's gradient, and of the critic's."""
    reuse: bool = True
    """Read each observation once a rollout where its reading is not trained (a frozen backbone); holds all that was
    read in memory."""
    equal_trajectories: bool = False
    """Weigh each trajectory equally whatever its length, instead of each decision."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The N decisions of a rollout whose outcome is known."""

    slots: Tensor
    """[N] int64: which of the T * B slots."""
    value: Tensor
    """[N, V]: the critic's, when the decision was made."""
    target: Tensor
    """[N, V]."""
    advantage: Tensor
    """[N, V]."""
    weight: Tensor
    """[N]."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """N decisions as a learner evaluates them; subclasses add what was decided."""

    observation: Observation
    played: Tensor
    """[N]: how many actions of the chunk."""
    value: Tensor
    """[N, V]: the critic's, when the decision was made."""
    target: Tensor
    """[N, V]."""
    advantage: Tensor
    """[N, V]."""
    weight: Tensor
    """[N]."""

    def __getitem__(self, rows: Tensor) -> Self:
        """Return some of them, in the order of `rows`."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})


B = TypeVar("B", bound=Decisions)


class ActorCritic(ABC, Generic[B]):
    """Learns from rollouts by clipped policy gradients; subclasses say what a decision's density is."""

    credit: Credit = "chunk"
    """Whether rewards, values and advantages belong to chunks or to single actions."""

    def __init__(self, policy: nn.Module, config: ActorCriticConfig, critic: nn.Module) -> None:
        """Prepare to train what of a policy has `requires_grad`, and a critic; both in place."""
        self.config = config
        self.critic = critic
        self._trained = policy
        self.actor_parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": self.actor_parameters, "lr": config.actor_rate},
            {"params": list(critic.parameters()), "lr": config.critic_rate},
        ]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.01)
        self.learnt = 0

    @abstractmethod
    def _batch(self, rollout: Rollout) -> B:
        """Return the decisions whose outcome is known."""

    @abstractmethod
    def _old(self, batch: B) -> Tensor:
        """Return the densities of what was decided under the policy as it is, [N, …]; called without gradient."""

    @abstractmethod
    def _loss(self, batch: B, old: Tensor, meter: Meter) -> Tensor:
        """Return the loss of some decisions, shape []."""

    @abstractmethod
    def _value_of(self, observation: Observation) -> Tensor:
        """Return the value of views that no decision was made at, [N, V]."""

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Improve the policy and the critic from one rollout.

        Raises:
            FloatingPointError: A loss is not finite.
        """
        self._anneal()
        batch = self._batch(rollout)
        if not bool(batch.weight.any()):
            return {"train/decisions": 0.0}
        with torch.no_grad():
            old = self._old(batch)
        meter = Meter()
        for _ in range(self.config.epochs):
            for rows in torch.randperm(len(batch.weight)).split(self.config.batch):
                self._step(self._loss(batch[rows], old[rows], meter), meter)
        metrics = meter.means()
        metrics["train/decisions"] = float((batch.weight > 0).sum())
        if self.config.advantage == "gae":
            metrics["train/explained_variance"] = explained_variance(batch.value, batch.target).item()
        return metrics

    def _anneal(self) -> None:
        """Set the step sizes of this rollout, and count it."""
        config = self.config
        share = 1 - 0.9 * min(1.0, self.learnt / config.anneal) if config.anneal else 1.0
        for group, rate in zip(self.optimiser.param_groups, (config.actor_rate, config.critic_rate), strict=True):
            group["lr"] = rate * share
        self.learnt += 1

    def _judge(self, rollout: Rollout) -> Judged:
        """Return what each decision whose outcome is known was worth."""
        config, value, mask = self.config, rollout.trace["value"], rollout.mask
        target = value
        if config.advantage == "group":
            advantage, mask = grouped(rollout, config.group, config.keep)
            advantage = advantage[..., None]
        else:
            last = self._value_of(rollout.last)
            final = None if rollout.final is None else self._value_of(rollout.final)
            advantage, target = generalised(rollout, value, last, final, config.discount, config.decay, self.credit)
            advantage = normalise(advantage, self._counted(rollout))
        weight = trajectory_weights(mask, rollout.ended) if config.equal_trajectories else mask.float()
        slots = mask.flatten().nonzero().flatten()
        return Judged(slots, *(part.flatten(0, 1)[slots] for part in (value, target, advantage, weight)))

    def _counted(self, rollout: Rollout) -> Tensor:
        """Return which advantages [T, B, V] belong to something that was played, bool."""
        if self.credit == "chunk":
            return rollout.mask[..., None]
        action = torch.arange(rollout.trace["value"].shape[-1], device=rollout.mask.device)
        return rollout.mask[..., None] & (action < rollout.played[..., None])

    def _critic_loss(self, value: Tensor, batch: B, weight: Tensor, meter: Meter) -> Tensor:
        """Return the loss of values [N, V] that weigh [N, 1 or V], shape []."""
        clipped = clipped_value(value, batch.value, batch.target, self.config.value_clip)
        loss = weighted_mean(clipped, weight.expand_as(value))
        meter.add("train/critic_loss", loss)
        return loss

    def _step(self, loss: Tensor, meter: Meter) -> None:
        """Take one gradient step."""
        require_finite(loss, "the loss of reinforcement", "lower actor_rate or the rewards' scale")
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.actor_parameters, self.config.gradient_clip)
        nn.utils.clip_grad_norm_(self.critic.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        meter.add("train/gradient_norm", norm)

    def state_dict(self) -> dict[str, Tensor]:
        """Return policy, critic and optimiser as named tensors."""
        parts = {
            "policy": self._trained.state_dict(),
            "critic": self.critic.state_dict(),
            "optimiser": optimiser_tensors(self.optimiser),
            "counter": {"learnt": torch.tensor(self.learnt)},
        }
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`; raises on any missing, unknown or misshaped entry."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}

        self._trained.load_state_dict(part("policy."))
        self.critic.load_state_dict(part("critic."))
        load_optimiser_tensors(self.optimiser, part("optimiser."))
        self.learnt = int(state["counter.learnt"])


def value_head(width: int, outputs: int = 1) -> nn.Sequential:
    """Return an untrained critic of `width` numbers, whose first values are near 0."""
    leave = nn.Linear(256, outputs)
    nn.init.normal_(leave.weight, std=0.02)
    return nn.Sequential(mlp([width, 256, 256]), nn.SiLU(), leave)
