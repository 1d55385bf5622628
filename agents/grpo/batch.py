"""Conversations as tensors, for learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.agents.grpo.rollout import Trajectory, pad


@dataclass(frozen=True, slots=True)
class Batch:
    """N conversations of at most L tokens, padded on the right."""

    ids: Tensor
    """[N, L] int64."""
    real: Tensor
    """[N, L] bool: False for padding."""
    sampled: Tensor
    """[N, L] bool: the agent's own tokens, which alone are learnt from."""
    hinted: Tensor
    """[N, L] bool: what a teacher said in its stead at the beginning."""
    logprobs: Tensor
    """[N, L] float32: log p of the sampled tokens when they were sampled, 0 elsewhere."""
    turns: Tensor
    """[N, L] int64: the agent's turn that each token belongs to."""
    images: tuple[Tensor, ...]
    """All pictures, row by row."""


def collate(trajectories: Sequence[Trajectory]) -> Batch:
    """Return conversations as tensors."""
    ids, real = pad([one.ids for one in trajectories])
    sampled, hinted = torch.zeros_like(real), torch.zeros_like(real)
    logprobs, turns = torch.zeros(ids.shape), torch.zeros_like(ids)
    for row, one in enumerate(trajectories):
        length = len(one.ids)
        sampled[row, :length] = torch.tensor(one.sampled)
        hinted[row, :length] = torch.tensor(one.hinted)
        logprobs[row, :length] = torch.tensor(one.logprobs)
        turns[row, :length] = torch.tensor(one.turns)
    images = tuple(image for one in trajectories for image in one.images)
    return Batch(ids, real, sampled, hinted, logprobs, turns, images)
