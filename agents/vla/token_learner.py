"""PPO and GRPO for policies that say their actions: the policy-gradient family of language models, on tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.agents.actor_critic import ActorCritic, Decisions, value_head
from palaestra.agents.core import Decision, Rollout
from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.agents.grpo.objective import Objective, loss
from palaestra.agents.metrics import Meter
from palaestra.agents.vla.backbone import Prefix
from palaestra.agents.vla.token_policy import TokenPolicy
from palaestra.agents.vla.tokens import log_probability, played_tokens
from palaestra.envs.core import Observation


@dataclass(frozen=True, slots=True)
class _Batch(Decisions):
    """What was said."""

    context: Prefix | None
    """What the network made of the observations, where that does not change while it learns."""
    tokens: Tensor
    """[N, L]."""


class TokenRL(ActorCritic[_Batch]):
    """Explores by drawing tokens; each token of a chunk has its own ratio and the chunk's advantage."""

    config: PiRLConfig

    def __init__(self, policy: TokenPolicy, config: PiRLConfig, observation: Observation) -> None:
        """Prepare to train `policy` in place.

        Args:
            policy: Its parameters with `requires_grad` are trained.
            config: How; what it says of denoising is not read.
            observation: Any observation of the worlds, from which the critic takes its width.

        Raises:
            ValueError: Credit is asked for by the action, or trajectories are to weigh equally.
        """
        if config.credit != "chunk" or config.equal_trajectories or config.critic != "observation":
            raise ValueError(
                f"credit is {config.credit!r}, equal_trajectories {config.equal_trajectories}, critic "
                f"{config.critic!r}; a policy that says tokens takes 'chunk', False and 'observation'."
            )
        self._policy, self.network = policy, policy.network
        with torch.no_grad():
            summary = self.network.summary(self.network.observe(observation))
        super().__init__(policy, config, value_head(summary.shape[1]).to(summary.device))
        self.objective = Objective(
            kl="none", low=config.clip, high=config.clip, aggregate="token", entropy=config.entropy
        )

    @property
    def policy(self) -> TokenPolicy:
        """The policy as it is deployed: the likeliest tokens."""
        return self._policy

    @torch.no_grad()
    def act(self, observation: Observation) -> Decision:
        """Decide by drawn tokens; the trace holds them and the critic's value."""
        context = self.network.observe(observation)
        tokens = self.network.decode(context, greedy=False)
        return Decision(self._policy.to_actions(tokens), {"tokens": tokens, "value": self._value(context)})

    def _value(self, context: Prefix) -> Tensor:
        """Return the critic's value [N, 1]."""
        seen = self.network.summary(context)
        value: Tensor = self.critic(seen.detach() if self.config.detach_critic else seen)
        return value.float()

    @torch.no_grad()
    def _value_of(self, observation: Observation) -> Tensor:
        return self._value(self.network.observe(observation))

    def _batch(self, rollout: Rollout) -> _Batch:
        judged = self._judge(rollout)
        views = rollout.observation.map(lambda tensor: tensor.flatten(0, 1))[judged.slots]
        with torch.no_grad():
            context = self.network.observe(views) if self.config.reuse and self.network.settled else None
        tokens, played = (part.flatten(0, 1)[judged.slots] for part in (rollout.trace["tokens"], rollout.played))
        return _Batch(
            views, played, judged.value, judged.target, judged.advantage, judged.weight, context, tokens
        )

    def _old(self, batch: _Batch) -> Tensor:
        parts = torch.arange(len(batch.weight), device=batch.weight.device).split(self.config.batch)
        return torch.cat([self._log_probability(batch[rows])[0] for rows in parts])

    def _log_probability(self, batch: _Batch) -> tuple[Tensor, Tensor, Prefix]:
        """Return log p of the tokens, the entropy there, [N, L] each, and what they were said from."""
        context = batch.context if batch.context is not None else self.network.observe(batch.observation)
        return *log_probability(self.network.logits(context, batch.tokens), batch.tokens), context

    def _loss(self, batch: _Batch, old: Tensor, meter: Meter) -> Tensor:
        logprob, entropy, context = self._log_probability(batch)
        mask = played_tokens(batch.played, self.network.horizon, self.network.width) & (batch.weight > 0)[:, None]
        advantage = batch.advantage.expand_as(logprob)
        value, watched = loss(logprob, old, advantage, mask, self.objective, entropy=entropy)
        for name, number in watched.items():
            meter.add(f"train/{name}", number)
        if self.config.advantage == "gae":
            value = value + self._critic_loss(self._value(context), batch, batch.weight[:, None], meter)
        return value
