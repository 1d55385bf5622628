"""DigiRL: from all that an agent has done, choose what to imitate; imitate that (Bai et al., 2024, arXiv:2406.11896).

The actor maximises the likelihood of what it said itself, over the steps that two filters let through: trajectories
that succeeded where V_instruct expected failure, and in them the steps that V_step or the outcome calls an advance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palaestra.agents.digirl.config import DigiRLConfig
from palaestra.agents.digirl.episodes import Episode, Steps
from palaestra.agents.digirl.filters import (
    advantage_weights,
    instruction_advantages,
    kept_steps,
    outcomes_to_go,
    step_advantages,
    successes_or_all,
    top_share,
)
from palaestra.agents.digirl.values import Value, value_loss
from palaestra.agents.metrics import require_finite
from palaestra.agents.optimiser import load_optimiser_tensors, optimiser_tensors, under
from palaestra.agents.vlm.policy import Prompt, VLMPolicy, prompts_of
from palaestra.agents.vlm.sft import Tuner

Stage = Literal["offline", "online"]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One step to imitate."""

    messages: Prompt
    answer: str


class DigiRL:
    """An actor in training, and its two value functions."""

    def __init__(self, tuner: Tuner, policy: VLMPolicy, config: DigiRLConfig, *, width: int, horizon: int) -> None:
        """Make the value functions, with weights from torch's global generator.

        Args:
            tuner: Trains the actor's weights.
            policy: Acts with the same weights.
            config: What is learnt from what.
            width: F, of the features that episodes carry.
            horizon: H, the most steps of an episode.
        """
        self.tuner, self.policy, self.config, self.horizon = tuner, policy, config, horizon
        self.played = 0
        """Episodes that it has learnt from, ever."""
        self.step_value, self.instruction_value = Value(width, heads=2), Value(width, heads=1)
        self.optimisers = {
            "step": torch.optim.Adam(self.step_value.parameters(), config.value_rate),
            "instruction": torch.optim.Adam(self.instruction_value.parameters(), config.value_rate),
        }

    def learn(self, episodes: Sequence[Episode], stage: Stage) -> dict[str, float]:
        """Fit the value functions to all episodes, then imitate what the filters keep of them; return metrics."""
        steps = Steps.of(episodes)
        config, offline = self.config, stage == "offline"
        metrics: dict[str, float] = {}
        if config.method != "filtered-bc":
            metrics = self.fit_values(episodes, steps, config.offline_values if offline else config.online_values)
        chances = self.chances(episodes, steps, stage)
        metrics["filter/steps"] = (chances > 0).float().mean().item()
        metrics["filter/episodes"] = len(steps.episode[chances > 0].unique()) / len(episodes)
        if not chances.any():
            return metrics | {"filter/nothing": 1.0}
        updates = [self._imitate(episodes, steps, chances) for _ in range(
            config.offline_updates if offline else config.online_updates
        )]
        return metrics | {name: sum(one[name] for one in updates) / len(updates) for name in updates[0]}

    def fit_values(self, episodes: Sequence[Episode], steps: Steps, updates: int) -> dict[str, float]:
        """Fit V_step and V_instruct to the outcomes of random steps and episodes."""
        instructions = torch.stack([one.instruction for one in episodes])
        success = torch.tensor([float(one.success) for one in episodes])
        return {
            "value/step_loss": self._fit("step", self.step_value, steps.features, steps.success, updates),
            "value/instruction_loss": self._fit(
                "instruction", self.instruction_value, instructions, success, updates
            ),
        }

    def _fit(self, name: str, value: Value, features: Tensor, success: Tensor, updates: int) -> float:
        """Take so many gradient steps; return the last loss."""
        loss = torch.zeros(())
        for _ in range(updates):
            rows = torch.randint(len(features), (self.config.batch,))
            loss = value_loss(value.logits(features[rows]), success[rows], self.config.critic)
            self.optimisers[name].zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(value.parameters(), self.config.clip)
            require_finite(loss.detach() + norm, f"the loss of the {name} value", "lower value_rate")
            self.optimisers[name].step()
        return loss.item()

    def chances(self, episodes: Sequence[Episode], steps: Steps, stage: Stage) -> Tensor:
        """Return the probability with which each step is drawn to be imitated, [N] float32; all 0 if none is kept."""
        config = self.config
        success = torch.tensor([float(one.success) for one in episodes])
        if config.method == "filtered-bc" or (stage == "offline" and config.form == "code"):
            weights = successes_or_all(success, config.share)[steps.episode].float()
        elif stage == "online" and config.instruction_filter:
            expected = self.instruction_value(torch.stack([one.instruction for one in episodes]))
            weights = top_share(instruction_advantages(success, expected), config.share)[steps.episode].float()
        else:
            weights = torch.ones(len(steps.episode))
        if config.method == "awr":
            weights = weights * advantage_weights(self.advantages(steps), config.beta)
        elif config.method == "digirl" and config.step_filter:
            weights = weights * kept_steps(self.advantages(steps), self.horizon, config.form)
        return weights / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)

    def advantages(self, steps: Steps) -> Tensor:
        """Return each step's doubly robust advantage, [N]."""
        value = self.step_value(steps.features)
        reward = steps.success * (steps.left == 0)
        outcome = outcomes_to_go(steps.success, steps.left, self.config.decay)
        return step_advantages(value, steps.following(value), reward, outcome, self.config.form)

    def _imitate(self, episodes: Sequence[Episode], steps: Steps, chances: Tensor) -> dict[str, float]:
        """Take one gradient step on what was said in steps drawn by their chances."""
        drawn = torch.multinomial(chances, self.config.batch, replacement=True).tolist()
        samples = [self._sample(episodes, steps, step) for step in drawn]
        fit = self.config.fit
        found = self.tuner.learn([samples[start : start + fit] for start in range(0, len(samples), fit)])
        return {name.replace("train/", "actor/"): value for name, value in found.items()}

    def _sample(self, episodes: Sequence[Episode], steps: Steps, step: int) -> _Sample:
        episode, index = episodes[int(steps.episode[step])], int(steps.index[step])
        row = torch.tensor([index])
        return _Sample(prompts_of(episode.observation[row], self.policy.cameras)[0], episode.actions[index])

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a resumed training needs."""
        state = {f"actor.{name}": value for name, value in self.tuner.state_dict().items()}
        state["played"] = torch.tensor(self.played)
        for name, value in self._values().items():
            state |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
            state |= {
                f"{name}-optimiser.{key}": tensor for key, tensor in optimiser_tensors(self.optimisers[name]).items()
            }
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.tuner.load_state_dict(under("actor.", state))
        self.played = int(state["played"])
        for name, value in self._values().items():
            value.load_state_dict(under(f"{name}.", state))
            load_optimiser_tensors(self.optimisers[name], under(f"{name}-optimiser.", state))

    def _values(self) -> dict[str, Value]:
        return {"step": self.step_value, "instruction": self.instruction_value}
