"""DigiRL's value functions: how likely is success, of an instruction and from a step.

Both are classifiers of the episode's outcome (Bai et al., 2024, arXiv:2406.11896, eqs. 4.5 and 4.6) on features of a
frozen vision-language model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.agents.digirl.config import Loss


class Value(nn.Module):
    """The probability of success, by the most doubtful of a few heads."""

    def __init__(self, width: int, *, heads: int, hidden: int = 256) -> None:
        """Make one.

        Args:
            width: F, of the features.
            heads: Independent classifiers; the paper gives V_step two and V_instruct one.
            hidden: Of each of a head's two layers.
        """
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Linear(hidden, 1),
            )
            for _ in range(heads)
        )

    def logits(self, features: Tensor) -> Tensor:
        """Return [K, N], each head's log-odds of success, for features [N, F]."""
        return torch.stack([head(features).squeeze(-1) for head in self.heads])

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """Return V [N] in [0, 1], the least of the heads; no gradient flows through it."""
        return self.logits(features).sigmoid().amin(0)


def value_loss(logits: Tensor, success: Tensor, loss: Loss = "cross-entropy") -> Tensor:
    """Return the loss, summed over heads and averaged over samples, shape [].

    Args:
        logits: [K, N] log-odds.
        success: [N] 0 or 1: how the whole episode ended.
        loss: Cross-entropy, or the squared error of the probability, which the paper found worse.
    """
    target = success.expand_as(logits)
    if loss == "regression":
        return F.mse_loss(logits.sigmoid(), target, reduction="none").mean(1).sum()
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1).sum()
