"""Losses, as pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(value: Tensor, weight: Tensor) -> Tensor:
    """Return Σ weight value / Σ weight, shape []; 0 where every weight is 0."""
    return (value * weight).sum() / weight.sum().clamp(min=1e-8)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return PPO's loss -min(r A, clip(r, 1 - ε, 1 + ε) A) elementwise (Schulman et al. 2017, eq. 7)."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def huber(error: Tensor, delta: float) -> Tensor:
    """Return ½ e² where |e| <= δ and δ (|e| - ½ δ) elsewhere, elementwise."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))


def clipped_value(value: Tensor, old: Tensor, target: Tensor, clip: float, delta: float = 10.0) -> Tensor:
    """Return max of the Huber losses of V and of V_old + clip(V - V_old, ±clip), elementwise (RLinf's critic)."""
    near = old + (value - old).clamp(-clip, clip)
    return torch.maximum(huber(target - value, delta), huber(target - near, delta))


def trajectory_weights(mask: Tensor, ended: Tensor) -> Tensor:
    """Return weights [T, B] that sum to 1 over each trajectory of a rollout, 0 where the mask is 0.

    A trajectory is a run of slots of a row up to an end, included, or a slot that the mask leaves out; each counts
    equally whatever its length.
    """
    starts = torch.zeros_like(ended)
    starts[1:] = (ended | ~mask)[:-1]
    trajectory = starts.long().cumsum(0)
    columns = torch.arange(mask.shape[1], device=mask.device) * (len(mask) + 1)
    index = trajectory + columns
    lengths = torch.zeros(mask.shape[1] * (len(mask) + 1), device=mask.device)
    lengths.index_add_(0, index.flatten(), mask.flatten().float())
    return mask.float() / lengths[index].clamp(min=1)
