"""Learns from conversations in groups, by any member of the policy-gradient family."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.agents.grpo import advantages
from palaestra.agents.grpo.batch import Batch, collate
from palaestra.agents.grpo.objective import Objective, loss
from palaestra.agents.grpo.rollout import Trajectory
from palaestra.agents.grpo.speaker import Speaker
from palaestra.agents.metrics import Meter, require_finite
from palaestra.agents.optimiser import load_optimiser_tensors, optimiser_tensors


@dataclass(frozen=True)
class GRPOConfig:
    """How a batch of conversations is learnt from."""

    group: int = 5
    """Conversations a prompt."""
    epochs: int = 2
    """Passes over a batch."""
    parts: int = 2
    """Gradient steps a pass."""
    learning_rate: float = 3e-4
    """AdamW's."""
    gradient_clip: float = 1.0
    """Largest norm of a gradient."""
    step_weight: float = 1.0
    """gigpo: ω, the weight of the advantages of turns."""
    step_discount: float = 0.95
    """gigpo: γ, a turn."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What conversations earned."""

    total: Tensor
    """[N] float32; anything where the episode is void."""
    valid: Tensor
    """[N] bool: False where the world or the judge broke."""
    parts: Tensor
    """[N, K] float32: the parts before they are weighed; gdpo normalises each alone."""
    weights: Tensor
    """[K]."""


_WHOLE = {
    "grpo": advantages.grpo,
    "gigpo": advantages.grpo,
    "dr_grpo": advantages.centred,
    "rloo": advantages.rloo,
    "lite_ppo": advantages.lite_ppo,
}
"""Advantages of whole conversations, from scores, the group's size and which are valid."""


class GRPO:
    """The learner."""

    def __init__(self, speaker: Speaker, config: GRPOConfig, objective: Objective) -> None:
        """Prepare to train what of a model is not frozen, in place; the reference is what it is now.

        Raises:
            ValueError: The objective needs a critic.
        """
        if objective.advantage == "gae":
            raise ValueError(
                "advantage='gae' needs a critic, which conversations have none of: use gae_tokens directly."
            )
        self.config, self.objective, self.speaker = config, objective, speaker
        self._needs_reference = objective.kl != "none" or objective.advantage == "reinforce++"
        self._reference = copy.deepcopy(speaker) if self._needs_reference else None
        self._parameters = [parameter for parameter in speaker.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )

    def learn(self, trajectories: Sequence[Trajectory], scores: Scores) -> dict[str, float]:
        """Improve from whole groups of conversations, and return metrics.

        A batch in which no group teaches anything changes nothing and says so: `train/equal_groups` is 1.

        Raises:
            FloatingPointError: The loss or its gradient is not finite; that step was not taken.
        """
        batch = collate(trajectories)
        equal = advantages.equal_groups(scores.total, self.config.group, scores.valid)
        metrics = {
            "train/equal_groups": equal.float().mean().item(),
            "train/void": (~scores.valid).float().mean().item(),
        }
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference.score(batch.ids, batch.real, batch.images)
        advantage = self._advantage(batch, trajectories, scores, reference)
        mask = batch.sampled & scores.valid[:, None]
        if not bool((advantage * mask).any()) and self.objective.kl == "none":
            return metrics
        meter = Meter()
        for epoch in range(self.config.epochs):
            rows = torch.randperm(len(batch.ids))
            for number, some in enumerate(rows.chunk(self.config.parts)):
                self._step(batch, trajectories, advantage, mask, reference, some, meter, first=epoch + number == 0)
        return metrics | meter.means()

    def _step(
        self,
        batch: Batch,
        trajectories: Sequence[Trajectory],
        advantage: Tensor,
        mask: Tensor,
        reference: Tensor | None,
        rows: Tensor,
        meter: Meter,
        first: bool,
    ) -> None:
        """Take one gradient step on some rows."""
        images = [image for row in rows.tolist() for image in trajectories[row].images]
        logprob, entropy = self.speaker.score(batch.ids[rows], batch.real[rows], images)
        value, watched = loss(
            logprob, batch.logprobs[rows], advantage[rows], mask[rows], self.objective,
            None if reference is None else reference[rows], entropy,
        )  # fmt: skip
        if first:  # before any step the two differ by rounding alone, or sampling and training are not one model
            gap = torch.where(mask[rows], logprob - batch.logprobs[rows], 0.0).abs().amax()
            meter.add("train/sampler_gap", gap)
        self._optimiser.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.config.gradient_clip)
        require_finite(value.detach() + norm, "the loss or its gradient", "lower learning_rate")
        self._optimiser.step()
        meter.add("train/loss", value)
        meter.add("train/gradient_norm", norm)
        for name, number in watched.items():
            meter.add(f"train/{name}", number)

    def _advantage(
        self, batch: Batch, trajectories: Sequence[Trajectory], scores: Scores, reference: Tensor | None
    ) -> Tensor:
        """Return each token's advantage, [N, L]."""
        kind, group, valid = self.objective.advantage, self.config.group, scores.valid
        if kind == "reinforce++":
            assert reference is not None
            kl = batch.logprobs - reference
            return advantages.reinforce_plus_plus(scores.total, valid, batch.sampled, kl, self.objective.kl_weight)
        if kind == "gdpo":
            whole = advantages.gdpo(scores.parts, scores.weights, group, valid)
        else:
            whole = _WHOLE[kind](scores.total, group, valid)
        tokens = whole[:, None].expand(batch.ids.shape)
        if kind != "gigpo":
            return tokens
        turns = advantages.step_groups(
            [one.anchors for one in trajectories], scores.total, valid, self.config.step_discount
        )
        table = torch.zeros(len(turns), max(map(len, turns)))
        for row, of_row in enumerate(turns):
            table[row, : len(of_row)] = torch.tensor(of_row)
        return tokens + self.config.step_weight * table.gather(1, batch.turns)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's state; the model is saved by its owner."""
        return optimiser_tensors(self._optimiser)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        load_optimiser_tensors(self._optimiser, state)
