"""Teaching a backbone where the things are that an instruction names, before it sees any action.

The backbones of π0 and its kin come from pre-training in which they learnt to point (PaliGemma, arXiv 2407.07726,
answers with places as tokens). A tiny one with random weights has not; some hundred steps of it on pictures,
instructions and places give it as much as a small table needs, and demonstrations need to teach only what to do there.
Pointing is a choice among the picture's tokens, learnt by cross-entropy: a regression of the places takes many times as
long to find out what the words have to do with the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palaestra.agents.metrics import require_finite
from palaestra.agents.vla.augmentation import Augment
from palaestra.agents.vla.backbone import Backbone
from palaestra.agents.vla.pointing import expected_places, shares
from palaestra.envs.core import Observation


@dataclass(frozen=True)
class GroundingConfig:
    """Learning to point from pictures, instructions and places."""

    steps: int = 0
    """Gradient steps; 0 leaves it out."""
    batch: int = 64
    """Views a gradient step, none seen twice."""
    learning_rate: float = 2e-3
    """AdamW's at its peak, after a hundred steps; then it falls to zero along a cosine."""
    seed: int = 2000
    """The views' start states are drawn from this seed; the same for every seed of the run."""


def ground(
    backbone: Backbone,
    lessons: Iterator[tuple[Observation, Tensor]],
    config: GroundingConfig,
    augment: Augment | None = None,
) -> Iterator[dict[str, float]]:
    """Teach a backbone, of which `tune` has said what is trained; yield metrics every hundredth of the way.

    Args:
        backbone: Trained in place.
        lessons: Views, as many as are asked for, and the places [N, K, 2] in their first pictures of what their
            instructions name, see `pointing.py`.
        config: How.
        augment: Changes the views of each gradient step.

    Raises:
        FloatingPointError: The loss is not finite.
        ValueError: The pictures' tokens are no square.
    """
    weights = [weight for weight in backbone.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, 1.0, min(100, config.steps))
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    schedule = torch.optim.lr_scheduler.ChainedScheduler([warm, fall], optimiser)
    errors: list[Tensor] = []
    for step in range(config.steps):
        view, places = next(lessons)
        seen = view if augment is None else augment(view)
        scores = backbone(seen, places.new_zeros(len(places), 0)).scores.float()
        found = expected_places(scores.detach())
        wanted = shares(places, round(scores.shape[-1] ** 0.5))
        loss = -(wanted * scores.log_softmax(-1)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        errors.append(((found - places) ** 2).mean())
        if (step + 1) % max(1, config.steps // 100) == 0:
            require_finite(loss.detach(), f"the loss of pointing at step {step}", "lower grounding.learning_rate")
            yield {"step": step + 1, "train/pointing_error": torch.stack(errors).mean().sqrt().item()}
            errors.clear()
