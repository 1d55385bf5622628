"""The ground of all maps as bird's-eye views read it: one byte a place holds the road, its marks and five routes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntFlag

import torch
from torch import Tensor

from palaestra.envs.driving.arena import PIXELS_A_METRE, Arena, Control, Ground

ROUTES = 5
"""How many routes one byte holds beside the ground."""
ROUTE_WIDTH = 3.2
"""Metres: 16 of Found-RL's 192 pixels."""
STOP_DEPTH = 1.2
"""Metres along the lane that a stop line takes in a bird's-eye view: 6 of Found-RL's 192 pixels."""


class Place(IntFlag):
    """Bits of an atlas' byte; the five above are routes."""

    ROAD = 1
    SOLID = 2
    BROKEN = 4
    ROUTE = 8


@dataclass(frozen=True, slots=True)
class Atlas:
    """What views look up. M maps, R routes, S stop lines of the map with the most."""

    places: Tensor
    """Flat uint8, `Place` bits: each map once for every five of its routes, with a margin of nothing round it."""
    first: Tensor
    """[R] int32: where the copy of its map that holds a route begins."""
    bit: Tensor
    """[R] uint8: the route's bit there."""
    stride: Tensor
    """[M] int32: places in a row, a power of two, so that a bit mask tells a row from its fraction."""
    origin: Tensor
    """[M, 2] float32: x and y of the south-west corner of place (0, 0)."""
    low: Tensor
    """[M, 2] float32: the least x and y from which no view reaches beyond the margin."""
    high: Tensor
    """[M, 2] float32: the greatest."""
    lines: Tensor
    """[M, S, 6] float32: stop lines of signals and stop signs: x, y of the middle, cos and sin of the lane's yaw, half
    the width, and the signal group (-1 of signs). Those that do not exist are of no width."""
    density: int
    """Places a metre."""

    def to(self, device: torch.device | str) -> Atlas:
        """Return the atlas on another device."""
        tensors = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "density"}
        return Atlas(**{name: tensor.to(device) for name, tensor in tensors.items()}, density=self.density)


def draw_atlas(arena: Arena, metres: float, reach: float) -> Atlas:
    """Return the atlas of an arena on the CPU, at half the textures' density where a view's pixels are no finer.

    Args:
        arena: The maps, on the CPU.
        metres: The side of a view's pixel.
        reach: How far views look, metres: so wide is the margin.

    Raises:
        ValueError: The maps are too large for 32 bits.
    """
    thin = 2 if PIXELS_A_METRE * metres >= 2 else 1
    density = PIXELS_A_METRE // thin
    margin = math.ceil(reach * density) + 1
    parts, first, bits, stride = [], [], [], []
    begin = 0
    for number in range(arena.maps):
        ground = _ground(arena, number, thin, margin)
        low, high = arena.route_range[number].tolist()
        stride.append(ground.shape[1])
        origin = arena.texture_origin[number] - margin / density
        for lead in range(low, high, ROUTES):
            copy = ground.clone()
            for place, route in enumerate(range(lead, min(lead + ROUTES, high))):
                points = arena.route_position[route, : int(arena.route_count[route])]
                paint_route(copy, (points - origin) * density, ROUTE_WIDTH / 2 * density, Place.ROUTE << place)
                first.append(begin)
                bits.append(Place.ROUTE << place)
            parts.append(copy.flatten())
            begin += copy.numel()
    if begin >= 2**31:
        raise ValueError(
            f"driving: bird's-eye views of these maps need {begin / 1e9:.1f} GB of ground, and 2.1 is the most. "
            "Take fewer maps or fewer pixels."
        )
    return Atlas(
        places=torch.cat(parts),
        first=torch.tensor(first, dtype=torch.int32),
        bit=torch.tensor(bits, dtype=torch.uint8),
        stride=torch.tensor(stride, dtype=torch.int32),
        origin=arena.texture_origin - margin / density,
        low=arena.texture_origin,
        high=arena.texture_origin + arena.texture_shape.flip(1) / PIXELS_A_METRE,
        lines=stop_lines(arena),
        density=density,
    )


def _ground(arena: Arena, number: int, thin: int, margin: int) -> Tensor:
    """Return a map's ground, every `thin`-th place with all marks round it, and a margin.

    It is [rows, columns] uint8; the margin on the right is as wide as makes the columns a power of two.
    """
    rows, columns = arena.texture_shape[number].tolist()
    begin = int(arena.texture_first[number])
    full = arena.texture[begin : begin + rows * columns].view(rows, columns)
    full = torch.nn.functional.pad(full, (0, -columns % thin, 0, -rows % thin))
    blocks = full.view(full.shape[0] // thin, thin, full.shape[1] // thin, thin)
    road = (blocks[:, thin // 2, :, thin // 2] & Ground.ROAD) > 0
    solid = ((blocks & Ground.SOLID) > 0).amax((1, 3)) & road
    broken = ((blocks & Ground.BROKEN) > 0).amax((1, 3)) & road & ~solid
    ground = road.byte() * Place.ROAD + solid.byte() * Place.SOLID + broken.byte() * Place.BROKEN
    wide = 1 << (ground.shape[1] + 2 * margin - 1).bit_length()
    return torch.nn.functional.pad(ground, (margin, wide - ground.shape[1] - margin, margin, margin))


def paint_route(ground: Tensor, points: Tensor, half: float, bit: int) -> None:
    """Set a bit at all places whose middles are within `half` of a chain of points [n, 2], all in places."""
    begin, way = points[:-1], points[1:] - points[:-1]
    room = int(2 * half + float(way.abs().max())) + 2
    corner = (torch.minimum(points[:-1], points[1:]) - half - 0.5).ceil().long()
    offset = torch.arange(room)
    column, row = corner[:, 0, None] + offset, corner[:, 1, None] + offset
    x = (column + 0.5 - begin[:, :1])[:, None, :]
    y = (row + 0.5 - begin[:, 1:])[:, :, None]
    dx, dy = way[:, 0, None, None], way[:, 1, None, None]
    share = ((x * dx + y * dy) / (dx * dx + dy * dy).clamp(min=1e-9)).clamp(0, 1)
    near = (x - share * dx).square() + (y - share * dy).square() <= half**2
    index = (row[:, :, None] * ground.shape[1] + column[:, None, :])[near].unique()
    ground.view(-1)[index] |= bit


def stop_lines(arena: Arena) -> Tensor:
    """Return the stop lines of an arena on the CPU, `Atlas.lines`."""
    ruled = (arena.control == Control.SIGNAL) | (arena.control == Control.STOP)
    rows: list[list[list[float]]] = [[] for _ in range(arena.maps)]
    for lane in ruled.nonzero().flatten().tolist():
        last = int(arena.first[lane] + arena.count[lane]) - 1
        yaw = float(arena.yaw[last])
        cos, sin = math.cos(yaw), math.sin(yaw)
        x, y = (arena.position[last] - STOP_DEPTH / 2 * torch.tensor([cos, sin])).tolist()
        group = int(arena.signal[lane]) if int(arena.control[lane]) == Control.SIGNAL else -1
        rows[int(arena.lane_map[lane])].append([x, y, cos, sin, float(arena.half_width[last]), group])
    most = max(1, *map(len, rows))
    table = torch.zeros(arena.maps, most, 6)
    table[..., 2], table[..., 4], table[..., 5] = 1.0, -1.0, -1.0
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row).view(-1, 6)
    return table
