import pytest
import torch

from palaestra.envs.driving.arena import Arena, Command
from palaestra.envs.driving.dynamics import AXLE
from palaestra.envs.driving.observe import FOUND_RL, NEAREST, ROAD, WIDTH
from palaestra.envs.driving.tables import POINTS_AHEAD
from palaestra.envs.driving.world import DrivingEnv

POINTS = FOUND_RL + ROAD
VEHICLES = POINTS + 2 * len(POINTS_AHEAD)
WALKERS = VEHICLES + 6 * NEAREST


def seen(world: DrivingEnv) -> torch.Tensor:
    """What the worlds show as they are."""
    shown = world.observe()
    assert isinstance(shown, torch.Tensor)
    return shown


def test_found_rls_ten_numbers(road: Arena) -> None:
    world = DrivingEnv(count=2, maps=road, vehicles=0, walkers=0)
    world.reset(seed=0)
    state, ego = world.state, world.state.ego
    state.clocks.shift.fill_(30.0)  # red for 10 s of 20 s more
    ego.pedal, ego.steer = torch.tensor([0.5, -0.25]), torch.tensor([0.1, -0.1])
    ego.yaw_rate = torch.tensor([0.2, 0.0])
    state.vehicles.speed[:, 0] = torch.tensor([7.0, 0.0])
    ego.pointer = torch.tensor([137, 20])
    ego.progress = torch.tensor([137.0, 20.0])
    observation = seen(world)
    line = float(world.tables.routes[137, 10]) - 137.0
    near = [0.5, 0.1, 0.0, 0.4, 7.0, 0.2 * AXLE, 1.0, (line - 5) / 5, 0.5, 0.0]
    far = [0.0, -0.1, 0.25, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0]
    assert torch.allclose(observation[:, :FOUND_RL], torch.tensor([near, far]), atol=1e-4)


def test_a_stop_sign_shows_within_ten_metres(stop_road: Arena) -> None:
    world = DrivingEnv(count=3, maps=stop_road, vehicles=0, walkers=0)
    world.reset(seed=0)
    world.state.ego.progress = torch.tensor([130.0, 137.0, 146.0])
    world.state.ego.pointer = torch.tensor([130, 137, 146])
    assert seen(world)[:, 9].tolist() == [0.0, 1.0, 0.0]


def test_road_points_vehicles_and_walkers_are_in_the_egos_frame(road: Arena) -> None:
    world = DrivingEnv(count=1, maps=road, vehicles=8, walkers=1)
    world.reset(seed=0)
    state, cars = world.state, world.state.vehicles
    cars.x[:, 1:] = cars.y[:, 1:] = 9e4
    cars.x[0, 0], cars.y[0, 0], cars.yaw[0, 0], cars.cos[0, 0], cars.sin[0, 0] = 5.0, 0.0, torch.pi / 2, 0.0, 1.0
    cars.x[0, 3], cars.y[0, 3], cars.cos[0, 3], cars.sin[0, 3], cars.speed[0, 3] = 2.0, 15.0, 0.0, 1.0, 4.0
    state.walkers.x[0, 0], state.walkers.y[0, 0] = 9.0, 0.0
    state.walkers.walking.fill_(True)
    view = seen(world)[0]
    assert len(view) == WIDTH
    assert view[FOUND_RL + 8 + Command.FOLLOW] == 1.0
    assert view[FOUND_RL + 8 : POINTS].sum() == 1.0
    ahead = torch.tensor(POINTS_AHEAD) / 20
    assert torch.allclose(view[POINTS : POINTS + 8], torch.zeros(8), atol=1e-3)
    assert torch.allclose(view[POINTS + 8 : VEHICLES], -ahead, atol=1e-3)  # to the right
    assert torch.allclose(view[VEHICLES : VEHICLES + 6], torch.tensor([1.0, 0.5, 0.3, 1.0, 0.0, 0.4]), atol=1e-5)
    assert not view[VEHICLES + 6 : WALKERS].any()
    assert torch.allclose(view[WALKERS : WALKERS + 4], torch.tensor([1.0, 0.0, -0.4, 1.0]), atol=1e-5)
    assert not view[WALKERS + 4 :].any()


def test_a_route_goes_on_straight_beyond_its_end(free_road: Arena) -> None:
    world = DrivingEnv(count=3, maps=free_road, vehicles=0, walkers=0)
    world.reset(seed=0)
    ends = int(world.tables.route_length[0])
    at = torch.tensor([ends, ends - 7, 100])
    world.state.vehicles.x[:, 0] = world.tables.route_points[at, 0]
    world.state.ego.pointer = at
    view = seen(world)[:, POINTS:VEHICLES]
    assert torch.allclose(view[:, :8], torch.tensor(POINTS_AHEAD) / 20, atol=1e-4)
    assert torch.allclose(view[:, 8:], torch.zeros(3, 8), atol=1e-4)


@pytest.mark.parametrize(("vehicles", "walkers"), [(0, 0), (1, 0), (3, 2), (12, 9)])
def test_the_vector_is_as_wide_for_any_number_of_others(road: Arena, vehicles: int, walkers: int) -> None:
    world = DrivingEnv(count=2, maps=road, vehicles=vehicles, walkers=walkers)
    world.reset(seed=0)
    observation, reward, *_ = world.step(torch.zeros(2, 2))
    assert observation.shape == (2, WIDTH)
    assert torch.isfinite(observation).all()
    assert torch.isfinite(reward).all()
