"""Colour pictures of worlds from above as models are shown them, in Found-RL's palette; people's are `scenery`'s."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.bev import AGO, BROKEN, EGO, GREEN, LIGHTS, RED, SOLID, VEHICLES, WALKERS, YELLOW

SIDE = 192
"""Pixels of a picture's side; a model is shown 38.4 m, the ego 8 m from the lower edge."""
ROAD, ROUTE, MARK, DASH = (46, 52, 54), (136, 138, 133), (255, 0, 255), (150, 0, 150)
VEHICLE, WALKER, SELF = (0, 0, 255), (0, 255, 255), (255, 255, 255)
LIGHT = {GREEN: (0, 255, 0), YELLOW: (255, 255, 0), RED: (255, 0, 0)}


def coloured(views: Tensor) -> Tensor:
    """Return bird's-eye views [W, N, N, 15] uint8 in colours, [W, N, N, 3] uint8.

    Road, route and marks lie below; vehicles (blue) and walkers (cyan) are the brighter the more recent; stop lines
    have their signals' colours, and the ego is white.
    """
    palette: list[tuple[int, ...]] = [(0, 0, 0)]
    number = torch.zeros(views.shape[:3], dtype=torch.int32, device=views.device)

    def paint(mask: Tensor, colour: tuple[int, int, int], share: float = 1.0) -> None:
        number.masked_fill_(mask, len(palette))
        palette.append(tuple(round(share * part) for part in colour))

    paint(views[..., 0] > 0, ROAD)
    paint(views[..., 1] > 0, ROUTE)
    paint(views[..., 2] == SOLID, MARK)
    paint(views[..., 2] == BROKEN, DASH)
    for value, colour in LIGHT.items():
        paint(views[..., LIGHTS + len(AGO) - 1] == value, colour)
    for moment in range(len(AGO)):
        share = (moment + 1) / len(AGO)
        paint(views[..., VEHICLES + moment] > 0, VEHICLE, share)
        paint(views[..., WALKERS + moment] > 0, WALKER, share)
    paint(views[..., 0] == EGO, SELF)
    colours = torch.tensor(palette, dtype=torch.uint8, device=views.device)
    return colours.index_select(0, number.view(-1)).view(*views.shape[:3], 3)
