from typing import Literal

import numpy as np
import pytest
import torch

from palaestra.envs.check import check
from palaestra.envs.driving.arena import Arena, Control
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.lanes import Lane, LaneGraph, Route
from palaestra.envs.driving.rules import Infraction
from palaestra.envs.driving.world import WORLDS, DrivingEnv


def put_ego(world: DrivingEnv, station: float, speed: float) -> None:
    """Set every ego on the straight road."""
    cars = world.state.vehicles
    cars.x[:, 0], cars.speed[:, 0] = station, speed
    world.state.ego.pointer = torch.full_like(world.state.ego.pointer, int(station - 5))
    world.state.ego.progress = torch.full_like(world.state.ego.progress, station - 5)


def of_worlds(saved: dict[str, torch.Tensor], name: str, rows: list[int]) -> torch.Tensor:
    """Return some worlds' rows of a saved state's tensor."""
    worlds_second = name.startswith(("vehicles", "past"))
    return saved[name].index_select(int(worlds_second), torch.tensor(rows))


def actions(world: DrivingEnv, acceleration: float, steer: float = 0.0) -> torch.Tensor:
    return torch.tensor([[acceleration, steer]]).repeat(world.num_envs, 1)


def test_a_world_is_the_same_alone_and_among_others() -> None:
    many = DrivingEnv(count=64, maps="junctions", map_count=3)
    alone = DrivingEnv(count=1, maps="junctions", map_count=3)
    seen, _ = many.reset(seed=list(range(64)))
    mine, _ = alone.reset(seed=[37])
    assert torch.equal(seen[37], mine[0])
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        action = torch.rand(64, 2, generator=generator) * 2 - 1
        seen, reward, terminated, truncated, _ = many.step(action)
        mine, own_reward, own_terminated, own_truncated, _ = alone.step(action[37:38])
        assert torch.equal(seen[37], mine[0])
        assert reward[37] == own_reward[0]
        assert terminated[37] == own_terminated[0]
        assert truncated[37] == own_truncated[0]
    everything = many.state_dict()
    for name, tensor in alone.state_dict().items():
        if name not in ("cursor", "stream"):
            assert torch.equal(of_worlds(everything, name, [37]), tensor), name


def test_reset_starts_some_worlds_and_leaves_the_others_alone(road: Arena) -> None:
    world = DrivingEnv(count=4, maps=road, vehicles=5, walkers=2)
    world.reset(seed=[1, 2, 3, 4])
    for _ in range(20):
        world.step(actions(world, 0.5))
    before = world.state_dict()
    mask = torch.tensor([False, True, False, True])
    world.reset(seed=[9, 2, 9, 8], options={"reset_mask": mask})
    after = world.state_dict()
    fresh = DrivingEnv(count=2, maps=road, vehicles=5, walkers=2)
    fresh.reset(seed=[2, 8])
    for name, tensor in fresh.state_dict().items():
        if name != "cursor":
            assert torch.equal(of_worlds(after, name, [1, 3]), tensor), name
            assert torch.equal(of_worlds(after, name, [0, 2]), of_worlds(before, name, [0, 2])), name


def test_a_saved_state_goes_on_bit_for_bit() -> None:
    world = DrivingEnv(count=3, maps="priority", map_count=1, vehicles=6, walkers=3)
    world.reset(seed=5)
    for _ in range(10):
        world.step(actions(world, 0.3, 0.02))
    saved = world.state_dict()
    first = [world.step(actions(world, 0.3, -0.02))[0] for _ in range(10)][-1]
    world.load_state_dict(saved)
    second = [world.step(actions(world, 0.3, -0.02))[0] for _ in range(10)][-1]
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="of other worlds"):
        DrivingEnv(count=2, maps="priority", map_count=1, vehicles=6, walkers=3).load_state_dict(saved)


def test_running_a_red_light_is_counted_once(road: Arena) -> None:
    world = DrivingEnv(count=1, maps=road, vehicles=0, walkers=0, endings="evaluation")
    world.reset(seed=0)
    world.state.clocks.shift.fill_(25.0)  # red until 40 s
    put_ego(world, 140.0, 6.0)
    for _ in range(60):
        world.step(actions(world, 0.1))
    assert world.record.counts.tolist() == [[0, 0, 0, 1, 0]]


@pytest.mark.parametrize(("endings", "terminated"), [("train", True), ("endless", False), ("evaluation", True)])
def test_an_arrival_ends_an_episode_or_cuts_it_off(
    free_road: Arena, endings: Literal["train", "endless", "evaluation"], terminated: bool
) -> None:
    world = DrivingEnv(count=1, maps=free_road, vehicles=0, walkers=0, endings=endings)
    world.reset(seed=0)
    put_ego(world, 4.8 + 0.999 * float(world.tables.route_length[0]), 6.0)
    *_, ended, cut, info = world.step(actions(world, 0.1))
    assert bool(ended) == terminated and bool(cut) != terminated and bool(info["success"])


def test_endless_training_ends_at_an_infraction(road: Arena) -> None:
    world = DrivingEnv(count=1, maps=road, vehicles=0, walkers=0, endings="endless")
    world.reset(seed=0)
    world.state.clocks.shift.fill_(25.0)  # red until 40 s
    put_ego(world, 140.0, 6.0)
    ends = torch.stack([torch.stack(world.step(actions(world, 0.1))[2:4]) for _ in range(30)])
    assert ends[:, 0].any() and not ends[:, 1].any()


def test_passing_at_green_and_yellow_is_no_infraction(road: Arena) -> None:
    for seconds in (1.0, 17.5):
        world = DrivingEnv(count=1, maps=road, vehicles=0, walkers=0, endings="evaluation")
        world.reset(seed=0)
        world.state.clocks.shift.fill_(seconds)
        put_ego(world, 145.0, 6.0)
        for _ in range(20):
            world.step(actions(world, 0.1))
        assert world.record.counts.sum() == 0


@pytest.mark.parametrize(("stands", "expected"), [(False, 1.0), (True, 0.0)])
def test_a_stop_sign_wants_a_stop(stop_road: Arena, stands: bool, expected: float) -> None:
    world = DrivingEnv(count=1, maps=stop_road, vehicles=0, walkers=0, endings="evaluation")
    world.reset(seed=0)
    put_ego(world, 140.0, 6.0)
    for _ in range(200):
        world.step(expert_action(world) if stands else actions(world, 0.1))
    assert world.state.ego.progress[0] > 160
    assert world.record.counts[0, Infraction.STOP_SIGN] == expected


def test_a_long_contact_is_one_collision(free_road: Arena) -> None:
    world = DrivingEnv(count=1, maps=free_road, vehicles=1, walkers=0, endings="evaluation")
    world.reset(seed=0)
    put_ego(world, 50.0, 0.0)
    cars = world.state.vehicles

    def park(x: float) -> None:
        cars.lane[:, 1], cars.station[:, 1], cars.speed[:, 1] = 0, x, 0.0
        cars.stop_at[:, 1] = cars.odometer[:, 1]

    for x in (54.0, 54.0, 54.0, 120.0, 120.0, 54.0, 54.0):
        park(x)
        world.step(actions(world, -1.0))
    assert world.record.counts.tolist() == [[2, 0, 0, 0, 0]]


def test_a_reached_route_is_a_strict_success(road: Arena) -> None:
    world = DrivingEnv(count=2, maps=road, vehicles=0, walkers=4)
    world.reset(seed=[3, 4])
    put_ego(world, 205.0, 5.0)  # past the signal, before the crosswalk
    ends = 0
    for _ in range(world.max_episode_steps):
        _, reward, terminated, truncated, info = world.step(expert_action(world))
        assert (reward <= 1.0).all()
        for row in terminated.nonzero().flatten().tolist():
            ends += 1
            assert info["success"][row]
            assert info["metrics"]["route_completion"][row] >= 0.999
            assert info["metrics"]["driving_score"][row] == info["metrics"]["route_completion"][row]
        assert not truncated.any()
        if ends == 2:
            break
        world.reset(options={"reset_mask": terminated})
    assert ends == 2


def test_drivers_and_expert_stop_at_the_red_light(road: Arena) -> None:
    world = DrivingEnv(count=16, maps=road, vehicles=6, walkers=0, endings="evaluation", cruise=12.0)
    world.reset(seed=0)
    for step in range(240):
        world.state.clocks.shift[:] = 25.0 - 0.1 * step  # always red
        world.step(expert_action(world))
    cars = world.state.vehicles
    waits = (cars.lane % 4 < 4) & (world.arena.control[cars.lane] == Control.SIGNAL) & cars.alive
    front = cars.station + 0.5 * cars.length
    first = torch.where(waits & (front < 152), front, 0.0).amax(1)
    assert ((first > 147.0) & (first <= 150.0)).all()
    assert (cars.speed[waits & (front > 147.0)] < 0.2).all()
    assert world.record.counts.sum() == 0


def test_a_road_that_closes_in_on_itself_is_driven_beyond_one_lap() -> None:
    def half(begin: float) -> Lane:
        angle = np.linspace(begin, begin + np.pi, 50)
        return Lane(25.0 * np.stack((np.cos(angle), np.sin(angle)), 1), 10.0)

    graph = LaneGraph("ring", {"north": half(0.0), "south": half(np.pi)})
    graph.connect("north", "south")
    graph.connect("south", "north")
    graph.routes.append(Route(("north", "south", "north"), 5.0, 30.0))  # 182 m; a lap has 157
    world = DrivingEnv(count=2, maps=build_arena([graph]), vehicles=3, walkers=0)
    world.reset(seed=0)
    over, arrived = torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    for _ in range(400):
        _, _, terminated, _, info = world.step(expert_action(world))
        arrived |= info["success"] & ~over
        over |= terminated
    assert over.all() and arrived.all()


def test_ends_of_episodes(road: Arena) -> None:
    world = DrivingEnv(count=3, maps=road, vehicles=0, walkers=0, max_episode_steps=7)
    world.reset(seed=0)
    world.state.vehicles.y[0, 0] = -4.0  # off the road and too far from the route
    world.state.ego.still[1] = 89.95
    _, reward, terminated, truncated, _ = world.step(actions(world, 0.0))
    assert terminated.tolist() == [True, True, False]
    assert reward[0] < -2
    for _ in range(6):
        _, _, terminated, truncated, _ = world.step(actions(world, 0.0))
    assert truncated.tolist() == [False, False, True]


def test_bad_input(road: Arena) -> None:
    world = DrivingEnv(count=2, maps=road, vehicles=0, walkers=0)
    world.reset(seed=0)
    with pytest.raises(ValueError, match="row 1"):
        world.step(torch.tensor([[0.0, 0.0], [float("nan"), 0.0]]))
    with pytest.raises(ValueError, match=r"expected \[2, 2\]"):
        world.step(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="one seed a world"):
        world.reset(seed=[1])
    room = int(road.spawn_range[0, 1])
    with pytest.raises(ValueError, match=f"vehicles={room}"):
        DrivingEnv(maps=road, vehicles=room + 1)
    with pytest.raises(ValueError, match="'completion'"):
        DrivingEnv(maps=road, reward="speed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="walkers is -1"):
        DrivingEnv(maps=road, walkers=-1)
    with pytest.raises(ValueError, match="roundabout"):
        DrivingEnv(maps="roundabouts")


def test_actions_beyond_the_box_are_clipped(free_road: Arena) -> None:
    views = []
    for action in (1.0, 50.0):
        world = DrivingEnv(count=1, maps=free_road, vehicles=0, walkers=0)
        world.reset(seed=0)
        views.append(world.step(actions(world, action, -action))[0])
    assert torch.equal(*views)


def test_careless_policies_fail() -> None:
    generator = torch.Generator().manual_seed(0)
    for throttle in (False, True):
        world = DrivingEnv(count=32, maps="roundabout", map_count=1)
        world.reset(seed=0)
        score, over = torch.zeros(32), torch.zeros(32, dtype=torch.bool)
        for _ in range(100):
            action = torch.rand(32, 2, generator=generator) * 2 - 1
            if throttle:
                action = actions(world, 1.0)
            _, _, terminated, _, info = world.step(action)
            assert not (info["success"] & ~over).any()
            score = torch.where(over, score, info["metrics"]["driving_score"])
            over |= terminated
        assert score.mean() < 0.3
        if throttle:
            assert over.all()


def test_the_contract_is_kept() -> None:
    report = check("driving/roundabout-v0", turns=60, max_episode_steps=20, map_count=1)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("id", sorted(WORLDS))
def test_every_world_keeps_the_contract(id: str) -> None:
    report = check(id)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["highway", "arterial", "lane-drop", "signalised", "priority", "roundabout", "town"])
def test_the_expert_succeeds_on_test_maps(name: str) -> None:
    world = DrivingEnv(count=64, maps=name, split="test", map_count=4, cruise=15.0 if name == "highway" else 6.0)
    world.reset(seed=1000)
    over, success = torch.zeros(64, dtype=torch.bool), torch.zeros(64, dtype=torch.bool)
    for _ in range(world.max_episode_steps):
        _, _, terminated, truncated, info = world.step(expert_action(world))
        success |= info["success"] & ~over
        over |= terminated | truncated
        if over.all():
            break
    assert success.float().mean() >= 0.92  # 95 % is the aim; 64 episodes tell no better


@pytest.mark.slow
def test_a_compiled_step_drives_the_same() -> None:
    """But for the last bits of floats: compiling takes a minute."""
    plain, compiled = (DrivingEnv(count=16, maps="town", map_count=2, compiled=flag) for flag in (False, True))
    for world in (plain, compiled):
        world.reset(seed=4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        action = torch.rand(16, 2, generator=generator) * 2 - 1
        here, there = plain.step(action), compiled.step(action)
        assert (here[0] - there[0]).abs().max() < 1e-3  # type: ignore[operator]
        assert (here[1] - there[1]).abs().max() < 1e-3 and torch.equal(here[2], there[2])
