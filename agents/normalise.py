"""Normalisers that live inside the policy, so that their statistics cannot be lost or mismatched."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normaliser(nn.Module):
    """Shifts and scales the last axis by statistics fitted once, on demonstrations."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, samples: Tensor, floor: float = 1e-2) -> None:
        """Take mean and standard deviation from samples [N, width].

        A standard deviation under `floor` is replaced by 1: an entry that never moved in the demonstrations (a goal's
        height, an idle joint) is centred, not blown up when it moves later.

        Raises:
            ValueError: The samples have another width, there are none, or one is not finite.
        """
        if samples.ndim != 2 or samples.shape[1] != len(self.mean) or not len(samples):
            raise ValueError(
                f"the normaliser fits samples [N, {len(self.mean)}] with N at least 1, got {list(samples.shape)}."
            )
        bad = (~torch.isfinite(samples)).any(0).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"the normaliser's samples hold NaN or infinity in entries {bad}: mend the demonstrations."
            )
        self.mean.copy_(samples.mean(0))
        std = samples.std(0, unbiased=False)
        self.std.copy_(torch.where(std < floor, torch.ones_like(std), std))

    def forward(self, value: Tensor) -> Tensor:
        """Return (value - mean) / std."""
        return (value - self.mean) / self.std

    def invert(self, value: Tensor) -> Tensor:
        """Return value * std + mean."""
        return value * self.std + self.mean
