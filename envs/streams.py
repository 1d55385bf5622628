"""Randomness of batched worlds: every world has a stream of its own, the same on every device and at every count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def mixed(number: Tensor) -> Tensor:
    """Return well-mixed 32-bit numbers (in int64), the same on every device: Wellons' lowbias32."""
    low = 0xFFFFFFFF
    number = (number ^ (number >> 32)) & low
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & low
    number = ((number ^ (number >> 15)) * 0x846CA68B) & low
    return number ^ (number >> 16)


def draw(seed: Tensor, counter: Tensor | int) -> Tensor:
    """Return numbers in [0, 1) that depend on a seed and a counter alone (int64, broadcast), float32."""
    return (mixed(seed + counter * 0x9E3779B9) >> 8).float() / 2**24


def restarted(
    stream: Tensor, seed: int | Sequence[int] | None, options: Mapping[str, Any] | None, name: str
) -> tuple[Tensor, Tensor]:
    """Return what the arguments of a `VectorEnv`'s `reset` mean for its B worlds.

    Args:
        stream: [B] int64, where each world's stream is.
        seed: One number, from which they count up, one number a world, or None: each goes on in its own stream.
        options: `reset_mask` (bool [B]) says which worlds start; all of them where it is not given.
        name: Of the worlds, for the error.

    Returns:
        The streams [B] after it, those that do not start unchanged, and the mask of those that start, bool [B].

    Raises:
        ValueError: There is not one seed a world.
    """
    count = len(stream)
    if seed is None:
        begun = mixed(stream)
    else:
        numbers = range(seed, seed + count) if isinstance(seed, int) else seed
        if len(numbers) != count:
            raise ValueError(f"{name}: reset(seed=[...]) takes one seed a world, {count}; got {len(numbers)}.")
        begun = mixed(torch.as_tensor(np.asarray(numbers, dtype=np.int64), device=stream.device))
    mask = torch.ones(count, dtype=torch.bool, device=stream.device)
    if options is not None and "reset_mask" in options:
        mask = torch.as_tensor(options["reset_mask"], dtype=torch.bool, device=stream.device)
    return torch.where(mask, begun, stream), mask
