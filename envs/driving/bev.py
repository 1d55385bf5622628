"""Found-RL's bird's-eye view: what its channels are, what a view is drawn from, and its packed form.

A view looks 38.4 m far and wide, the ego 8 m from its lower edge and heading up. Its channels are, as uint8:

    0      road: 255, the ego's own box 120
    1      the ego's route, 3.2 m wide: 255, the ego's own box 120
    2      marks of lanes: solid 255, broken 120
    3-6    other vehicles 1.5, 1.0, 0.5 and 0 s ago: 255
    7-10   walkers at those times, as squares of 1.6 m: 255
    11-14  stop lines at those times: signals green 80, yellow 170, red 255; stop signs 255

The past is drawn where it was in the world, in the ego's present frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.envs.driving.state import DT, State

FIELD = 38.4
"""Metres that a view shows, in both directions."""
BEHIND = 8.0
"""Metres of them behind the ego."""
AGO = (15, 10, 5, 0)
"""Steps ago of the moments that a view shows."""
CHANNELS = 3 + 3 * len(AGO)
VEHICLES, WALKERS, LIGHTS = 3, 7, 11
"""The first channels of their kinds."""
EGO = 120
"""Value of the ego's own box."""
EGO_SIZE = 4.5, 1.9
"""Metres: its length and width."""
SOLID, BROKEN = 255, 120
GREEN, YELLOW, RED = 80, 170, 255
BLOCK = 1 << 16
"""Pixels of views that are packed at a time on a CPU."""
PIXELS = (32, 64, 96, 192)
"""Sizes of views."""
BITS = 20
"""Bits a pixel of the packed form: one a channel, and another one of those in `TWO_BITS`."""
TWO_BITS = (2, 11, 12, 13, 14)
"""The channels with more than two values."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that W worlds' views are drawn from: 1.4 kB a world instead of a view's 60, and the view is the same.

    T moments, the last one now; A vehicles, the ego first; B walkers.
    """

    map: Tensor
    """[W] int64."""
    route: Tensor
    """[W] int64."""
    seconds: Tensor
    """[W, T] float32: the signals' time."""
    sizes: Tensor
    """[W, A, 2] float32: lengths and widths."""
    vehicles: Tensor
    """[W, T, A, 4] float32: x, y, cos, sin."""
    walkers: Tensor
    """[W, T, B, 2] float32: x, y."""

    @staticmethod
    def of(state: State) -> Scene:
        """Return the scenes of worlds."""
        clocks, past, cars = state.clocks, state.past, state.vehicles
        slots = [past.slot(ago) for ago in AGO]
        ticks = torch.stack([(clocks.tick - ago).clamp(min=0) for ago in AGO], 1)
        return Scene(
            map=clocks.map,
            route=clocks.route,
            seconds=ticks * DT + clocks.shift[:, None],
            sizes=torch.stack((cars.length, cars.width), 2),
            vehicles=torch.stack([past.vehicles[slot] for slot in slots], 1),
            walkers=torch.stack([past.walkers[slot] for slot in slots], 1),
        )

    def flat(self) -> Tensor:
        """Return the scenes as rows, [W, `width(A, B)`] float32 (the whole numbers are far below 2²⁴)."""
        parts = (self.map[:, None], self.route[:, None], self.seconds, self.sizes, self.vehicles, self.walkers)
        return torch.cat([part.flatten(1).float() for part in parts], 1)

    @staticmethod
    def parse(rows: Tensor, vehicles: int, walkers: int) -> Scene:
        """Return the scenes of rows that `flat` made.

        Args:
            rows: [W, `width(vehicles, walkers)`] float32.
            vehicles: A, the ego counted.
            walkers: B.

        Raises:
            ValueError: The rows are of other numbers of vehicles or walkers.
        """
        times, wide = len(AGO), Scene.width(vehicles, walkers)
        if rows.ndim != 2 or rows.shape[1] != wide:
            raise ValueError(
                f"driving: scenes of {vehicles} vehicles (the ego counted) and {walkers} walkers have shape "
                f"[W, {wide}]; got {list(rows.shape)}."
            )
        parts = rows.split([1, 1, times, 2 * vehicles, 4 * times * vehicles, 2 * times * walkers], 1)
        return Scene(
            map=parts[0][:, 0].long(),
            route=parts[1][:, 0].long(),
            seconds=parts[2],
            sizes=parts[3].unflatten(1, (vehicles, 2)),
            vehicles=parts[4].unflatten(1, (times, vehicles, 4)),
            walkers=parts[5].unflatten(1, (times, walkers, 2)),
        )

    @staticmethod
    def width(vehicles: int, walkers: int) -> int:
        """Return how many numbers a scene of so many vehicles (the ego counted) and walkers has."""
        return 2 + len(AGO) * (1 + 4 * vehicles + 2 * walkers) + 2 * vehicles

    def __getitem__(self, rows: slice | Tensor) -> Scene:
        """Return the scenes of some worlds, [N] int64 or a slice."""
        return Scene(
            self.map[rows], self.route[rows], self.seconds[rows], self.sizes[rows], self.vehicles[rows],
            self.walkers[rows],
        )


def ego_box(pixels: int) -> tuple[slice, slice]:
    """Return the rows and columns of a view whose pixels' middles lie in the ego's box: they are always the same."""
    metres = FIELD / pixels
    row, column = (FIELD - BEHIND) / metres - 0.5, pixels / 2 - 0.5
    half_rows, half_columns = 0.5 * EGO_SIZE[0] / metres, 0.5 * EGO_SIZE[1] / metres
    return (
        slice(math.ceil(row - half_rows), math.floor(row + half_rows) + 1),
        slice(math.ceil(column - half_columns), math.floor(column + half_columns) + 1),
    )


def pack(views: Tensor) -> Tensor:
    """Return views in 20 bits a pixel, exactly; `unpack` undoes it.

    Every value of a channel is told by its upper two bits, and of most channels by the uppermost. The ego's box need
    not be kept: it is always in the same place.

    Args:
        views: [W, N, N, 15] uint8 as worlds show them.

    Returns:
        [W, 20, N, N / 8] uint8: the uppermost bits of all channels, then the next ones of `TWO_BITS`; the lowest bit
        of a byte is the pixel on the left.
    """
    planes = views.permute(0, 3, 1, 2).contiguous()
    worlds, _, side, _ = planes.shape
    packed = torch.empty(worlds, BITS, side, side // 8, dtype=torch.uint8, device=planes.device)
    for rows in _blocks(planes):
        packed[rows, :CHANNELS] = _gathered(planes[rows], 7)
        packed[rows, CHANNELS:] = _gathered(planes[rows][:, TWO_BITS], 6)
    return packed


def unpack(packed: Tensor) -> Tensor:
    """Return the views [W, N, N, 15] uint8 that `pack` was given; their memory is in the order of channels."""
    spread = torch.tensor(_SPREAD, device=packed.device)
    worlds, _, side, _ = packed.shape
    planes = torch.empty(worlds, CHANNELS, side, side, dtype=torch.uint8, device=packed.device)
    for rows in _blocks(planes):
        block = planes[rows]
        upper, lower = packed[rows, :CHANNELS], packed[rows, CHANNELS:]
        torch.index_select(spread, 0, upper.flatten().int(), out=block.view(torch.int64).view(-1))
        low = spread.index_select(0, lower.flatten().int()).view(torch.uint8).view(len(block), -1, side, side)
        marks, lights = block[:, 2], block[:, LIGHTS:]
        both = (lights & low[:, 1:]).bitwise_and_(RED - GREEN - YELLOW)
        marks |= low[:, 0] & BROKEN
        lights.bitwise_and_(YELLOW).bitwise_or_(low[:, 1:].bitwise_and_(GREEN)).bitwise_or_(both)
    box = ego_box(side)
    planes[:, :2, box[0], box[1]] = EGO
    return planes.permute(0, 2, 3, 1)


def _blocks(planes: Tensor) -> list[slice]:
    """Return the worlds of planes [W, 15, N, N] in blocks that a CPU's cache holds; on a GPU, all."""
    size = len(planes) if planes.device.type != "cpu" else BLOCK // planes.shape[2] ** 2
    return [slice(begin, begin + size) for begin in range(0, len(planes), max(1, size))]


def _gathered(planes: Tensor, bit: int) -> Tensor:
    """Return one bit of each byte of planes [W, C, N, N], eight to a byte: [W, C, N, N / 8] uint8."""
    ones = planes.contiguous().view(torch.int64) >> bit
    ones.bitwise_and_(0x0101010101010101).mul_(0x0102040810204080)  # moves the bit of byte i to bit 56 + i
    return ones.bitwise_right_shift_(56).to(torch.uint8)


def _spread() -> list[int]:
    """Return for each byte the eight bytes of 0 or 255 that its bits stand for, as one signed number."""
    rows = [bytes(255 * (byte >> place & 1) for place in range(8)) for byte in range(256)]
    return [int.from_bytes(row, "little", signed=True) for row in rows]


_SPREAD = _spread()
