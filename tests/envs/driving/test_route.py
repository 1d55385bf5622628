import math

import pytest
import torch

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.route import follow
from palaestra.envs.driving.tables import OfRoute
from palaestra.envs.driving.world import DrivingEnv


def test_progress_offset_and_heading_are_measured(road: Arena) -> None:
    world = DrivingEnv(count=1, maps=road, vehicles=0, walkers=0)
    world.reset(seed=0)
    cars, ego = world.state.vehicles, world.state.ego
    for x in range(6, 60):
        cars.x[0, 0], cars.y[0, 0], cars.yaw[0, 0] = x + 0.3, 0.4, -0.2
        row = follow(world.state, world.tables)
    assert float(ego.progress) == pytest.approx(54.3, abs=0.1)  # the route begins at x = 5
    assert float(ego.lateral) == pytest.approx(0.4, abs=1e-5)
    assert float(ego.heading) == pytest.approx(-0.2, abs=1e-5)
    assert int(row[0, OfRoute.LANE]) == int(cars.lane[0, 0]) == 0
    assert float(cars.station[0, 0]) == pytest.approx(59.3, abs=0.1)
    cars.x[0, 0] = 55.0
    follow(world.state, world.tables)
    assert float(ego.progress) == pytest.approx(54.3, abs=0.1)  # what is reached stays reached


def test_the_search_stays_in_its_window() -> None:
    """Routes may come near themselves: the ego is not carried to a later part that it happens to be close to."""
    world = DrivingEnv(count=64, maps="town", map_count=2, vehicles=0, walkers=0)
    world.reset(seed=0)
    state, tables = world.state, world.tables
    length = tables.route_length[state.clocks.route]
    for step in range(0, int(length.max()), 2):
        at = torch.full((64,), step).minimum(length.long()) + state.clocks.route * tables.most
        point = tables.routes[at]
        state.vehicles.x[:, 0], state.vehicles.y[:, 0] = point[:, OfRoute.X], point[:, OfRoute.Y]
        state.vehicles.yaw[:, 0] = point[:, OfRoute.YAW]
        follow(state, tables)
        assert torch.allclose(state.ego.progress, torch.full((64,), float(step)).minimum(length), atol=0.51)
        assert float(state.ego.lateral.abs().max()) < 0.1
        assert float(state.ego.heading.abs().max()) < 0.1


def test_traffic_sees_an_ego_that_leaves_its_lane(road: Arena) -> None:
    world = DrivingEnv(count=3, maps=road, vehicles=0, walkers=0)
    world.reset(seed=0)
    cars = world.state.vehicles
    cars.y[:, 0] = torch.tensor([0.0, 1.2, -1.2])
    cars.x[:, 0] = 8.0
    follow(world.state, world.tables)
    assert cars.beside[:, 0].tolist() == [-1, 2, -1]  # a1 lies to the left, nothing to the right
    assert math.isclose(float(cars.offset[1, 0]), 1.2, rel_tol=1e-5)
