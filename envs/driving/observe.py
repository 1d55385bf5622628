"""The state vector: Found-RL's ten numbers, then enough of the road and of others to drive without pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.arena import SPACING, Command, Control
from palaestra.envs.driving.dynamics import AXLE
from palaestra.envs.driving.rewards import LIGHT_SIGHT
from palaestra.envs.driving.state import Light, State
from palaestra.envs.driving.surroundings import Surroundings
from palaestra.envs.driving.tables import POINTS_AHEAD, OfRoute, Tables

NEAREST, NEAREST_WALKERS = 6, 3
"""How many others the vector holds."""
SIGN_SIGHT = 10.0
"""Metres within which a stop sign counts as reached in Found-RL's state."""
FOUND_RL = 10
"""How many numbers Found-RL's state has."""
ROAD = 8 + len(Command)
"""How many numbers tell of the ego on its road."""
WIDTH = FOUND_RL + ROAD + 2 * len(POINTS_AHEAD) + 6 * NEAREST + 4 * NEAREST_WALKERS
"""How many numbers the vector has."""


def observe(
    state: State, tables: Tables, around: Surroundings, row: Tensor, light: Tensor, rest: Tensor
) -> Tensor:
    """Return the state vector, [W, WIDTH] float32.

    In order: Found-RL's state (see `found_rl_state`); the road (lateral offset / 2 m, heading error, yaw rate, allowed
    speed / 10, limit / 10, metres to the next line / 50, metres to the next crosswalk / 50, steering; one-hot
    command); route points ahead (x, y in the ego's frame, / 20 m); the nearest vehicles (there is one, forward / 30,
    left / 10, cos and sin of the relative yaw, its speed / 10); the nearest walkers (there is one, forward / 20,
    left / 10, on the road).

    Args:
        state: Worlds.
        tables: Of the arena.
        around: The egos' surroundings.
        row: [W, 23] the routes' rows.
        light: [W] int64, a `Light`: what the next signal shows.
        rest: [W] float32: the share of that phase that is still to come.
    """
    return torch.cat(
        (
            found_rl_state(state, row, light, rest),
            _road(state, row),
            _points(state, tables),
            _vehicles(state, around),
            _walkers(state, around),
        ),
        1,
    )


def found_rl_state(state: State, row: Tensor, light: Tensor, rest: Tensor) -> Tensor:
    """Return Found-RL's ten numbers, [W, 10] float32.

    Throttle, steer, brake, gear / 5 (of speed alone: one more every 5 m/s), speed forward and to the left (m/s), the
    light within 18 m (a `Light`), clip(d - 5, 0, 5) / 5 for its distance d (-1 if green or none), the share of its
    phase that is left (-1 if none), and whether a stop sign is within 10 m.
    """
    ego, speed = state.ego, state.vehicles.speed[:, 0]
    line = row[:, OfRoute.LINE] - ego.progress
    shown = torch.where(line < LIGHT_SIGHT, light, 0)
    stops = shown.eq(Light.RED) | shown.eq(Light.YELLOW)
    sign = row[:, OfRoute.CONTROL].eq(Control.STOP) & (line < SIGN_SIGHT) & (line > 0)
    gear = ((speed * 0.2).floor() + (speed > 0.1)).clamp(max=5) * 0.2
    numbers = (
        ego.pedal.clamp(min=0),
        ego.steer,
        (-ego.pedal).clamp(min=0),
        gear,
        speed,
        ego.yaw_rate * AXLE,
        shown.float(),
        torch.where(stops, (line - 5).clamp(0, 5) / 5, -1.0),
        torch.where(shown > 0, rest, -1.0),
        sign.float(),
    )
    return torch.stack(numbers, 1)


def _road(state: State, row: Tensor) -> Tensor:
    ego = state.ego
    numbers = torch.stack(
        (
            0.5 * ego.lateral,
            ego.heading,
            ego.yaw_rate,
            0.1 * row[:, OfRoute.SPEED],
            0.1 * row[:, OfRoute.LIMIT],
            ((row[:, OfRoute.LINE] - ego.progress) / 50).clamp(0, 1),
            ((row[:, OfRoute.CROSSWALK_AT] - ego.progress) / 50).clamp(0, 1),
            ego.action[:, 1],
        ),
        1,
    )
    commands = torch.arange(len(Command), device=row.device)
    return torch.cat((numbers, (row[:, OfRoute.COMMAND, None] == commands).float()), 1)


def _points(state: State, tables: Tables) -> Tensor:
    """Return the route's points ahead, [W, 2 * points]; beyond its end it goes on straight, so that none shows."""
    cars, route = state.vehicles, state.clocks.route
    ahead = state.ego.pointer[:, None] + tables.points_ahead
    first = (route * tables.most)[:, None]
    index = ahead.clamp(max=tables.most - 1) + first
    point = tables.route_points.index_select(0, index.flatten()).view(*index.shape, 2)
    beyond = (ahead * SPACING - tables.route_length.take(route)[:, None]).clamp(min=0)
    yaw = tables.routes[first + tables.most - 1, OfRoute.YAW]
    x = point[..., 0] + beyond * torch.cos(yaw) - cars.x[:, :1]
    y = point[..., 1] + beyond * torch.sin(yaw) - cars.y[:, :1]
    cos, sin = cars.cos[:, :1], cars.sin[:, :1]
    return torch.cat((x * cos + y * sin, y * cos - x * sin), 1) * 0.05


def _vehicles(state: State, around: Surroundings) -> Tensor:
    cars = state.vehicles
    square = around.forward.square() + around.left.square()
    near = min(NEAREST, square.shape[1])
    found, index = square.topk(near, dim=1, largest=False)
    there = found < 100.0**2
    values = (
        torch.ones_like(found),
        around.forward.gather(1, index) / 30,
        around.left.gather(1, index) / 10,
        around.cos.gather(1, index),
        around.sin.gather(1, index),
        cars.speed.gather(1, index) * 0.1,
    )
    numbers = torch.stack(values, 2) * there[..., None]
    return _padded(numbers, NEAREST)


def _walkers(state: State, around: Surroundings) -> Tensor:
    square = around.walker_forward.square() + around.walker_left.square()
    found, index = square.topk(min(NEAREST_WALKERS, square.shape[1]), dim=1, largest=False)
    values = (
        torch.ones_like(found),
        around.walker_forward.gather(1, index) / 20,
        around.walker_left.gather(1, index) / 10,
        state.walkers.walking.gather(1, index).float(),
    )
    numbers = torch.stack(values, 2) * (found < 50.0**2)[..., None]
    return _padded(numbers, NEAREST_WALKERS)


def _padded(numbers: Tensor, count: int) -> Tensor:
    """Return [W, n, F] flat, with rows of zeros up to `count`."""
    missing = count - numbers.shape[1]
    flat = numbers.flatten(1)
    return torch.nn.functional.pad(flat, (0, missing * numbers.shape[2])) if missing else flat
