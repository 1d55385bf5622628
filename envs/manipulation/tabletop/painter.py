"""Pictures of B tables at once: what stands still is painted once an episode, what moves is stamped onto copies.

Places are whole numbers, sixteenths of a pixel, and so is all that decides whether a pixel is inside: pictures are the
same on every device. A pixel is one int32 (red, green, blue, nothing) until it is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.envs.manipulation.tabletop.catalogue import OBJECTS, PATTERNS, RECEPTACLES, SCENES, TABLES
from palaestra.envs.manipulation.tabletop.scene import ROOM, SIZE, Table

FINE = 16
"""Parts of a pixel."""
HALF = 1.15
"""Half of what a picture's side shows, in widths of half a table."""
EDGE = 1.05
"""Half the table's width."""
FINGER = 0.045
"""Half a finger's width."""
FLOOR, STEEL, FRAME = (92, 92, 100), (60, 62, 70), (96, 66, 40)
Inside = Callable[[Tensor, Tensor], Tensor]
"""Whether points, in sixteenths of a pixel right of a middle and above it, belong to a thing: [B, S, S] bool."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A parallel projection: a place (x, y, z) is seen at x across, and at `depth` y + `rise` z - `aim` up."""

    name: str
    """As pictures are called."""
    depth: float
    """How much of y is seen; 1 / `depth` is a whole number."""
    rise: float
    """How much of a height is seen."""
    aim: float
    """What is in the middle."""


CAMERAS = (Camera("overhead", 1.0, 0.0, 0.0), Camera("side", 0.5, 0.8, 0.2))
"""From above, and from the front, higher than the table."""


class Painter:
    """Paints tables as one camera sees them."""

    def __init__(self, camera: Camera, pixels: int, device: torch.device) -> None:
        self.camera, self.pixels, self.device = camera, pixels, device
        self.scale = pixels / (2 * HALF)
        self.on_table, self.dark = _tables(camera, pixels, device)
        self._objects = _palette([kind.colour for kind in OBJECTS], device)
        self._object_shapes = torch.tensor([kind.shape for kind in OBJECTS], device=device)
        self._receptacles = _palette([kind.colour for kind in RECEPTACLES], device)
        self._receptacle_shapes = torch.tensor([kind.shape for kind in RECEPTACLES], device=device)
        self._tables = _palette(list(TABLES), device)
        self._scenes = torch.tensor(SCENES, device=device)

    def fixed(self, table: Table, rail: bool) -> Tensor:
        """Return what does not move, [B, pixels² + 1] int32; the last entry is a place for what is not seen.

        Args:
            table: The tables.
            rail: Whether there is a drawer, in place of receptacles.
        """
        light, scene = table.light, self._scenes[table.scene]
        top, floor = self._tables[scene[:, 1]], _palette([FLOOR], self.device)
        shade = (256 - 56 * self.dark[scene[:, 0]].to(torch.int32))[..., None]
        colour = torch.where(self.on_table[:, None], top[:, None] * shade >> 8, floor)
        unseen = torch.zeros(len(light), 1, dtype=torch.int32, device=self.device)
        frame = torch.cat([_packed(colour, light[:, None]), unseen], 1)
        flat = round(1 / self.camera.depth)
        if rail:
            return self._rail(frame, table)
        for index in range(table.receptacles.shape[1]):
            kind = table.receptacle_kinds[:, index]
            shape, middle = self._receptacle_shapes[kind][:, None, None], self._middle(table.receptacles[:, index])
            for part, shade_of in ((1.0, 150), (0.75, 256)):
                self._stamp(
                    frame, middle, self._fine(ROOM),
                    _receptacle(shape, round(self._fine(ROOM) * part), flat),
                    _packed(self._receptacles[kind] * shade_of >> 8, light),
                )  # fmt: skip
        return frame

    def paint(self, table: Table, fixed: Tensor) -> Tensor:
        """Return pictures [B, pixels, pixels, 3] uint8 of tables, from what does not move."""
        frame = fixed.clone()
        size = self._fine(SIZE)
        for index in range(table.kinds.shape[1]):
            kind = table.kinds[:, index]
            shape = self._object_shapes[kind][:, None, None]
            colour = _packed(self._objects[kind], table.light)
            self._stamp(frame, self._middle(table.objects[:, index]), size, _object(shape, size), colour)
        steel = _packed(_palette([STEEL], self.device).expand(len(frame), 3), table.light)
        gap = torch.where(table.closed, self._fine(FINGER + 0.02), self._fine(SIZE + FINGER))[:, None, None]
        fingers = _fingers(gap, self._fine(FINGER), self._fine(0.09))
        self._stamp(frame, self._middle(table.tool), self._fine(SIZE + 2 * FINGER), fingers, steel)
        seen = frame[:, :-1].view(torch.uint8).unflatten(1, (self.pixels, self.pixels, 4))
        pictures: Tensor = seen[..., :3].contiguous()
        return pictures

    def _rail(self, frame: Tensor, table: Table) -> Tensor:
        """Add the drawer's frame, from where its handle is when shut to where it is when open."""
        ends = torch.stack([table.objects[:, 0, :2], table.goals[:, 0]], 1)
        middle = self._middle(ends.mean(1))
        reach = (ends[:, 0, 1] - ends[:, 1, 1]).abs() * (self.scale * FINE * self.camera.depth / 2)
        long, wide = reach.round().to(torch.int32)[:, None, None], self._fine(0.6 * SIZE)

        def inside(right: Tensor, up: Tensor) -> Tensor:
            return (right.abs() < wide) & (up.abs() < long)

        colour = _packed(_palette([FRAME], self.device).expand(len(frame), 3), table.light)
        return self._stamp(frame, middle, self._fine(0.4), inside, colour)

    def _fine(self, length: float) -> int:
        """Return a length in sixteenths of a pixel."""
        return round(length * self.scale * FINE)

    def _middle(self, place: Tensor) -> Tensor:
        """Return where places [B, 2 or 3] are seen, in sixteenths of a pixel from the picture's upper left, [B, 2]."""
        up = self.camera.depth * place[:, 1] - self.camera.aim
        if place.shape[1] == 3 and self.camera.rise:
            up = up + self.camera.rise * place[:, 2]
        seen = torch.stack([HALF + place[:, 0], HALF - up], 1)
        return (seen * (self.scale * FINE)).round().to(torch.int32)

    def _stamp(self, frame: Tensor, middle: Tensor, reach: int, inside: Inside, colour: Tensor) -> Tensor:
        """Colour the pixels inside a thing whose middle is at [B, 2] and that goes no farther than `reach`."""
        side = -(-reach // FINE)
        offset = torch.arange(-side, side + 1, device=self.device, dtype=torch.int32)
        pixel = (middle >> 4)[:, :, None] + offset
        apart = pixel * FINE + FINE // 2 - middle[:, :, None]
        kept = (pixel >= 0) & (pixel < self.pixels)
        shown = inside(apart[:, 0, None, :], -apart[:, 1, :, None]) & kept[:, 0, None, :] & kept[:, 1, :, None]
        where = torch.where(shown, pixel[:, 1, :, None] * self.pixels + pixel[:, 0, None, :], self.pixels**2)
        where = where.flatten(1).long()
        return frame.scatter_(1, where, colour[:, None].expand_as(where))


def _tables(camera: Camera, pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which pixels see the table [P²], and which of them each pattern darkens [4, P²], bool."""
    axis = ((torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels * 2 - 1) * HALF
    x, y = axis[None, :].expand(pixels, -1), ((camera.aim - axis) / camera.depth)[:, None].expand(-1, pixels)
    across, along = (x * 3).floor().long() % 2 == 1, (y * 3).floor().long() % 2 == 1
    patterns = {"plain": torch.zeros_like(across), "stripes": across, "checks": across ^ along, "bands": along}
    dark = torch.stack([patterns[name].flatten() for name in PATTERNS])
    return ((x.abs() < EDGE) & (y.abs() < EDGE)).flatten().to(device), dark.to(device)


def _palette(colours: list[tuple[int, int, int]], device: torch.device) -> Tensor:
    return torch.tensor(colours, dtype=torch.int32, device=device)


def _packed(colour: Tensor, light: Tensor) -> Tensor:
    """Return colours [..., 3] in a light [...] as one number each, [...] int32."""
    lit = (colour * (light * 256).round().to(torch.int32)[..., None] >> 8).clamp(0, 255)
    return lit[..., 0] | lit[..., 1] << 8 | lit[..., 2] << 16


def _object(shape: Tensor, size: int) -> Inside:
    """Return what a cube, a ball, a wedge and a cross look like."""

    def inside(right: Tensor, up: Tensor) -> Tensor:
        across, high = right.abs(), up.abs()
        most, least = torch.maximum(across, high), torch.minimum(across, high)
        cube = most * 10 < size * 9
        ball = right * right + up * up < size * size
        wedge = (2 * across < size - up) & (high < size)
        cross = (most < size) & (3 * least < size)
        return torch.where(shape == 0, cube, torch.where(shape == 1, ball, torch.where(shape == 2, wedge, cross)))

    return inside


def _receptacle(shape: Tensor, size: int, flat: int) -> Inside:
    """Return what a plate, a tray and a mat look like, lying on the table."""

    def inside(right: Tensor, up: Tensor) -> Tensor:
        across, along = right.abs(), up.abs() * flat
        plate = right * right + along * along < size * size
        tray = torch.maximum(across, along) * 10 < size * 9
        mat = across + along < size
        return torch.where(shape == 0, plate, torch.where(shape == 1, tray, mat))

    return inside


def _fingers(gap: Tensor, width: int, height: int) -> Inside:
    """Return two fingers, so far from the middle each, and the palm between them."""

    def inside(right: Tensor, up: Tensor) -> Tensor:
        across = right.abs()
        finger = ((across - gap).abs() < width) & (up.abs() < height)
        return finger | ((across < gap) & (up < height) & (up > height - width))

    return inside
