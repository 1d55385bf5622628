"""One demonstration: what an expert saw and did from a reset to the end.

Experts make them, trajectory files are read into them, datasets are written from them, and imitation learns
from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Episode:
    """T actions and the T + 1 views around them, checked on construction.

    Raises:
        ValueError: a field has the wrong rank, dtype or length, or holds a value that is not finite.
    """

    action: Tensor
    """[T, A] float32, T >= 1: action t was taken at view t."""
    reward: Tensor
    """[T] float32: what action t earned."""
    success: bool
    """The task's own verdict on the last view."""
    seed: int
    """The seed of the reset; -1 where the source does not say."""
    text: str = ""
    """The instruction, empty where there is none."""
    state: Tensor | None = None
    """[T + 1, S] float32, or None where there is no state vector."""
    images: Mapping[str, Tensor] = field(default_factory=dict)
    """Camera name to pictures, [T + 1, H, W, C] uint8."""

    def __post_init__(self) -> None:
        steps = self.action.shape[0] if self.action.dim() else 0
        if steps < 1:
            raise ValueError(
                f"Episode.action has shape {tuple(self.action.shape)}; expected [T, A] with T >= 1."
            )
        _check("action", self.action, 2, steps, torch.float32, "T")
        _check("reward", self.reward, 1, steps, torch.float32, "T")
        if self.state is not None:
            _check("state", self.state, 2, steps + 1, torch.float32, "T + 1")
        for name, picture in self.images.items():
            _check(f"images[{name!r}]", picture, 4, steps + 1, torch.uint8, "T + 1")

    def __len__(self) -> int:
        """Return T, the number of actions."""
        return int(self.action.shape[0])


def _check(name: str, value: Tensor, rank: int, length: int, dtype: torch.dtype, meaning: str) -> None:
    """Raise ValueError where a field is not what `Episode` says it is."""
    shape = tuple(value.shape)
    if value.dim() != rank or shape[0] != length:
        raise ValueError(
            f"Episode.{name} has shape {shape}; expected {rank} dimensions, "
            f"the first of them {meaning} = {length}."
        )
    if value.dtype != dtype:
        raise ValueError(f"Episode.{name} has dtype {value.dtype}; expected {dtype}.")
    if dtype.is_floating_point and not bool(torch.isfinite(value).all()):
        step = int((~torch.isfinite(value)).reshape(shape[0], -1).any(1).nonzero()[0])
        raise ValueError(f"Episode.{name} is not finite at index {step}: {value[step].tolist()}.")
