"""Means of metrics over gradient steps, read from the device once."""

from __future__ import annotations

import torch
from torch import Tensor


class Meter:
    """Adds up named scalars where they are computed, so that a GPU is not waited for at every step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Take one scalar tensor into the mean of `name`."""
        value = value.detach()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the mean of each name."""
        if not self._sums:
            return {}
        values = torch.stack([self._sums[name] / self._counts[name] for name in self._sums]).tolist()
        return dict(zip(self._sums, values, strict=True))


def require_finite(value: Tensor, name: str, fix: str) -> None:
    """Raise FloatingPointError where a scalar is NaN or infinite: the program's fault, so it stops."""
    if not bool(torch.isfinite(value)):
        raise FloatingPointError(f"{name} is {value.item()}: {fix}. Nothing was updated by this step.")
