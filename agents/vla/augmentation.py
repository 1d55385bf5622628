"""Pictures in other light and other colours, so that a policy does not depend on those that it was shown.

Brightness, contrast, saturation and hue are drawn anew for every view, as OpenPI and LeRobot do where they fine-tune
π0. All four are linear in the colours, so that a view is changed by one matrix; all its cameras are changed alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.envs.core import Observation

Augment = Callable[[Observation], Observation]
"""Returns the same views, otherwise lit."""
GRAY = (0.299, 0.587, 0.114)
"""How bright red, green and blue are (ITU-R BT.601)."""


@dataclass(frozen=True)
class AugmentationConfig:
    """How far the colours of pictures are changed while a policy is taught; all 0 leaves them as they are."""

    brightness: float = 0.0
    """Brightness is multiplied by up to so much more or less than 1."""
    contrast: float = 0.0
    """So is each pixel's distance from the picture's mean brightness."""
    saturation: float = 0.0
    """So is each colour's distance from gray."""
    hue: float = 0.0
    """Colours turn by up to this part of the circle of hues, either way."""

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"augmentation.{name} is {getattr(self, name)}; it goes from 0 to {most}.")

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    def __call__(self, view: Observation) -> Observation:
        """Return N views with colours changed, drawn anew for each."""
        if not self.active:
            return view
        count, device = len(view), next(iter(view.images.values())).device

        def drawn(middle: float, most: float) -> Tensor:
            return middle + most * (2 * torch.rand(count, device=device) - 1)

        matrix = colour_matrix(drawn(1, self.brightness), drawn(1, self.saturation), drawn(0, self.hue))
        contrast = drawn(1, self.contrast)
        images = {name: recoloured(picture, matrix, contrast) for name, picture in view.images.items()}
        return Observation(images, view.state, view.text)


def colour_matrix(brightness: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Return what maps colours to brighter, more colourful and turned ones, [N, 3, 3].

    Hue turns colours about the axis of grays, which keeps red + green + blue.

    Args:
        brightness: [N], 1 for none.
        saturation: [N], 1 for none, 0 for gray.
        hue: [N], in turns; a third makes red green.
    """
    one = torch.eye(3, device=hue.device)
    gray = torch.tensor(GRAY, device=hue.device).expand(3, 3)
    cosine, sine = (part(2 * math.pi * hue)[:, None, None] for part in (torch.cos, torch.sin))
    third = one.new_full((3, 3), 1 / 3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=hue.device) / math.sqrt(3)
    turn = cosine * one + (1 - cosine) * third + sine * across  # Rodrigues' formula about (1, 1, 1)
    spread = saturation[:, None, None] * one + (1 - saturation[:, None, None]) * gray
    return brightness[:, None, None] * (turn @ spread)


def recoloured(picture: Tensor, matrix: Tensor, contrast: Tensor) -> Tensor:
    """Return pictures [N, H, W, 3] uint8 in other colours, with more or less contrast about their mean brightness.

    Args:
        picture: [N, H, W, 3] uint8.
        matrix: [N, 3, 3], of `colour_matrix`.
        contrast: [N], 1 for none.
    """
    changed = picture.flatten(1, 2).float() @ matrix.transpose(1, 2)
    middle = (changed.mean(1) * changed.new_tensor(GRAY)).sum(1)[:, None, None]
    changed = middle + contrast[:, None, None] * (changed - middle)
    return changed.round().clamp(0, 255).to(torch.uint8).view_as(picture)
