"""Colour pictures of worlds from above, for people and for vision-language models; Found-RL's palette."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.bev import AGO, BROKEN, EGO, GREEN, LIGHTS, RED, SOLID, VEHICLES, WALKERS, YELLOW, Scene
from palaestra.envs.driving.painter import Painter
from palaestra.envs.driving.state import State

SIDE = 192
"""Pixels of a picture's side; a model is shown 38.4 m, the ego 8 m from the lower edge."""
SCALE = 2
"""How often a pixel is repeated in a frame for people."""
DIALS = 40
"""Rows of the instruments below."""
ROAD, ROUTE, MARK, DASH = (46, 52, 54), (136, 138, 133), (255, 0, 255), (150, 0, 150)
VEHICLE, WALKER, SELF = (0, 0, 255), (0, 255, 255), (255, 255, 255)
LIGHT = {GREEN: (0, 255, 0), YELLOW: (255, 255, 0), RED: (255, 0, 0)}
TOP_SPEED = 25.0
"""m/s at the end of the speed's bar."""
_DIGITS = {
    "0": (7, 5, 5, 5, 7), "1": (2, 6, 2, 2, 7), "2": (7, 1, 7, 4, 7), "3": (7, 1, 7, 1, 7), "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7), "6": (7, 4, 7, 5, 7), "7": (7, 1, 1, 2, 2), "8": (7, 5, 7, 5, 7), "9": (7, 5, 7, 1, 7),
    ".": (0, 0, 0, 0, 2),
}  # rows of three pixels


def coloured(views: Tensor) -> Tensor:
    """Return bird's-eye views [W, N, N, 15] uint8 in colours, [W, N, N, 3] uint8.

    Road, route and marks lie below; vehicles (blue) and walkers (cyan) are the brighter the more recent; stop lines
    have their signals' colours, and the ego is white.
    """
    picture = torch.zeros(*views.shape[:3], 3, dtype=torch.uint8, device=views.device)

    def paint(mask: Tensor, colour: tuple[int, int, int], share: float = 1.0) -> None:
        shade = torch.tensor([round(share * part) for part in colour], dtype=torch.uint8, device=views.device)
        picture.copy_(torch.where(mask[..., None], shade, picture))

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
    return picture


def frames(painter: Painter, state: State, rows: Tensor, cruise: float) -> Tensor:
    """Return pictures of some worlds for people: larger, and with instruments below.

    The instruments are the speed in m/s as digits and as a bar (a mark at the cruising speed), throttle (green) or
    brake (red), and the steering wheel's place.

    Args:
        painter: Of views of `SIDE` pixels.
        state: Worlds.
        rows: [N] int64: which of them.
        cruise: m/s.

    Returns:
        [N, 424, 384, 3] uint8.
    """
    picture = coloured(painter.paint(Scene.of(state)[rows]))
    picture = picture.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
    dials = torch.full((len(rows), DIALS, picture.shape[2], 3), 20, dtype=torch.uint8, device=picture.device)
    ego = state.ego
    numbers = torch.stack((state.vehicles.speed[rows, 0], ego.pedal[rows], ego.steer[rows]), 1)
    for dial, (speed, pedal, steer) in zip(dials, numbers.tolist(), strict=True):
        _draw_dials(dial, speed, pedal, steer, cruise)
    return torch.cat((picture, dials), 1)


def _draw_dials(dial: Tensor, speed: float, pedal: float, steer: float, cruise: float) -> None:
    """Draw the instruments of one world on [40, width, 3]."""
    width = dial.shape[1]
    _write(dial[6:26, 8:80], f"{speed:.1f}")
    full = width - 100

    def bar(top: int, begin: float, end: float, colour: tuple[int, int, int]) -> None:
        left, right = (90 + round(full * min(max(share, 0.0), 1.0)) for share in sorted((begin, end)))
        dial[top : top + 7, left : max(right, left + 2)] = torch.tensor(colour, dtype=torch.uint8, device=dial.device)

    bar(6, 0.0, 1.0, (50, 50, 50))
    bar(6, 0.0, speed / TOP_SPEED, (230, 230, 230))
    bar(6, cruise / TOP_SPEED, cruise / TOP_SPEED, (255, 160, 0))
    bar(17, 0.0, 1.0, (50, 50, 50))
    bar(17, 0.5, 0.5 + 0.5 * pedal, (60, 200, 60) if pedal >= 0 else (220, 50, 50))
    bar(28, 0.0, 1.0, (50, 50, 50))
    bar(28, 0.5, 0.5 + 0.5 * steer, (80, 160, 255))


def _write(field: Tensor, text: str) -> None:
    """Write digits on [20, 72, 3], each pixel of the font 4 x 4."""
    for place, letter in enumerate(text[:5]):
        for row, bits in enumerate(_DIGITS[letter]):
            for column in range(3):
                if bits >> (2 - column) & 1:
                    left = 14 * place + 4 * column
                    field[4 * row : 4 * row + 4, left : left + 4] = 255
