"""Supervised fine-tuning on a teacher's conversations: only what the teacher said is learnt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from palaestra.agents.grpo.batch import collate
from palaestra.agents.grpo.rollout import Trajectory, recite, waves
from palaestra.agents.grpo.speaker import Speaker
from palaestra.agents.losses import weighted_mean
from palaestra.agents.metrics import require_finite
from palaestra.envs.retrieval.core import Conversations


@dataclass(frozen=True)
class ImitationConfig:
    """Fine-tuning on demonstrations."""

    trajectories: int = 3000
    """Demonstrated conversations."""
    epochs: int = 8
    """Passes over them."""
    batch: int = 64
    """Conversations a gradient step."""
    learning_rate: float = 2e-3
    """AdamW's at its peak."""
    warmup: float = 0.1
    """Share of the steps in which it rises; then it falls along a cosine."""


def demonstrate(
    speaker: Speaker, worlds: Conversations, tasks: Sequence[Any], plans: Sequence[Sequence[str]]
) -> list[Trajectory]:
    """Play plans, and return the conversations that were answered rightly as the model would have had them.

    Args:
        speaker: Writes the teacher's words as ids.
        worlds: Where they are carried out.
        tasks: One an episode.
        plans: What the teacher says in each, turn by turn, the last of which ends the episode.
    """
    trajectories = [Trajectory() for _ in tasks]
    for wave in waves(worlds, len(tasks)):
        some = trajectories[wave]
        recite(speaker, worlds, some, list(enumerate(worlds.reset(tasks[wave]))), plans[wave], hinted=False)
        for trajectory, record in zip(some, worlds.records, strict=True):
            trajectory.record = record
    return [one for one in trajectories if one.record is not None and one.record.finished]


def imitate(
    speaker: Speaker, trajectories: Sequence[Trajectory], config: ImitationConfig
) -> Iterator[dict[str, float]]:
    """Fit a model to demonstrations; yield metrics now and then.

    Raises:
        ValueError: There are fewer demonstrations than a batch takes.
        FloatingPointError: The loss is not finite.
    """
    an_epoch = len(trajectories) // config.batch
    if not an_epoch:
        raise ValueError(f"{len(trajectories)} demonstrations do not fill a batch of {config.batch}.")
    total = an_epoch * config.epochs
    parameters = [parameter for parameter in speaker.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    rise = max(1, round(config.warmup * total))

    def rate(step: int) -> float:
        return (step + 1) / rise if step < rise else (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    for step in range(total):
        if step % an_epoch == 0:
            order = torch.randperm(len(trajectories)).tolist()
        start = step % an_epoch * config.batch
        batch = collate([trajectories[index] for index in order[start : start + config.batch]])
        logprobs, _ = speaker.score(batch.ids, batch.real, batch.images)
        loss = -weighted_mean(logprobs, batch.sampled.float())
        require_finite(loss, f"the loss of imitation at step {step}", "lower learning_rate")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % max(1, total // 40) == 0:
            yield {"step": step + 1, "train/imitation_loss": loss.item()}
