"""Actions as words: each number of an action becomes one of a few hundred tokens, and back (RT-2, OpenVLA).

Pure functions. A bin is as wide as every other one of its dimension, and stands for its middle.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 256
"""Tokens that a number may become (RT-2, arXiv 2307.15818 §3.2; OpenVLA, arXiv 2406.09246 §3.2)."""


def to_tokens(action: Tensor, low: Tensor, high: Tensor, bins: int = BINS) -> Tensor:
    """Return the bin of each number of actions [..., A], int64 in [0, bins); what lies outside goes to the last ones.

    Args:
        action: In [low, high].
        low: [A].
        high: [A], above `low`.
        bins: How many.

    Raises:
        ValueError: A number is NaN.
    """
    if bool(action.isnan().any()):
        raise ValueError("an action holds NaN, which has no bin: mend the demonstrations.")
    place = (action - low) / (high - low) * bins
    return place.floor().clamp(0, bins - 1).long()


def to_actions(tokens: Tensor, low: Tensor, high: Tensor, bins: int = BINS) -> Tensor:
    """Return the middles of bins [..., A], float32: at most half a bin's width from what `to_tokens` was given."""
    return low + (tokens + 0.5) / bins * (high - low)


def log_probability(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p of tokens [..., L] and the entropy there, each [..., L] float32, from logits [..., L, bins]."""
    log_p = logits.float().log_softmax(-1)
    chosen: Tensor = log_p.gather(-1, tokens[..., None])[..., 0]
    entropy: Tensor = -(log_p.exp() * log_p).sum(-1)
    return chosen, entropy


def played_tokens(played: Tensor, chunk: int, width: int) -> Tensor:
    """Return which tokens of chunks were played, [N, chunk * width] bool.

    Args:
        played: [N], actions of each chunk that were played before the episode ended.
        chunk: C.
        width: A, tokens an action.
    """
    token = torch.arange(chunk * width, device=played.device)
    return token < played[:, None] * width
