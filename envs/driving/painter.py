"""Bird's-eye views of thousands of worlds at once: the ground looked up, and everybody else stamped on it.

The ground costs one look-up a pixel, at fixed-point places that are sums of a row's and a column's share. Boxes are
stamped where they are: each row of a box is a run of pixels, written as words of eight bytes of ones that are added
up, so that the order in which they come does not matter and boxes may overlap; then the words that were written to,
and no others, are turned into colours. Nothing depends on how many worlds there are, so that a world looks the same
alone and among others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.atlas import STOP_DEPTH, Place, draw_atlas
from palaestra.envs.driving.bev import (
    AGO,
    BEHIND,
    BROKEN,
    CHANNELS,
    EGO,
    FIELD,
    GREEN,
    LIGHTS,
    PIXELS,
    RED,
    VEHICLES,
    WALKERS,
    YELLOW,
    Scene,
    ego_box,
)
from palaestra.envs.driving.state import Light, lights

GRAIN = 12
"""Bits of a column's fraction, in fixed-point places of the atlas; a row has those of the columns' number."""
BLOCKS = 1 << 26, 1 << 20
"""Pixels that are painted at a time, and on a CPU, whose cache what is between should stay in."""
LOOKUPS = 1 << 26, 1 << 17
"""Pixels that are looked up at a time, likewise."""
WALKER = 0.8
"""Metres: half the side of a walker's square."""
BROADEST = 5.5
"""Metres: the longest diagonal of a box; larger ones are cut."""
STAMPS = 0, 64, 8, 1
"""What a stamp of each `Light` adds: up to seven green and seven yellow lines may overlap, and the warmest is seen."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """K boxes at each of T moments in W worlds."""

    places: Tensor
    """[W, T, K, 4] float32: x, y of the middle, cos and sin of the yaw."""
    halves: Tensor
    """[W, T, K, 2] float32: half the length and width."""
    codes: Tensor
    """[W, T, K] int64: what they add to a pixel."""
    channels: Tensor
    """[K] int64: where they are drawn at the first moment."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that is written over and over; fresh memory would cost more than all that is written there."""

    index: Tensor
    """[L, N, N] int32: as many as are looked up at a time."""
    column: Tensor
    """[L, N, N] int32."""
    ground: Tensor
    """[W, N, N] uint8."""

    @staticmethod
    def make(worlds: int, lookups: int, pixels: int, device: torch.device) -> Room:
        """Return room for so many worlds."""
        index, column = (torch.empty(lookups, pixels, pixels, dtype=torch.int32, device=device) for _ in range(2))
        return Room(index, column, torch.empty(worlds, pixels, pixels, dtype=torch.uint8, device=device))


class Painter:
    """Paints the views of an arena's worlds."""

    def __init__(self, arena: Arena, signals: Tensor, pixels: int) -> None:
        """Draw the atlas.

        Args:
            arena: The maps, on any device.
            signals: `tables.Tables.signals`, on the device where views are to be painted.
            pixels: N, one of `bev.PIXELS`.

        Raises:
            ValueError: For other sizes, or maps that are too large.
        """
        if pixels not in PIXELS:
            raise ValueError(f"driving: pixels is {pixels}, expected one of {', '.join(map(str, PIXELS))}.")
        self.pixels, self.metres = pixels, FIELD / pixels
        self.device = signals.device
        self.atlas = draw_atlas(arena.to("cpu"), self.metres, math.hypot(FIELD - BEHIND, FIELD / 2)).to(self.device)
        self._signals = signals
        self._box = ego_box(pixels)
        self._ahead = FIELD - BEHIND - 0.5 * self.metres
        self._left = 0.5 * FIELD - 0.5 * self.metres
        self._steps = torch.arange(pixels, device=self.device) * -self.metres
        self._whole = torch.arange(pixels, device=self.device, dtype=torch.float32)
        self._ones = torch.tensor(_ones(), device=self.device)
        self._codes = torch.tensor(STAMPS, device=self.device)
        near = self.device.type == "cpu"
        self._block, self._lookups = (max(1, most[near] // pixels**2) for most in (BLOCKS, LOOKUPS))
        self._room: Room | None = None

    def paint(self, scene: Scene, views: Tensor | None = None) -> Tensor:
        """Return the views of scenes, [W, N, N, 15] uint8; see `bev` for the channels.

        Args:
            scene: On the painter's device.
            views: A tensor that `blank` returned, to be painted over and returned.
        """
        views = self.blank(len(scene.map)) if views is None else views
        planes = views.permute(0, 3, 1, 2)
        for begin in range(0, len(planes), self._block):
            rows = slice(begin, begin + self._block)
            self._paint(scene[rows], planes[rows])
        return views

    def blank(self, worlds: int) -> Tensor:
        """Return a tensor for views, whose memory is in the order of channels."""
        side = self.pixels
        return torch.empty(worlds, CHANNELS, side, side, dtype=torch.uint8, device=self.device).permute(0, 2, 3, 1)

    def _paint(self, scene: Scene, planes: Tensor) -> None:
        """Paint planes [W, 15, N, N], contiguous."""
        ego = scene.vehicles[:, -1, 0]
        self._ground(scene, ego, planes)
        planes[:, VEHICLES:].zero_()
        words = planes.view(torch.int64).view(-1)
        for boxes, colour in ((self._bodies(scene, ego), _solid), (self._lines(scene), _light)):
            index, ones = self._stamps(ego, boxes)
            words.scatter_add_(0, index, ones)
            sums = words.index_select(0, index).view(torch.uint8)
            words.scatter_(0, index, colour(sums).view(torch.int64))  # of words that were hit twice, twice the same

    def _ground(self, scene: Scene, ego: Tensor, planes: Tensor) -> None:
        """Look the ground up in planes 0 to 2."""
        atlas, stride = self.atlas, self.atlas.stride[scene.map][:, None]
        at = torch.minimum(torch.maximum(ego[:, :2], atlas.low[scene.map]), atlas.high[scene.map])
        x, y = ((at - atlas.origin[scene.map]) * atlas.density).split(1, 1)
        cos, sin = (ego[:, 2:] * atlas.density).split(1, 1)
        ahead, left = self._steps + self._ahead, self._steps + self._left
        first = atlas.first[scene.route][:, None]
        index = (first + _fixed(y + sin * ahead, stride))[:, :, None], _fixed(cos * left, stride)[:, None]
        column = _fixed(x + cos * ahead, 1 << GRAIN)[:, :, None], _fixed(-sin * left, 1 << GRAIN)[:, None]

        room = self._rooms(len(ego))
        place, size = room.ground[: len(ego)], len(room.index)
        for begin in range(0, len(ego), size):
            some = slice(begin, begin + size)
            here = place[some]
            torch.add(index[0][some], index[1][some], out=room.index[: len(here)])
            torch.add(column[0][some], column[1][some], out=room.column[: len(here)])
            found = room.index[: len(here)].bitwise_and_(-stride[some, None])  # the row alone, times the stride
            found.bitwise_or_(room.column[: len(here)].bitwise_right_shift_(GRAIN))
            torch.index_select(atlas.places, 0, found.view(-1), out=here.view(-1))
        road, route, marks = planes[:, 0], planes[:, 1], planes[:, 2]
        torch.bitwise_and(place, Place.ROAD, out=road).neg_()  # 255
        torch.bitwise_and(place, atlas.bit[scene.route][:, None, None], out=route).clamp_(max=1).neg_()
        torch.bitwise_and(place, Place.SOLID, out=marks).clamp_(max=1).neg_()
        marks.add_(place.bitwise_and_(Place.BROKEN), alpha=BROKEN // Place.BROKEN)
        planes[:, :2, self._box[0], self._box[1]] = EGO

    def _rooms(self, worlds: int) -> Room:
        """Return room for the steps between."""
        if self._room is None or len(self._room.ground) < worlds:
            self._room = Room.make(worlds, min(worlds, self._lookups), self.pixels, self.device)
        return self._room

    def _bodies(self, scene: Scene, ego: Tensor) -> Boxes:
        """Return the vehicles and walkers; the sum of any number of them is not 0."""
        others, walkers = scene.vehicles[:, :, 1:], scene.walkers
        upright = ego[:, None, None, 2:].expand(*walkers.shape)
        sizes = 0.5 * scene.sizes[:, None, 1:].expand(-1, len(AGO), -1, -1)
        drivers, people = others.shape[2], walkers.shape[2]
        channels = torch.full((drivers + people,), WALKERS, device=self.device)
        channels[:drivers] = VEHICLES
        return Boxes(
            torch.cat((others, torch.cat((walkers, upright), 3)), 2),
            torch.cat((sizes, torch.full_like(walkers, WALKER)), 2),
            self._codes[Light.GREEN].expand(len(ego), len(AGO), len(channels)),
            channels,
        )

    def _lines(self, scene: Scene) -> Boxes:
        """Return the stop lines, as their signals were."""
        lines = self.atlas.lines[scene.map][:, None].expand(-1, len(AGO), -1, -1)
        group = lines[..., 5].long()
        shown, _ = lights(self._signals, group, scene.seconds[:, :, None])
        return Boxes(
            lines[..., :4],
            torch.stack((torch.full_like(lines[..., 4], 0.5 * STOP_DEPTH), lines[..., 4]), 3),
            self._codes[shown.masked_fill(group < 0, Light.RED)],
            torch.full((group.shape[2],), LIGHTS, device=self.device),
        )

    def _stamps(self, ego: Tensor, boxes: Boxes) -> tuple[Tensor, Tensor]:
        """Return what adds boxes' codes to all pixels of planes [W, 15, N, N] whose middles lie in them.

        Args:
            ego: [W, 4]: a pose each.
            boxes: Of the same worlds.

        Returns:
            The indices of words of eight pixels, [n] int64, some of them several times, and what to add to each.
        """
        side, reach = self.pixels, 0.5 * BROADEST / self.metres
        place, cos, sin = boxes.places, ego[:, None, None, 2], ego[:, None, None, 3]
        away = place[..., :2] - ego[:, None, None, :2]
        row = (self._ahead - (away[..., 0] * cos + away[..., 1] * sin)) / self.metres
        column = (self._left - (away[..., 1] * cos - away[..., 0] * sin)) / self.metres
        near = self._near(row, column, reach)

        def picked(values: Tensor) -> Tensor:
            return values.reshape(-1).index_select(0, near)[:, None]

        turn = picked(place[..., 2] * cos + place[..., 3] * sin), picked(place[..., 3] * cos - place[..., 2] * sin)
        half = picked(boxes.halves[..., 0]) / self.metres, picked(boxes.halves[..., 1]) / self.metres
        row, column = picked(row), picked(column)
        count = int(2 * reach) + 1
        rows = (row - reach).ceil() + self._whole[:count]
        first, last = run(rows - row, turn, half)
        inside = (rows >= 0) & (rows < side)
        first = (first + column).ceil().clamp(0, side).int()
        past = ((last + column).floor() + 1).clamp(0, side).int() * inside

        kinds, words = place.shape[2], side // 8
        moment = near // kinds
        plane = moment // len(AGO) * CHANNELS + moment % len(AGO) + boxes.channels.index_select(0, near % kinds)
        line = plane[:, None] * side + rows.clamp(0, side - 1).long()
        word = (first >> 3)[..., None] + self._whole[: (count + 14) // 8].int()
        low = (first[..., None] - 8 * word).clamp_(0, 8)
        high = (past[..., None] - 8 * word).clamp_(0, 8)
        ones = self._ones.index_select(0, low.mul_(9).add_(high).flatten()).view(word.shape)
        ones.mul_(picked(boxes.codes)[..., None])
        index = line[..., None] * words + word.clamp_(max=words - 1)
        return index.flatten(), ones.flatten()

    def _near(self, row: Tensor, column: Tensor, reach: float) -> Tensor:
        """Return the indices of boxes that may be seen; on a GPU, which would have to wait for that, all."""
        if self.device.type != "cpu":
            return torch.arange(row.numel(), device=self.device)
        middle, far = 0.5 * (self.pixels - 1), 0.5 * self.pixels + reach
        away = torch.maximum((row - middle).abs_(), (column - middle).abs_())
        return (away < far).flatten().nonzero()[:, 0]


def run(rows: Tensor, turn: tuple[Tensor, Tensor], half: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return between which columns lines cross boxes, relative to the boxes' middles; empty where first > last.

    Args:
        rows: [n, P]: the lines, below the boxes' middles.
        turn: [n, 1] each: cos and sin of the boxes' yaw, from up to the left.
        half: [n, 1] each: half their lengths and widths, in the same unit.
    """
    cos, sin = (torch.where(part.abs() < 1e-6, 1e-6, part) for part in turn)
    long, wide = half[0] / sin.abs(), half[1] / cos.abs()
    one, other = rows * (-cos / sin), rows * (sin / cos)
    return torch.maximum(one - long, other - wide), torch.minimum(one + long, other + wide)


def _fixed(places: Tensor, grain: Tensor | int) -> Tensor:
    """Return places in fixed point, int32: whole multiples of 1 / grain."""
    return (places * grain).round().int()


def _solid(sums: Tensor) -> Tensor:
    """Turn sums of vehicles' and walkers' stamps into 255; the tensor is overwritten and returned."""
    return sums.clamp_(max=1).neg_()


def _light(sums: Tensor) -> Tensor:
    """Turn sums of stop lines' stamps into colours; the tensor is overwritten and returned."""
    yellow, red = ((sums.clamp(code - 1, code) - (code - 1)) for code in (STAMPS[Light.YELLOW], STAMPS[Light.RED]))
    return sums.clamp_(max=1).mul_(GREEN).add_(yellow, alpha=YELLOW - GREEN).add_(red, alpha=RED - YELLOW)


def _ones() -> list[int]:
    """Return for 9 · first + past the word whose bytes from `first` to before `past` are 1."""
    return [
        sum(1 << 8 * byte for byte in range(first, past)) for first in range(9) for past in range(9)
    ]
