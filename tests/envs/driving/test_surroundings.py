import math

import torch

from palaestra.envs.driving.state import State, blank
from palaestra.envs.driving.surroundings import (
    WALKER,
    surroundings,
    time_to_collision,
    touches_vehicle,
    touches_walker,
)


def scene(worlds: int, generator: torch.Generator) -> State:
    """The ego at the origin and one other vehicle and walker near it, at random."""
    state = blank(worlds, 2, 1, "cpu")
    cars, walkers = state.vehicles, state.walkers
    cars.x[:], cars.y[:] = torch.rand(2, worlds, 2, generator=generator) * 10 - 5
    cars.yaw[:] = torch.rand(worlds, 2, generator=generator) * 2 * math.pi
    cars.cos[:], cars.sin[:] = torch.cos(cars.yaw), torch.sin(cars.yaw)
    walkers.x[:], walkers.y[:] = torch.rand(2, worlds, 1, generator=generator) * 8 - 4
    return state


def inside(state: State, column: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Whether points [W, n] lie in a vehicle's box."""
    cars = state.vehicles
    away_x, away_y = x - cars.x[:, column, None], y - cars.y[:, column, None]
    cos, sin = cars.cos[:, column, None], cars.sin[:, column, None]
    ahead, aside = away_x * cos + away_y * sin, away_y * cos - away_x * sin
    return (ahead.abs() <= cars.length[:, column, None] / 2) & (aside.abs() <= cars.width[:, column, None] / 2)


def test_boxes_touch_where_a_point_lies_in_both() -> None:
    state = scene(400, torch.Generator().manual_seed(0))
    cars = state.vehicles
    grid = torch.stack(torch.meshgrid(torch.linspace(-0.5, 0.5, 91), torch.linspace(-0.5, 0.5, 39), indexing="ij"))
    along, across = (part.flatten() for part in grid)
    ahead, aside = along * cars.length[:, :1], across * cars.width[:, :1]
    x = cars.x[:, :1] + ahead * cars.cos[:, :1] - aside * cars.sin[:, :1]
    y = cars.y[:, :1] + ahead * cars.sin[:, :1] + aside * cars.cos[:, :1]
    brute = inside(state, 1, x, y).any(1)
    found = touches_vehicle(state, surroundings(state))
    assert 40 < int(found.sum()) < 360
    assert not (brute & ~found).any()
    assert int((found & ~brute).sum()) <= 4  # corners that the 5 cm grid steps over


def test_a_walker_is_a_circle() -> None:
    state = scene(500, torch.Generator().manual_seed(1))
    angle = torch.linspace(0, 2 * math.pi, 181)
    radius = torch.linspace(0, WALKER, 15)[:, None]
    x = (state.walkers.x[..., None] + radius * torch.cos(angle)).flatten(1)
    y = (state.walkers.y[..., None] + radius * torch.sin(angle)).flatten(1)
    brute = inside(state, 0, x, y).any(1)
    found = touches_walker(state, surroundings(state))
    assert 40 < int(found.sum()) < 460
    assert not (brute & ~found).any()
    assert int((found & ~brute).sum()) <= 4


def test_who_does_not_exist_touches_nobody() -> None:
    state = blank(2, 3, 2, "cpu")
    state.vehicles.x[:, 0] = state.vehicles.y[:, 0] = 0.0
    around = surroundings(state)
    assert not touches_vehicle(state, around).any()
    assert not touches_walker(state, around).any()
    assert torch.isinf(time_to_collision(state, around)).all()


def test_time_to_collision_is_gap_over_closing_speed() -> None:
    state = blank(3, 2, 0, "cpu")
    cars = state.vehicles
    cars.x[:, 0] = cars.y[:, 0] = cars.y[:, 1] = 0.0
    cars.x[:, 1] = 24.5
    cars.speed[:] = torch.tensor([[10.0, 5.0], [5.0, 10.0], [10.0, 5.0]])
    cars.y[2, 1] = 3.0
    times = time_to_collision(state, surroundings(state))
    assert times[0] == 4.0
    assert torch.isinf(times[1:]).all()
