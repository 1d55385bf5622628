import torch

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.state import DT
from palaestra.envs.driving.walkers import FASTEST, SLOWEST, walk
from palaestra.envs.driving.world import DrivingEnv


def world_of_walkers(road: Arena, walkers: int = 6) -> DrivingEnv:
    world = DrivingEnv(count=4, maps=road, vehicles=0, walkers=walkers)
    world.reset(seed=0)
    return world


def test_walkers_cross_at_their_pace_and_rest_at_the_kerbs(road: Arena) -> None:
    world = world_of_walkers(road)
    state, walkers = world.state, world.state.walkers
    crossed = torch.zeros(4, 6)
    for tick in range(1500):
        state.clocks.tick.fill_(tick)
        before, walking = torch.stack((walkers.x, walkers.y)), walkers.walking.clone()
        walk(state, world.tables, torch.full((4,), 0.001))
        moved = (torch.stack((walkers.x, walkers.y)) - before).square().sum(0).sqrt() / DT
        assert (moved[~walking & ~walkers.walking] == 0).all()
        assert (moved <= FASTEST + 1e-3).all()
        inside = walkers.walking & walking
        assert (moved[inside] >= SLOWEST - 1e-3).all()
        assert ((walkers.share == 0) | (walkers.share == 1) | walkers.walking).all()
        crossed += walking & ~walkers.walking
    assert (crossed > 5).all()
    assert torch.allclose(walkers.x, torch.tensor(220.0), atol=1e-3)


def test_nobody_steps_before_a_fast_car(road: Arena) -> None:
    for speed, expected in ((12.0, False), (0.0, True)):
        world = world_of_walkers(road, walkers=1)
        state = world.state
        state.vehicles.x[:, 0], state.vehicles.speed[:, 0] = 180.0, speed
        walk(state, world.tables, torch.zeros(4))
        assert (state.walkers.walking == expected).all()


def test_drivers_let_walkers_cross(road: Arena) -> None:
    world = DrivingEnv(count=8, maps=road, vehicles=6, walkers=2, endings="evaluation")
    world.reset(seed=0)
    state, cars = world.state, world.state.vehicles
    cars.y[:, 0] = -60.0
    for step in range(250):
        state.walkers.share.fill_(0.5)  # they stand on the crosswalk
        state.walkers.walking.fill_(True)
        world._traffic()
        state.clocks.shift.fill_(-0.1 * step)  # always green
    front = torch.where(cars.alive & (cars.lane % 2 == 1), cars.station + 0.5 * cars.length, 0.0)
    before = (front > 0) & (front < 75)
    assert before.any()
    assert (front[before] < 69.5).all()  # the crosswalk is at 70
    assert (cars.speed[before & (front > 60)] < 0.5).all()


def test_maps_without_crosswalks_have_no_walkers(free_road: Arena) -> None:
    world = DrivingEnv(count=2, maps=free_road, vehicles=2, walkers=5)
    world.reset(seed=0)
    for _ in range(5):
        observation, *_ = world.step(torch.zeros(2, 2))
    assert not world.state.walkers.alive.any()
    assert (world.state.walkers.x > 9e4).all()
    assert torch.isfinite(observation).all()
