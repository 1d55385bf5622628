"""Image-text similarity and the loss that makes it (Radford et al. 2021, "Learning transferable visual models")."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Return the cosine of each image with each text, [N, M].

    Args:
        images: [N, D]; of any length, they are normalised here.
        texts: [M, D], likewise.

    Raises:
        ValueError: They are not two matrices of equal width.
    """
    if images.dim() != 2 or texts.dim() != 2 or images.shape[1] != texts.shape[1]:
        raise ValueError(f"similarity takes [N, D] and [M, D], got {list(images.shape)} and {list(texts.shape)}.")
    return F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Return CLIP's loss, shape []: the mean cross-entropy of finding each image's text and each text's image.

    Args:
        images: [N, D].
        texts: [N, D]; row i belongs to image i, so no two rows should say the same.
        logit_scale: exp of the model's parameter: the inverse temperature.

    Raises:
        ValueError: The two differ in shape.
    """
    if images.shape != texts.shape:
        raise ValueError(f"each image needs its text: got {list(images.shape)} and {list(texts.shape)}.")
    logits = logit_scale * similarity(images, texts)
    pairs = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
