"""Pictures against a painter that looks at one pixel at a time."""

import pytest
import torch

from palaestra.envs.manipulation.tabletop.catalogue import OBJECTS, PATTERNS, RECEPTACLES, SCENES, TABLES
from palaestra.envs.manipulation.tabletop.painter import (
    CAMERAS,
    EDGE,
    FINGER,
    FLOOR,
    HALF,
    STEEL,
    Camera,
    Painter,
)  # fmt: skip
from palaestra.envs.manipulation.tabletop.scene import ROOM, SIZE, Table
from palaestra.envs.manipulation.tabletop.world import TabletopEnv

PIXELS = 32
SCALE = 16 * PIXELS / (2 * HALF)


def lit(colour: tuple[int, ...], light: float) -> list[int]:
    """Return a colour in a light."""
    return [min(255, part * round(light * 256) >> 8) for part in colour]


def middle(camera: Camera, x: float, y: float, z: float = 0.0) -> tuple[int, int]:
    up = camera.depth * y + camera.rise * z - camera.aim
    # The painter computes in float32; its rounding is looked at elsewhere.
    place = torch.tensor([HALF + x, HALF - up], dtype=torch.float32) * SCALE
    return int(place[0].round()), int(place[1].round())


def table_colour(camera: Camera, table: Table, row: int, column: int, line: int) -> tuple[int, ...]:
    """Return what a pixel shows of the bare table."""
    x = ((column + 0.5) / PIXELS * 2 - 1) * HALF
    y = (camera.aim - ((line + 0.5) / PIXELS * 2 - 1) * HALF) / camera.depth
    if abs(x) >= EDGE or abs(y) >= EDGE:
        return FLOOR
    pattern, top = SCENES[int(table.scene[row])]
    across, along = int(x * 3 // 1) % 2 == 1, int(y * 3 // 1) % 2 == 1
    dark = {"plain": False, "stripes": across, "checks": across != along, "bands": along}[PATTERNS[pattern]]
    return tuple(part * (200 if dark else 256) >> 8 for part in TABLES[top])


def pixel(camera: Camera, table: Table, row: int, column: int, line: int) -> list[int]:
    """Return one pixel, the last thing that covers it."""
    colour = table_colour(camera, table, row, column, line)
    room, size = round(ROOM * SCALE), round(SIZE * SCALE)

    def apart(place: list[float]) -> tuple[int, int]:
        at = middle(camera, *place)
        return column * 16 + 8 - at[0], at[1] - (line * 16 + 8)

    flat = round(1 / camera.depth)
    for place, kind in zip(table.receptacles[row].tolist(), table.receptacle_kinds[row].tolist(), strict=True):
        dx, dy = apart(place)
        for part, shade in ((room, 150), (round(room * 0.75), 256)):
            plate = dx * dx + (flat * dy) ** 2 < part * part
            tray, mat = max(abs(dx), abs(flat * dy)) * 10 < part * 9, abs(dx) + abs(flat * dy) < part
            if (plate, tray, mat)[RECEPTACLES[kind].shape]:
                colour = tuple(channel * shade >> 8 for channel in RECEPTACLES[kind].colour)
    for place, kind in zip(table.objects[row].tolist(), table.kinds[row].tolist(), strict=True):
        dx, dy = apart(place)
        most, least = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
        shapes = (
            most * 10 < size * 9,
            dx * dx + dy * dy < size * size,
            2 * abs(dx) < size - dy and abs(dy) < size,
            most < size and 3 * least < size,
        )
        colour = OBJECTS[kind].colour if shapes[OBJECTS[kind].shape] else colour
    dx, dy = apart(table.tool[row].tolist())
    gap = round((FINGER + 0.02 if bool(table.closed[row]) else SIZE + FINGER) * SCALE)
    wide, tall = round(FINGER * SCALE), round(0.09 * SCALE)
    if (abs(abs(dx) - gap) < wide and abs(dy) < tall) or (abs(dx) < gap and tall - wide < dy < tall):
        colour = STEEL
    return lit(colour, float(table.light[row]))


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
def test_every_pixel_is_right(camera: Camera) -> None:
    """Some steps into episodes, with things held, every pixel is what looking at it alone says."""
    world = TabletopEnv(3, pixels=PIXELS)
    world.reset(seed=7)
    for _ in range(7):
        world.step(world.expert())
    shown = world.step(world.expert())[0][camera.name]
    for row in range(3):
        brute = [[pixel(camera, world.table, row, column, line) for column in range(PIXELS)] for line in range(PIXELS)]
        assert torch.equal(shown[row], torch.tensor(brute, dtype=torch.uint8)), row


def test_what_is_out_of_sight_is_not_painted() -> None:
    """A thing beyond the picture leaves it as it was, and does not come in at the other side."""
    world = TabletopEnv(1, pixels=PIXELS)
    painter, table = Painter(CAMERAS[0], PIXELS, torch.device("cpu")), world.table
    fixed = painter.fixed(table, False)
    bare = fixed.clone()
    outside = torch.tensor([[-999, 80]], dtype=torch.int32)
    painter._stamp(fixed, outside, 40, lambda x, y: (x < 99) & (y < 99), bare[:, 0])
    assert torch.equal(fixed[:, :-1], bare[:, :-1])


def test_a_bigger_picture_shows_the_same() -> None:
    """Shown at 224 pixels, the middle of each object has its colour."""
    world = TabletopEnv(8, pixels=224, objects=1)
    shown = world.reset(seed=1)[0]["overhead"]
    for row in range(8):
        column, line = (int(value * 224 / (2 * HALF)) for value in (
            HALF + float(world.table.objects[row, 0, 0]), HALF - float(world.table.objects[row, 0, 1])))  # fmt: skip
        kind = OBJECTS[int(world.table.kinds[row, 0])]
        assert shown[row, line, column].tolist() == lit(kind.colour, float(world.table.light[row]))
