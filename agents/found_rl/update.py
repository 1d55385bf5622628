"""Gradient steps on replayed transitions: critics, then actor, then the imitator that the guard watches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from palaestra.agents.found_rl.config import FoundRLConfig
from palaestra.agents.found_rl.guidance import (
    advice_weight,
    gaussian_cost,
    guided_action,
    squashed_cost,
    surprise,
    value_margin,
)
from palaestra.agents.found_rl.networks import Actor, Critics, follow, shifted
from palaestra.agents.found_rl.policy import DrivingPolicy
from palaestra.agents.found_rl.replay import Batch, Replay
from palaestra.agents.metrics import Meter, require_finite
from palaestra.agents.optimiser import load_optimiser_tensors, optimiser_tensors, under
from palaestra.envs.core import Observation

NOISE_CLIP = 0.3
"""DrQ-v2: how far the noise may move a target's action."""
Q_SCALE = 2.5
"""AWAG: magnitude that values are scaled to, as in TD3+BC, so that its weight does not depend on the return's scale."""


class Updater:
    """Everything that learns, and its optimisers."""

    def __init__(
        self, policy: DrivingPolicy, imitator: Actor | None, config: FoundRLConfig, device: torch.device | str
    ) -> None:
        """Prepare to train a policy, and an imitator where there is one, in place."""
        self.policy, self.imitator, self.config = policy, imitator, config
        self.critics = Critics(policy.encoder.width, policy.width, config.hidden).to(device)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.tensor(math.log(config.entropy), device=device, requires_grad=True)
        seeing = [*policy.encoder.parameters()]
        clones = config.guidance == "bc"
        self.optimisers = {
            "critic": _adam([*self.critics.parameters(), *([] if clones else seeing)], config.critic_rate),
            "actor": _adam([*policy.actor.parameters(), *(seeing if clones else [])], config.actor_rate),
            "alpha": _adam([self.log_alpha], config.critic_rate),
        }
        if imitator is not None:
            self.optimisers["imitator"] = _adam(imitator.parameters(), config.critic_rate)

    def step(self, replay: Replay, margin: float, action: float, noise: float, meter: Meter) -> None:
        """Take one gradient step of everything.

        Args:
            replay: Holds transitions.
            margin: VMR's λ now.
            action: AWAG's η now.
            noise: DrQ-v2's σ now.
            meter: Gets the metrics.
        """
        imitates = self.imitator is not None or self.config.guidance == "bc"
        labelled = imitates and bool(replay.tensors["advised"].any())
        if self.config.guidance == "bc":
            if labelled:
                self._imitate("actor", self.policy.actor, replay.sample(self.config.batch, labelled=True), meter)
            return
        batch = replay.sample(self.config.batch)
        features = self._criticise(batch, margin, noise, meter)
        self._act(batch, features, action, noise, meter)
        if self.imitator is not None and labelled:
            self._imitate("imitator", self.imitator, replay.sample(self.config.batch, labelled=True), meter)
        follow(self.target, self.critics, self.config.average)

    def _seen(self, observation: Observation) -> Tensor:
        """Return features of views, whose pictures are shifted at random."""
        if self.config.shift and observation.images:
            images = {name: shifted(picture, self.config.shift) for name, picture in observation.images.items()}
            observation = Observation(images, observation.state)
        features: Tensor = self.policy.encoder(observation)
        return features

    def _criticise(self, batch: Batch, margin: float, noise: float, meter: Meter) -> Tensor:
        """Improve the critics and the encoder; return the features of the views."""
        config = self.config
        with torch.no_grad():
            following = self._seen(batch.following)
            mean, log_std = self.policy.actor(following)
            action, entropy = self._draw(mean, log_std, noise, NOISE_CLIP)
            value = self.target(following, action).amin(0) + self._alpha() * entropy
            target = batch.reward + config.discount * ~batch.terminated * value
        features = self._seen(batch.observation)
        if margin:
            both = self.critics(features.repeat(2, 1), torch.cat((batch.action, batch.advice)))
            taken, advised = both.chunk(2, 1)
            extra = value_margin(advised, taken, batch.advised, config.margin, config.literal)
            meter.add("margin_loss", extra)
        else:
            taken, extra = self.critics(features, batch.action), target.new_zeros(())
        fit = 0.5 * (taken - target).square().mean(1).sum()
        self._descend("critic", fit + margin * extra)
        meter.add("critic_loss", fit)
        meter.add("value", taken.mean())
        meter.add("reward", batch.reward.mean())
        return features.detach()

    def _draw(self, mean: Tensor, log_std: Tensor, noise: float, most: float = math.inf) -> tuple[Tensor, Tensor]:
        """Return actions [N, A] drawn as the actor says, and the entropy's sample [N], 0 for DrQ-v2."""
        if self.config.algorithm == "drqv2":
            moved = (noise * torch.randn_like(mean)).clamp(-most, most)
            return (torch.tanh(mean) + moved).clamp(-1 + 1e-6, 1 - 1e-6), mean.new_zeros(len(mean))
        before = mean + log_std.exp() * torch.randn_like(mean)
        return torch.tanh(before), surprise(before, mean, log_std)

    def _act(self, batch: Batch, features: Tensor, weight: float, noise: float, meter: Meter) -> None:
        """Improve the actor, and the temperature of its entropy."""
        config = self.config
        mean, log_std = self.policy.actor(features)
        action, entropy = self._draw(mean, log_std, noise)
        self.critics.requires_grad_(False)
        values = self.critics(features, action)
        self.critics.requires_grad_(True)
        value = values.amin(0)
        scale = Q_SCALE / values[0].detach().abs().mean().clamp(min=1e-3)
        loss = -(value + self._alpha() * entropy).mean() + config.saturation * mean.square().mean()
        if config.actions:
            # SAC's released form leaves values as they are; DrQ-v2's, and ours, set them against the guidance.
            loss = loss if config.literal and config.algorithm == "sac" else scale * loss
            loss = loss + weight * self._guidance(batch, features, mean, log_std, noise, meter)
        self._descend("actor", loss)
        meter.add("actor_loss", loss)
        if config.algorithm == "sac":
            surplus = (entropy.detach() + self.policy.width).mean()
            self._descend("alpha", self.log_alpha.exp() * surplus)
            meter.add("alpha", self.log_alpha.exp())
            meter.add("entropy", entropy.mean())

    def _guidance(
        self, batch: Batch, features: Tensor, mean: Tensor, log_std: Tensor, noise: float, meter: Meter
    ) -> Tensor:
        """Return AWAG's term, and note how often its gate is open."""
        config = self.config
        with torch.no_grad():
            actions = torch.cat((batch.advice, torch.tanh(mean)))
            advised, own = self.critics(features.repeat(2, 1), actions).amin(0).chunk(2)
            weight = advice_weight(
                advised - own, batch.advised, config.temperature, config.most_weight, not config.literal
            )
        meter.add("gate", (weight > 0).sum() / batch.advised.sum().clamp(min=1))
        if not config.literal:
            cost = (torch.tanh(mean) - batch.advice).square().sum(1)
        elif config.algorithm == "drqv2":
            cost = gaussian_cost(torch.tanh(mean), noise, batch.advice)
        else:
            cost = squashed_cost(mean, log_std, batch.advice)
        return guided_action(weight, cost)

    def _imitate(self, name: str, actor: Actor, batch: Batch, meter: Meter) -> None:
        """Improve an actor towards labels; `name` is of its optimiser, which may hold the encoder too."""
        with torch.set_grad_enabled(name == "actor"):
            features = self._seen(batch.observation)
        mean, _ = actor(features)
        loss = (torch.tanh(mean) - batch.advice).square().mean()
        self._descend(name, loss + self.config.saturation * mean.square().mean())
        meter.add("imitation_loss", loss)

    def _alpha(self) -> Tensor:
        return self.log_alpha.detach().exp()

    def _descend(self, name: str, loss: Tensor) -> None:
        require_finite(loss, f"Found-RL's {name} loss", f"lower {name}_rate or the rewards' scale")
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        optimiser.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Return critics, targets, imitator, temperature and optimisers as named tensors."""
        parts = {"critics": self.critics.state_dict(), "target": self.target.state_dict()}
        if self.imitator is not None:
            parts["imitator"] = self.imitator.state_dict()
        parts |= {f"optimiser-{name}": optimiser_tensors(each) for name, each in self.optimisers.items()}
        parts["alpha"] = {"log": self.log_alpha.detach()}
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.critics.load_state_dict(under("critics.", state))
        self.target.load_state_dict(under("target.", state))
        if self.imitator is not None:
            self.imitator.load_state_dict(under("imitator.", state))
        for name, optimiser in self.optimisers.items():
            load_optimiser_tensors(optimiser, under(f"optimiser-{name}.", state))
        with torch.no_grad():
            self.log_alpha.copy_(state["alpha.log"])


def _adam(parameters: Iterable[nn.Parameter | Tensor], rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(list(parameters), lr=rate, fused=True)
