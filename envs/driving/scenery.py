"""Pictures of worlds from above as people like to see them, smooth and with instruments; models see `picture`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from palaestra.envs.driving.arena import PIXELS_A_METRE, Ground
from palaestra.envs.driving.atlas import stop_lines
from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.state import Light, lights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from palaestra.envs.driving.world import DrivingEnv

    Colour = tuple[int, int, int]

WIDTH, HEIGHT, PANEL = 480, 480, 72
"""Pixels of a picture, and rows of the instruments below it."""
SHARP = 2
"""How many times larger it is drawn, for smooth edges."""
METRES, BEHIND = 60.0, 16.0
"""That a picture shows, in both directions, and how many of them behind the ego."""
SCALE = SHARP * WIDTH / METRES
GRASS, ROAD, PAINT, STRIPES = (104, 128, 92), (84, 88, 94), (226, 228, 230), (200, 203, 206)
ROUTE, ROUTE_SHARE, ROUTE_WIDTH = (64, 156, 255), 110, 1.8
"""Colour, opacity of 255, and metres."""
EGO, GLASS, OUTLINE = (255, 132, 28), (38, 44, 52), (30, 32, 36)
CARS = ((196, 60, 62), (72, 112, 190), (232, 232, 236), (70, 76, 86), (158, 166, 176), (58, 138, 110), (214, 180, 92))
WALKER = (250, 214, 70)
LAMPS = {Light.RED: (240, 56, 56), Light.YELLOW: (250, 204, 40), Light.GREEN: (64, 214, 96)}
WRONG = ("hit a vehicle", "hit a walker", "left the road", "ran a red light", "ran a stop sign")
"""What infractions are called, in the order of `rules.Infraction`."""
INK, DIM, BASE, ADVICE = (235, 237, 240), (140, 146, 154), (24, 26, 30), (214, 128, 255)


class Scenery:
    """Draws the worlds of one `DrivingEnv`, on the CPU."""

    def __init__(self, env: DrivingEnv) -> None:
        self.env = env
        self._arena = env.arena.to("cpu")
        self._lines = stop_lines(self._arena)
        self._grounds: dict[int, Image.Image] = {}

    def frames(self) -> tuple[NDArray[np.uint8], ...]:
        """Return a picture of each world, [552, 480, 3] uint8.

        The ego is orange and heads up; its route is blue; stop lines glow in their signals' colours. Below: its speed,
        pedals and steering wheel, with violet marks where the expert would hold them; how far it has come, what the
        next signal shows, and what has gone wrong.
        """
        advice = expert_action(self.env).cpu().tolist()
        return tuple(self._frame(row, advice[row]) for row in range(self.env.num_envs))

    def _frame(self, row: int, advice: list[float]) -> NDArray[np.uint8]:
        sheet = _Sheet(self.env.state.past.vehicles[self.env.state.past.cursor, row, 0].tolist())
        sheet.lay(self._ground(int(self.env.state.clocks.map[row])), self._origin(row))
        self._draw_route(sheet, row)
        self._draw_lines(sheet, row)
        self._draw_bodies(sheet, row)
        frame = Image.new("RGB", (WIDTH, HEIGHT + PANEL), BASE)
        frame.paste(sheet.image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))
        _Panel(frame).draw(self.env, row, advice)
        return np.asarray(frame)

    def _ground(self, number: int) -> Image.Image:
        """Return a map's ground in colours, row 0 at the south."""
        if number not in self._grounds:
            arena = self._arena
            rows, columns = arena.texture_shape[number].tolist()
            begin = int(arena.texture_first[number])
            bits = arena.texture[begin : begin + rows * columns].view(rows, columns).numpy()
            picture = np.empty((rows, columns, 3), np.uint8)
            picture[:] = GRASS
            for bit, colour in (
                (Ground.ROAD, ROAD),
                (Ground.CROSSWALK, STRIPES),
                (Ground.SOLID | Ground.BROKEN | Ground.STOP_LINE, PAINT),
            ):
                picture[bits & bit > 0] = colour
            self._grounds[number] = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.6))
        return self._grounds[number]

    def _origin(self, row: int) -> tuple[float, float]:
        x, y = self._arena.texture_origin[int(self.env.state.clocks.map[row])].tolist()
        return x, y

    def _draw_route(self, sheet: _Sheet, row: int) -> None:
        route, pointer = int(self.env.state.clocks.route[row]), int(self.env.state.ego.pointer[row])
        last = int(self._arena.route_count[route])
        points = self._arena.route_position[route, pointer : min(pointer + int(METRES), last)]
        sheet.ribbon([(x, y) for x, y in points.tolist()], ROUTE_WIDTH, ROUTE, ROUTE_SHARE)

    def _draw_lines(self, sheet: _Sheet, row: int) -> None:
        """Draw stop lines of signals in their colours."""
        state = self.env.state
        lines = self._lines[int(state.clocks.map[row])]
        group = lines[:, 5].long()
        shown, _ = lights(self.env.tables.signals.cpu(), group, state.clocks.seconds()[row].cpu())
        for (x, y, cos, sin, half, _), light in zip(lines.tolist(), shown.tolist(), strict=True):
            if half > 0 and light in LAMPS:
                sheet.box(x, y, cos, sin, 0.8, 2 * half - 0.4, LAMPS[Light(light)])

    def _draw_bodies(self, sheet: _Sheet, row: int) -> None:
        state = self.env.state
        for x, y in state.past.walkers[state.past.cursor, row].tolist():
            sheet.disc(x, y, 0.45, WALKER)
        cars = state.vehicles
        places = state.past.vehicles[state.past.cursor, row].tolist()
        sizes = zip(cars.length[row].tolist(), cars.width[row].tolist(), strict=True)
        brakes = (cars.acceleration[row] < -1.0).tolist()
        for number, (place, size, brake) in reversed(list(enumerate(zip(places, sizes, brakes, strict=True)))):
            sheet.car(place, size, CARS[number % len(CARS)] if number else EGO, brake)


class _Sheet:
    """A large picture in the ego's frame, on which things are drawn by where they are in the world."""

    def __init__(self, ego: list[float]) -> None:
        """Take the ego's x, y, cos and sin."""
        self.ego = ego
        self.image = Image.new("RGB", (SHARP * WIDTH, SHARP * HEIGHT), GRASS)
        self.pen = ImageDraw.Draw(self.image)

    def lay(self, ground: Image.Image, origin: tuple[float, float]) -> None:
        """Lay a map's ground, turned into this frame."""
        x, y, cos, sin = self.ego
        top, middle, step = METRES - BEHIND, METRES / 2, 1 / SCALE
        corner = x + top * cos - middle * sin - origin[0], y + top * sin + middle * cos - origin[1]
        places = (step * sin, -step * cos, corner[0], -step * cos, -step * sin, corner[1])
        turn = tuple(PIXELS_A_METRE * part for part in places)
        self.image = ground.transform(
            self.image.size, Image.Transform.AFFINE, turn, Image.Resampling.BILINEAR, fillcolor=GRASS
        )
        self.pen = ImageDraw.Draw(self.image)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the world is, in pixels."""
        dx, dy = x - self.ego[0], y - self.ego[1]
        ahead, left = dx * self.ego[2] + dy * self.ego[3], dy * self.ego[2] - dx * self.ego[3]
        return SCALE * (METRES / 2 - left), SCALE * (METRES - BEHIND - ahead)

    def box(
        self, x: float, y: float, cos: float, sin: float, length: float, width: float, fill: Colour, cut: float = 0.0
    ) -> None:
        """Draw a rectangle, its corners cut off by some metres."""
        long, wide = 0.5 * length, 0.5 * width
        shape = [(long, wide - cut), (long - cut, wide), (cut - long, wide), (-long, wide - cut)]
        shape += [(-a, -b) for a, b in shape]
        corners = [self.at(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in shape]
        self.pen.polygon(corners, fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Draw a circle with an outline."""
        (u, v), r = self.at(x, y), radius * SCALE
        self.pen.ellipse((u - r, v - r, u + r, v + r), fill, OUTLINE, SHARP)

    def ribbon(self, points: list[tuple[float, float]], width: float, colour: Colour, share: int) -> None:
        """Draw a chain of points as a translucent band."""
        if len(points) < 2:
            return
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).line([self.at(*point) for point in points], share, round(width * SCALE), "curve")
        self.image.paste(colour, (0, 0), mask)

    def car(self, place: list[float], size: tuple[float, float], colour: Colour, brake: bool) -> None:
        """Draw a vehicle at x, y, cos, sin, of a length and width."""
        (x, y, cos, sin), (length, width) = place, size

        def part(ahead: float, long: float, wide: float, fill: Colour, cut: float = 0.0) -> None:
            self.box(x + ahead * length * cos, y + ahead * length * sin, cos, sin, long * length, wide, fill, cut)

        part(0.0, 1.03, width + 0.2, OUTLINE, 0.4)
        part(0.0, 1.0, width, colour, 0.35)
        part(0.14, 0.16, width - 0.45, GLASS, 0.12)
        part(-0.32, 0.10, width - 0.5, GLASS, 0.08)
        if brake:
            part(-0.48, 0.05, width - 0.3, LAMPS[Light.RED])


class _Panel:
    """The instruments below a picture."""

    def __init__(self, frame: Image.Image) -> None:
        self.pen = ImageDraw.Draw(frame)
        self.large, self.small = ImageFont.load_default(34), ImageFont.load_default(13)

    def draw(self, env: DrivingEnv, row: int, advice: list[float]) -> None:
        """Draw those of one world."""
        ego, top = env.state.ego, HEIGHT
        speed = f"{float(env.state.vehicles.speed[row, 0]):.1f}"
        self.pen.text((14, top + 10), speed, INK, self.large)
        self.pen.text((20 + self.pen.textlength(speed, self.large), top + 28), "m/s", DIM, self.small)
        pedal, steer = float(ego.pedal[row]), float(ego.steer[row])
        self._bar(top + 20, "pedals", pedal, advice[0], LAMPS[Light.GREEN if pedal >= 0 else Light.RED])
        self._bar(top + 44, "wheel", steer, advice[1], ROUTE)
        self.pen.text((180, top + 54), "| the expert", ADVICE, self.small)
        length = float(env.tables.route_length.take(env.state.clocks.route[row : row + 1]))
        share = min(1.0, float(ego.progress[row]) / length)
        self.pen.text((330, top + 10), f"route {share:.0%}", INK, self.small)
        light = int(env.observed_lights[row])
        if light in LAMPS:
            self.pen.ellipse((420, top + 11, 434, top + 25), LAMPS[Light(light)])
        counts = env.record.counts[row].tolist()
        wrong = [name for name, count in zip(WRONG, counts, strict=True) if count]
        said, colour = ("\n".join(wrong[:2]), LAMPS[Light.RED]) if wrong else ("arrived", LAMPS[Light.GREEN])
        if wrong or bool(env.record.arrived[row]):
            self.pen.text((330, top + 32), said, colour, self.small)

    def _bar(self, top: int, name: str, value: float, advised: float, colour: Colour) -> None:
        """Draw a bar from the middle, with a mark where the expert would have it."""
        left, right = 180, 310
        middle, half = (left + right) / 2, (right - left) / 2
        self.pen.text((128, top - 5), name, DIM, self.small)
        self.pen.rounded_rectangle((left, top, right, top + 8), 3, (52, 56, 62))
        ends = sorted((middle, middle + half * max(-1.0, min(1.0, value))))
        self.pen.rectangle((ends[0], top, ends[1] + 1, top + 8), colour)
        mark = middle + half * max(-1.0, min(1.0, advised))
        self.pen.rectangle((mark - 1, top - 3, mark + 1, top + 11), ADVICE)
