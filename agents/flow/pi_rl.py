"""π_RL: PPO and GRPO for flow policies (arXiv 2510.25889), with Flow-SDE and Flow-Noise exploration.

A denoising chain is made stochastic, so that its transitions have densities; the policy gradient is taken through
those. Three forms of the decision process are offered:

* `hybrid` (Flow-SDE as the paper trains it): one transition of a chain explores, drawn anew each decision, and the
  rest follow the ODE as if they were part of the world. One network evaluation a sample and epoch.
* `full`: every transition explores and is an inner step of its own, with the decision's advantage (the two-layer
  process; the critic does not see inner steps, and the inner discount is 1).
* `joint`: every transition explores, and the chain is one action whose log-density is their sum (Flow-Noise).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palaestra.agents.actor_critic import ActorCritic, ActorCriticConfig, Decisions, value_head
from palaestra.agents.core import Decision, Rollout
from palaestra.agents.credit import Credit
from palaestra.agents.flow.likelihood import Transitions, transitions
from palaestra.agents.flow.network import Context
from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.flow.samplers import Method, gaussian_entropy, sample
from palaestra.agents.losses import clipped_surrogate, weighted_mean
from palaestra.agents.metrics import Meter
from palaestra.envs.core import Observation


@dataclass(frozen=True)
class PiRLConfig(ActorCriticConfig):
    """How a flow policy explores and learns from what it found."""

    sampler: Method = "sde"
    """How a transition explores: sde (Flow-SDE), noise (Flow-Noise, learned), cps (coefficient preserving)."""
    form: Literal["hybrid", "full", "joint"] = "hybrid"
    """One exploring transition a decision, all as inner steps, or all as one action."""
    level: float = 0.5
    """Noise level a of sde and cps; must be positive."""
    index: Literal["batch", "row"] = "row"
    """hybrid: whether the exploring transition is drawn once for all rows (RLinf) or for each row."""
    reduction: Literal["sum", "mean"] = "sum"
    """joint: log-densities are summed (the paper), or divided by K + 1 as in RLinf, which widens the trust region."""
    critic: Literal["observation", "expert"] = "observation"
    """gae: what the critic reads: the observation (V_vlm), or the action expert's features (V_expert)."""
    credit: Credit = "chunk"
    """Whether rewards, values and advantages belong to chunks or to single actions."""
    ratio: Credit = "chunk"
    """Whether a probability ratio is taken over a chunk or over each action."""
    entropy: float = 0.005
    """noise, and policies that say tokens: bonus on the mean entropy of an entry, or of a token."""

    def __post_init__(self) -> None:
        if self.sampler != "noise" and not self.level > 0:
            raise ValueError(
                f"level is {self.level}: without exploration noise a transition has no density and nothing can be "
                "learnt. Take a positive level (π_RL uses 0.5), or sampler='noise'."
            )
        if self.credit == "action" and self.ratio == "chunk":
            raise ValueError("credit='action' needs ratio='action': one ratio a chunk cannot carry several advantages.")
        if self.credit == "action" and self.advantage == "group":
            raise ValueError("credit='action' needs advantage='gae': a group's score belongs to a whole episode.")


@dataclass(frozen=True, slots=True)
class _Batch(Decisions):
    """Chains of denoising."""

    context: Context | None
    """What the network made of the observations, where that does not change while it learns."""
    points: Tensor
    """[N, K + 1, H, D]."""
    index: Tensor
    """[N, J]: the transitions whose densities count."""
    level: Tensor
    """[N, K]."""


class PiRL(ActorCritic[_Batch]):
    """The learner: explores with a stochastic chain, learns by clipped policy gradients."""

    config: PiRLConfig

    def __init__(self, policy: FlowPolicy, config: PiRLConfig, observation: Observation) -> None:
        """Prepare to train `policy` in place.

        Args:
            policy: Its parameters with `requires_grad` are trained; a frozen backbone stays bit-identical.
            config: How.
            observation: Any observation of the worlds, from which the critic takes its width.
        """
        self._policy = policy
        self.network = policy.network
        self.credit = config.credit
        context = self.network.observe(observation)
        with torch.no_grad():
            width = self._critic_input_width(config, context)
        outputs = policy.chunk if config.credit == "action" else 1
        super().__init__(policy, config, value_head(width, outputs).to(context.device))

    @property
    def policy(self) -> FlowPolicy:
        """The policy as it is deployed: the ODE."""
        return self._policy

    def _critic_input_width(self, config: PiRLConfig, context: Context) -> int:
        if config.critic == "observation":
            return self.network.summary(context).shape[1]
        noise = self._policy.noise(len(context), context.device)
        return self.network.field(context, noise, torch.ones(len(context), device=context.device)).features.shape[1]

    @torch.no_grad()
    def act(self, observation: Observation) -> Decision:
        """Decide by a stochastic chain; the trace holds the chain, its noise levels and the critic's value."""
        context = self.network.observe(observation)
        level = self._levels(len(context)).to(context.device)
        chain = sample(
            lambda x, t: self.network.field(context, x, t),
            self._policy.noise(len(context), context.device),
            self._policy.steps,
            self.config.sampler,
            level,
        )
        trace = {"points": chain.points, "level": level, "value": self._value(context, chain.features)}
        return Decision(self._policy.to_actions(chain.points[:, -1]), trace)

    def _levels(self, batch: int) -> Tensor:
        """Return the noise level of each transition of each chain, [batch, K]."""
        steps = self._policy.steps
        level = torch.full((batch, steps), self.config.level if self.config.sampler != "noise" else 1.0)
        if self.config.form != "hybrid":
            return level
        draws = 1 if self.config.index == "batch" else batch
        chosen = torch.randint(steps, (draws, 1)).expand(batch, 1)
        return torch.zeros_like(level).scatter(1, chosen, level[:, :1])

    def _value(self, context: Context, features: Tensor) -> Tensor:
        """Return the critic's value [N, V], from the observation or as the mean over features [N, K, F]."""
        if self.config.critic == "observation":
            features = self.network.summary(context)[:, None]
        seen = features.detach() if self.config.detach_critic else features
        value: Tensor = self.critic(seen).mean(1)
        return value.float()  # under autocast the critic answers in half precision

    @torch.no_grad()
    def _value_of(self, observation: Observation) -> Tensor:
        """Return the value of views that no decision was made at, [N, V]."""
        if self.config.critic == "observation":
            context = self.network.observe(observation)
            return self._value(context, self.network.summary(context))  # the critic asks for no other features
        return self.act(observation).trace["value"]

    def _batch(self, rollout: Rollout) -> _Batch:
        """Return the decisions whose outcome is known, with their advantages."""
        config, judged = self.config, self._judge(rollout)

        def flat(tensor: Tensor) -> Tensor:
            return tensor.flatten(0, 1)[judged.slots]

        level = flat(rollout.trace["level"])
        steps = torch.arange(self._policy.steps, device=level.device).expand(len(level), -1)
        index = level.argmax(1, keepdim=True) if config.form == "hybrid" else steps
        views = rollout.observation.map(lambda tensor: tensor.flatten(0, 1))[judged.slots]
        with torch.no_grad():
            context = self.network.observe(views) if config.reuse and self.network.settled else None
        return _Batch(
            views, flat(rollout.played), judged.value, judged.target, judged.advantage, judged.weight,
            context, flat(rollout.trace["points"]), index, level,
        )  # fmt: skip

    def _old(self, batch: _Batch) -> Tensor:
        return self._log_densities(batch)[0]

    def _log_densities(self, batch: _Batch) -> tuple[Tensor, tuple[Context, Transitions]]:
        """Return the chains' log-densities [N, J', C'] under the current network, and what they came from.

        J' is 1 where the chain is one action, C' is 1 where the ratio is taken over the chunk.
        """
        context = batch.context if batch.context is not None else self.network.observe(batch.observation)
        seen = transitions(self.network, context, batch.points, batch.index, batch.level, self.config.sampler)
        # Only what was played is an action: the rest of horizon and width is noise that nothing ever saw.
        density = self._shown(seen.log_density).sum(-1) * self._played(batch)[:, None]
        if self.config.ratio == "chunk":
            density = density.sum(-1, keepdim=True)
        if self.config.form == "joint":
            density = density.sum(1, keepdim=True)
            if self.config.reduction == "mean":
                density = density / (self._policy.steps + 1)
        return density, (context, seen)

    def _shown(self, entries: Tensor) -> Tensor:
        """Return of entries [N, J, H, D] those that may be played, [N, J, C, A]."""
        return entries[:, :, : self._policy.chunk, : self._policy.actions]

    def _played(self, batch: _Batch) -> Tensor:
        """Return which actions of the chunks were played, [N, C] float."""
        action = torch.arange(self._policy.chunk, device=batch.played.device)
        return (action < batch.played[:, None]).to(torch.float32)

    def _loss(self, batch: _Batch, old: Tensor, meter: Meter) -> Tensor:
        config = self.config
        density, (context, seen) = self._log_densities(batch)
        played = self._played(batch)
        weight = batch.weight[:, None, None].expand_as(density)
        if config.ratio == "action":
            weight = weight * played[:, None]
        change = density - old
        ratio = change.exp()
        advantage = batch.advantage[:, None].expand_as(ratio)
        actor_loss = weighted_mean(clipped_surrogate(ratio, advantage, config.clip), weight)
        loss = actor_loss
        if config.sampler == "noise":
            entropy = gaussian_entropy(self._shown(seen.std)).mean()
            loss = loss - config.entropy * entropy
            meter.add("train/entropy", entropy)
        if config.advantage == "gae":
            value_weight = batch.weight[:, None] * (played if config.credit == "action" else 1)
            loss = loss + self._critic_loss(self._value(context, seen.features), batch, value_weight, meter)
        with torch.no_grad():
            meter.add("train/actor_loss", actor_loss)
            meter.add("train/clip_fraction", weighted_mean(((ratio - 1).abs() > config.clip).float(), weight))
            meter.add("train/approximate_kl", weighted_mean(ratio - 1 - change, weight))
            meter.add("train/noise_std", seen.std.mean())
        return loss
