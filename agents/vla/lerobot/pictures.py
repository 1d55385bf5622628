"""Pictures as π0 and SmolVLA see them: brought to a square without distortion, bordered, in [-1, 1]."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate, pad


def fitted(pictures: Tensor, size: tuple[int, int], centred: bool, border: float) -> Tensor:
    """Return pictures [N, H, W, 3] uint8 as [N, 3, *size] float32, values in [-1, 1].

    As LeRobot has it the resizing is bilinear without a filter, and sides are rounded down.

    Args:
        pictures: As a camera shows them.
        size: Height and width.
        centred: Whether what is left is bordered half on each side (the odd row or column behind), or above and left.
        border: The value of the border: black is -1.
    """
    values = pictures.permute(0, 3, 1, 2).float() / 255
    height, width = values.shape[2:]
    if (height, width) != size:
        ratio = max(width / size[1], height / size[0])
        values = interpolate(values, (int(height / ratio), int(width / ratio)), mode="bilinear", align_corners=False)
    values = values * 2 - 1
    down, right = size[0] - values.shape[2], size[1] - values.shape[3]
    above, left = (down // 2, right // 2) if centred else (down, right)
    return pad(values, (left, right - left, above, down - above), value=border) if down or right else values
