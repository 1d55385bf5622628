"""LeRobot's normalisation: by mean and standard deviation, by extremes, or by quantiles (π0.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from palaestra.agents.normalise import Normaliser

Mode = Literal["IDENTITY", "MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"]
"""LeRobot's `NormalizationMode`."""
NAMES: dict[Mode, tuple[str, ...]] = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
"""The two statistics that a mode is made of."""
_SHARES = {"min": 0.0, "max": 1.0, "q01": 0.01, "q10": 0.1, "q90": 0.9, "q99": 0.99}


class Statistics(Normaliser):
    """Statistics of the last axis, in a policy; the buffers have LeRobot's names."""

    def __init__(self, mode: Mode, width: int, epsilon: float = 1e-8) -> None:
        """Start with what leaves a value as it is.

        Raises:
            ValueError: There is no such mode.
        """
        nn.Module.__init__(self)
        if mode not in get_args(Mode):
            raise ValueError(f"there is no normalisation {mode!r}; there are {', '.join(get_args(Mode))}.")
        self.mode, self.width, self.epsilon = mode, width, epsilon
        start = 0.0 if mode == "MEAN_STD" else -1.0
        for name, value in zip(NAMES[mode], (start, 1.0), strict=False):
            self.register_buffer(name, torch.full((width,), value))

    def _pair(self) -> tuple[Tensor, Tensor]:
        first, second = (self.get_buffer(name) for name in NAMES[self.mode])
        return first, second

    def take(self, found: Mapping[str, Tensor]) -> None:
        """Take a data set's statistics.

        Raises:
            ValueError: One that the mode needs is missing, of another width, or not finite.
        """
        for name in NAMES[self.mode]:
            if name not in found:
                raise ValueError(f"{name} is missing, which {self.mode} needs; there are {sorted(found) or 'none'}.")
            if tuple(found[name].shape) != (self.width,):
                raise ValueError(f"{name} has shape {list(found[name].shape)}; the policy's is [{self.width}].")
            if not bool(torch.isfinite(found[name]).all()):
                raise ValueError(f"{name} holds NaN or infinity: {found[name].tolist()}.")
            self.get_buffer(name).copy_(found[name])

    def fit(self, samples: Tensor, floor: float = 1e-2) -> None:
        """Take the statistics of samples [N, width].

        An entry that hardly moved (a standard deviation or span under `floor`) is given one of 1: it is centred,
        and not blown up when it moves later.

        Raises:
            ValueError: The samples have another width, there are none, or one is not finite.
        """
        if samples.ndim != 2 or samples.shape[1] != self.width or not len(samples):
            raise ValueError(f"statistics are of samples [N, {self.width}], N at least 1, got {list(samples.shape)}.")
        if not bool(torch.isfinite(samples).all()):
            bad = (~torch.isfinite(samples)).any(0).nonzero().flatten().tolist()
            raise ValueError(f"the samples hold NaN or infinity in entries {bad}: mend the demonstrations.")
        if self.mode == "MEAN_STD":
            std = samples.std(0, unbiased=False)
            self.take({"mean": samples.mean(0), "std": torch.where(std < floor, torch.ones_like(std), std)})
        elif self.mode != "IDENTITY":
            names = NAMES[self.mode]
            low, high = (samples.quantile(_SHARES[name], 0) for name in names)
            still = high - low < floor
            middle = (low + high) / 2
            pair = torch.where(still, middle - 0.5, low), torch.where(still, middle + 0.5, high)
            self.take(dict(zip(names, pair, strict=True)))

    def forward(self, value: Tensor) -> Tensor:
        """Return (value - mean) / (std + ε), or what maps the two statistics to -1 and 1."""
        if self.mode == "IDENTITY":
            return value
        first, second = self._pair()
        if self.mode == "MEAN_STD":
            return (value - first) / (second + self.epsilon)
        return 2 * (value - first) / self._span(first, second) - 1

    def invert(self, value: Tensor) -> Tensor:
        """Return what `forward` maps to `value`, as LeRobot has it (without ε of the standard deviation)."""
        if self.mode == "IDENTITY":
            return value
        first, second = self._pair()
        if self.mode == "MEAN_STD":
            return value * second + first
        return (value + 1) * self._span(first, second) / 2 + first

    def _span(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.where(high == low, torch.full_like(low, self.epsilon), high - low)
