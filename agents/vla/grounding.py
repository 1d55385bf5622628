"""Teaching a backbone where the things are that an instruction names, before it sees any action.

The backbones of π0 and its kin come from pre-training in which they learnt to point (PaliGemma, arXiv 2407.07726,
answers with places as tokens). A tiny one with random weights has not; a few hundred steps of regression on pictures,
instructions and places give it as much as a small table needs, and demonstrations need to teach only what to do there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palaestra.agents.metrics import require_finite
from palaestra.agents.vla.augmentation import Augment
from palaestra.agents.vla.backbone import Backbone
from palaestra.envs.core import Observation


@dataclass(frozen=True)
class GroundingConfig:
    """Regression of places from pictures and instructions."""

    steps: int = 0
    """Gradient steps; 0 leaves it out."""
    views: int = 8192
    """Views to learn from."""
    batch: int = 64
    """Views a gradient step."""
    learning_rate: float = 2e-3
    """AdamW's at its peak, after a hundred steps; then it falls to zero along a cosine."""
    seed: int = 2000
    """The views' start states are drawn from this seed; the same for every seed of the run."""


def ground(
    backbone: Backbone,
    view: Observation,
    places: Tensor,
    config: GroundingConfig,
    augment: Augment | None = None,
) -> Iterator[dict[str, float]]:
    """Fit a backbone, of which `tune` has said what is trained; yield metrics every hundredth of the way.

    Args:
        backbone: Trained in place; a linear head reads places off the mean of its outputs, and is thrown away.
        view: N views.
        places: [N, P], the numbers that say where what their instructions name is.
        config: How.
        augment: Changes the views of each gradient step.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    head = nn.Linear(backbone.text.hidden_size, places.shape[1]).to(places.device)
    weights = [weight for weight in backbone.parameters() if weight.requires_grad] + list(head.parameters())
    optimiser = torch.optim.AdamW(weights, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, 1.0, min(100, config.steps))
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    schedule = torch.optim.lr_scheduler.ChainedScheduler([warm, fall], optimiser)
    errors: list[Tensor] = []
    for step in range(config.steps):
        rows = torch.randint(len(places), (config.batch,), device=places.device)
        seen = view[rows] if augment is None else augment(view[rows])
        guess = head(backbone(seen, places.new_zeros(len(rows), 0)).mean())
        loss = ((guess - places[rows]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        errors.append(loss.detach())
        if (step + 1) % max(1, config.steps // 100) == 0:
            mean = torch.stack(errors).mean()
            require_finite(mean, f"the error of pointing at step {step}", "lower grounding.learning_rate")
            errors.clear()
            yield {"step": step + 1, "train/pointing_error": mean.sqrt().item()}
