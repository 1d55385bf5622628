"""Learns from conversations in groups, by any member of the policy-gradient family."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from palaestra.agents.advantages import normalise
from palaestra.agents.grpo import advantages
from palaestra.agents.grpo.batch import Batch, collate
from palaestra.agents.grpo.critic import Critic, CriticConfig
from palaestra.agents.grpo.objective import Objective, loss
from palaestra.agents.grpo.rollout import Trajectory
from palaestra.agents.grpo.scores import Scores
from palaestra.agents.grpo.speaker import Speaker
from palaestra.agents.losses import weighted_mean
from palaestra.agents.metrics import Meter, require_finite
from palaestra.agents.optimiser import load_optimiser_tensors, optimiser_tensors, under


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
    hint_weight: float = 0.0
    """γ of a supervised loss on what a teacher said at the beginning (SEELE takes 0.001); 0 learns nothing from it."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """gae: PPO's."""


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A batch, and what is to be learnt from it."""

    batch: Batch
    trajectories: Sequence[Trajectory]
    advantage: Tensor
    """[N, L]."""
    mask: Tensor
    """[N, L] bool: tokens that the policy chose in episodes that count."""
    reference: Tensor | None
    """[N, L]: log p of a model that stays what it was."""
    target: Tensor
    """[N, L], of values; only read where there is a critic."""
    value: Tensor
    """[N, L], before the batch was learnt from."""


_WHOLE = {
    "grpo": advantages.grpo,
    "gigpo": advantages.grpo,
    "dr_grpo": advantages.centred,
    "rloo": advantages.rloo,
    "lite_ppo": advantages.lite_ppo,
    "reinforce++-baseline": advantages.reinforce_baseline,
}
"""Advantages of whole conversations, from scores, the group's size and which are valid."""


class GRPO:
    """The learner."""

    def __init__(self, speaker: Speaker, config: GRPOConfig, objective: Objective) -> None:
        """Prepare to train what of a model is not frozen, in place; reference and critic begin as what it is now."""
        self.config, self.objective, self.speaker = config, objective, speaker
        self._needs_reference = objective.kl != "none" or objective.advantage == "reinforce++"
        self._reference = copy.deepcopy(speaker) if self._needs_reference else None
        self._critic = Critic(speaker, config.critic) if objective.advantage == "gae" else None
        self._parameters = [parameter for parameter in speaker.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )

    def learn(self, trajectories: Sequence[Trajectory], scores: Scores) -> dict[str, float]:
        """Improve from whole groups of conversations, and return metrics.

        A batch in which no group teaches anything changes nothing and says so: `train/equal_groups` is 1. How far what
        the sampler noted lies from what training computes is `train/sampler_gap`, always.

        Raises:
            FloatingPointError: The loss or its gradient is not finite; that step was not taken.
        """
        lesson = self._prepare(collate(trajectories), trajectories, scores)
        equal = advantages.equal_groups(scores.total, self.config.group, scores.valid)
        metrics = {
            "train/equal_groups": equal.float().mean().item(),
            "train/void": (~scores.valid).float().mean().item(),
        }
        meter = Meter()
        hints = self.config.hint_weight > 0 and bool(lesson.batch.hinted.any())
        if not bool((lesson.advantage * lesson.mask).any()) and self.objective.kl == "none" and not hints:
            with torch.no_grad():
                rows = torch.arange(len(trajectories)).chunk(self.config.parts)[0]
                self._note_gap(lesson, rows, self._score(lesson, rows)[0], meter)
            return metrics | meter.means()
        for epoch in range(self.config.epochs):
            for number, rows in enumerate(torch.randperm(len(trajectories)).chunk(self.config.parts)):
                self._step(lesson, rows, meter, first=epoch + number == 0)
        return metrics | meter.means()

    def _prepare(self, batch: Batch, trajectories: Sequence[Trajectory], scores: Scores) -> _Lesson:
        """Find out what is to be learnt from a batch."""
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference.score(batch.ids, batch.real, batch.images)
        mask = batch.sampled & scores.valid[:, None]
        if self._critic is None:
            advantage = self._advantage(batch, trajectories, scores, reference)
            return _Lesson(batch, trajectories, advantage, mask, reference, advantage, advantage)
        total = torch.where(scores.valid, scores.total, 0.0)
        advantage, target, value = self._critic.judge(batch, total, mask)
        whitened = normalise(advantage, mask, advantages.EPSILON)
        return _Lesson(batch, trajectories, whitened, mask, reference, target, value)

    def _score(self, lesson: _Lesson, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies of some rows."""
        batch = lesson.batch
        return self.speaker.score(batch.ids[rows], batch.real[rows], self._images(lesson, rows))

    @staticmethod
    def _images(lesson: _Lesson, rows: Tensor) -> list[Tensor]:
        return [image for row in rows.tolist() for image in lesson.trajectories[row].images]

    @staticmethod
    def _note_gap(lesson: _Lesson, rows: Tensor, logprob: Tensor, meter: Meter) -> None:
        """Before any step the two differ by rounding alone, or sampling and training are not one model."""
        gap = torch.where(lesson.mask[rows], logprob - lesson.batch.logprobs[rows], 0.0).abs().amax()
        meter.add("train/sampler_gap", gap)

    def _step(self, lesson: _Lesson, rows: Tensor, meter: Meter, first: bool) -> None:
        """Take one gradient step on some rows."""
        batch = lesson.batch
        logprob, entropy = self._score(lesson, rows)
        value, watched = loss(
            logprob, batch.logprobs[rows], lesson.advantage[rows], lesson.mask[rows], self.objective,
            None if lesson.reference is None else lesson.reference[rows], entropy,
        )  # fmt: skip
        if first:
            self._note_gap(lesson, rows, logprob, meter)
        if self.config.hint_weight:
            imitated = -weighted_mean(logprob, batch.hinted[rows].float())
            meter.add("train/hint_loss", imitated)
            value = value + self.config.hint_weight * imitated
        self._optimiser.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.config.gradient_clip).to(value.device)
        require_finite(value.detach() + norm, "the loss or its gradient", "lower learning_rate")
        self._optimiser.step()
        if self._critic is not None:
            images = self._images(lesson, rows)
            error = self._critic.step(batch, rows, images, lesson.target, lesson.value, lesson.mask)
            meter.add("train/value_loss", error)
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
        """Return the state of optimiser and critic; model and reference are their owner's to keep."""
        state = {f"optimiser.{name}": value for name, value in optimiser_tensors(self._optimiser).items()}
        if self._critic is not None:
            state |= {f"critic.{name}": value for name, value in self._critic.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`."""
        load_optimiser_tensors(self._optimiser, under("optimiser.", state))
        if self._critic is not None:
            self._critic.load_state_dict(under("critic.", state))
