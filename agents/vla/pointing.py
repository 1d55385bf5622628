"""Places in a picture as shares of its tokens, and back: what it means for a model of tokens to point.

Pure functions. A picture's middle is 0, its edges are -1 and 1, to the right and up; its tokens are a square of
patches, row by row from the upper left.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shares(places: Tensor, side: int) -> Tensor:
    """Return how much of each place falls to each token: to the four around it, so that their mean is the place.

    A place nearer to the edge than the middle of the outermost patch is taken for that middle.

    Args:
        places: [..., 2].
        side: Patches along a side.

    Returns:
        [..., side²], 1 in sum.
    """
    patch = torch.arange(side, device=places.device)
    right, down = ((side * (1 + part) - 1) / 2 for part in (places[..., 0], -places[..., 1]))
    column, row = (
        (1 - (part.clamp(0, side - 1)[..., None] - patch).abs()).clamp(min=0) for part in (right, down)
    )
    return (row[..., :, None] * column[..., None, :]).flatten(-2)


def expected_places(scores: Tensor) -> Tensor:
    """Return the mean place [..., 2] of tokens [..., side²] that are as likely as the softmax of their scores.

    Raises:
        ValueError: The tokens are no square.
    """
    side = round(scores.shape[-1] ** 0.5)
    if side**2 != scores.shape[-1]:
        raise ValueError(f"a picture of {scores.shape[-1]} tokens is no square of patches, in which places are known.")
    axis = (2 * torch.arange(side, device=scores.device) + 1) / max(side, 1) - 1
    middles = torch.stack([axis.repeat(side), -axis.repeat_interleave(side)], 1)
    return scores.float().softmax(-1) @ middles
