import math

import pytest
import torch

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.state import DT, State, blank
from palaestra.envs.driving.tables import tabulate
from palaestra.envs.driving.traffic import (
    EMERGENCY,
    PUSH,
    SLOW,
    acceleration,
    desired_speed,
    drive,
    headway,
    lane_rows,
    pressure,
    standstill,
)
from palaestra.envs.driving.turns import take_turn
from palaestra.envs.driving.watch import find_leader, look, slots_of
from palaestra.envs.driving.world import DrivingEnv


def convoy(stations: list[float], speeds: list[float], lanes: list[int] | None = None) -> State:
    """Drivers on the straight road, numbers 1, 2, ...; the ego is away."""
    count = len(stations)
    state = blank(1, count + 1, 0, "cpu")
    cars = state.vehicles
    cars.alive[:, 1:] = True
    cars.station[0, 1:] = torch.tensor(stations)
    cars.speed[0, 1:] = torch.tensor(speeds)
    cars.lane[0, 1:] = torch.tensor(lanes or [0] * count)
    cars.allowed[:, 1:] = 12.0
    return state


def scalar_idm(speed: float, desired: float, gap: float, closing: float, keep: float, distance: float) -> float:
    wish = distance + max(0.0, speed * keep + speed * closing / (2 * math.sqrt(PUSH * SLOW)))
    return min(max(PUSH * (1 - (speed / desired) ** 4 - (wish / max(gap, 0.1)) ** 2), -EMERGENCY), PUSH)


def test_following_settles_at_the_closed_form_gap() -> None:
    """(s0 + v T) / √(1 - (v / v0)⁴) for a leader of constant speed v."""
    speed, gap, desired, lead = torch.tensor(8.0), torch.tensor(60.0), torch.tensor(12.0), 9.0
    zero = torch.tensor(0.0)
    for _ in range(3000):
        push = acceleration(speed, desired, pressure(speed, gap, speed - lead, headway(zero), standstill(zero)))
        gap = gap - (speed - lead) * DT
        speed = speed + push * DT
    assert abs(float(speed) - lead) < 1e-3
    assert abs(float(gap) - (5.0 + 1.5 * lead) / math.sqrt(1 - (lead / 12.0) ** 4)) < 0.02


def test_a_thousand_steps_of_a_convoy_equal_the_scalar_model(free_road: Arena) -> None:
    tables = tabulate(free_road)
    generator = torch.Generator().manual_seed(0)
    checked = 0
    for _ in range(50):
        state = convoy([10.0, 22.0, 40.0], (torch.rand(3, generator=generator) * 12).tolist())
        cars = state.vehicles
        cars.temper[0, 1:] = torch.rand(3, generator=generator) * 2 - 1
        slots = torch.tensor([[1, 2, 3]])
        for step in range(20):
            rows = lane_rows(state, tables)
            if step % 4 == 0:
                look(state, free_road, tables, rows, slots, torch.zeros(1, 3))
            before = {name: getattr(cars, name)[0].tolist() for name in ("speed", "station", "odometer", "length")}
            drive(state, tables, rows)
            for car in (1, 2, 3):
                temper, speed = float(cars.temper[0, car]), before["speed"][car]
                push = scalar_idm(speed, 12.0 * (1 + 0.12 * temper), math.inf, 0.0, 1.5, 5.0)
                if car < 3:
                    half = (before["length"][car] + before["length"][car + 1]) / 2
                    gap = before["station"][car + 1] - before["station"][car] - half
                    closing = speed - before["speed"][car + 1]
                    wishes = (1.5 - 0.5 * temper, 5.0 - 2.0 * temper)
                    push = scalar_idm(speed, 12.0 * (1 + 0.12 * temper), gap, closing, *wishes)
                push = max(push, -speed / DT)
                assert abs(float(cars.acceleration[0, car]) - push) < 2e-3
                assert abs(float(cars.speed[0, car]) - (speed + DT * push)) < 2e-4
                way = (speed + DT * push / 2) * DT
                assert abs(float(cars.station[0, car]) - before["station"][car] - way) < 1e-4
                checked += 1
    assert checked == 3000


def test_tempers_differ() -> None:
    timid, bold = torch.tensor(-1.0), torch.tensor(1.0)
    assert headway(timid) == 2.0
    assert headway(bold) == 1.0
    assert standstill(timid) == 7.0
    assert standstill(bold) == 3.0
    assert desired_speed(torch.tensor(10.0), bold) == pytest.approx(11.2)


def test_the_leader_is_found_across_lanes_and_when_it_cuts_in(free_road: Arena) -> None:
    tables = tabulate(free_road)
    b0 = 1  # lanes are a0, b0, a1, b1
    state = convoy([140.0, 20.0, 100.0, 200.0, 60.0], [5.0] * 5, [0, b0, 2, 0, 0])
    cars = state.vehicles
    cars.station[0, 4] = 120.0  # number 4 on a0
    look(state, free_road, tables, lane_rows(state, tables), torch.tensor([[1, 2, 3, 4, 5]]), torch.zeros(1, 5))
    assert cars.leader[0, 1:].tolist() == [2, 2, 3, 1, 4]
    assert float(cars.leader_gap[0, 1]) == pytest.approx(30.0 - 4.5)
    assert torch.isinf(cars.leader_gap[0, 2])
    cars.beside[0, 3], cars.beside_scale[0, 3] = 0, 1.0  # number 3 cuts in before number 5
    look(state, free_road, tables, lane_rows(state, tables), torch.tensor([[5]]), torch.zeros(1, 1))
    assert cars.leader[0, 5] == 3
    assert find_leader.__doc__


def test_a_held_gap_changes_by_the_odometers(free_road: Arena) -> None:
    tables = tabulate(free_road)
    state = convoy([20.0, 60.0], [8.0, 6.0])
    cars = state.vehicles
    look(state, free_road, tables, lane_rows(state, tables), torch.tensor([[1, 2]]), torch.zeros(1, 2))
    for _ in range(10):
        drive(state, tables, lane_rows(state, tables))
        gap = cars.leader_gap[0, 1] + cars.odometer[0, 2] - cars.odometer[0, 1]
        assert float(gap) == pytest.approx(float(cars.station[0, 2] - cars.station[0, 1]) - 4.5, abs=1e-4)


def test_a_faster_driver_overtakes_and_a_tight_gap_is_left_alone(free_road: Arena) -> None:
    tables = tabulate(free_road)
    for blocked in (False, True):
        state = convoy([30.0, 48.0, 30.0], [11.0, 2.0, 11.0], [0, 0, 2 if blocked else 3])
        cars = state.vehicles
        look(state, free_road, tables, lane_rows(state, tables), torch.tensor([[1, 2]]), torch.zeros(1, 2))
        cars.leader_gap[0, 1] += 20.0  # room to pull out
        drive(state, tables, lane_rows(state, tables))
        take_turn(state, free_road, tables, torch.tensor([[1]]), torch.zeros(1, 1))
        assert int(cars.lane[0, 1]) == (0 if blocked else 2)
        if not blocked:
            assert int(cars.beside[0, 1]) == 0
            assert float(cars.offset[0, 1]) == pytest.approx(-3.5)
            y = float(cars.y[0, 1])
            for _ in range(40):
                drive(state, tables, lane_rows(state, tables))
                assert 0 <= float(cars.y[0, 1]) - y < 0.2  # no jumps
                y = float(cars.y[0, 1])
            assert y == pytest.approx(3.5, abs=0.3)


def test_drivers_leave_the_map_and_come_back_out_of_sight(free_road: Arena) -> None:
    world = DrivingEnv(count=8, maps=free_road, vehicles=4, walkers=0, endings="evaluation")
    world.reset(seed=0)
    cars = world.state.vehicles
    alive = [cars.alive[:, 1:].clone()]
    for _ in range(400):
        world.step(torch.zeros(8, 2))
        born = cars.alive[:, 1:] & ~alive[-1]
        away = (cars.station[:, 1:] + 150.0 * (cars.lane[:, 1:] % 2) - cars.x[:, :1]).abs()
        assert (away[born] > 59).all()
        alive.append(cars.alive[:, 1:].clone())
    seen = torch.stack(alive)
    assert (~seen).any()
    assert (seen[1:] & ~seen[:-1]).any()
    gone = ~cars.alive
    assert (cars.x[gone] > 9e4).all()


def test_every_driver_looks_in_turn() -> None:
    seen = torch.cat([slots_of(torch.tensor([tick]), 15, 2)[0] for tick in range(15)])
    assert sorted(seen.tolist()) == sorted([*range(1, 16)] * 2)


def overlaps(world: DrivingEnv) -> torch.Tensor:
    """Return which pairs of drivers overlap by more than a hand's breadth, [W, A, A]."""
    cars = world.state.vehicles
    x, y, cos, sin = (field[:, 1:] for field in (cars.x, cars.y, cars.cos, cars.sin))
    long, wide = cars.length[:, 1:] / 2 - 0.1, cars.width[:, 1:] / 2 - 0.1
    away = torch.stack((x[:, None] - x[..., None], y[:, None] - y[..., None]))
    ahead = away[0] * cos[..., None] + away[1] * sin[..., None]
    aside = away[1] * cos[..., None] - away[0] * sin[..., None]
    c = (cos[:, None] * cos[..., None] + sin[:, None] * sin[..., None]).abs()
    s = (sin[:, None] * cos[..., None] - cos[:, None] * sin[..., None]).abs()
    meets = (ahead.abs() < long[..., None] + long[:, None] * c + wide[:, None] * s) & (
        aside.abs() < wide[..., None] + long[:, None] * s + wide[:, None] * c
    )
    alive = cars.alive[:, 1:]
    return meets & meets.transpose(1, 2) & torch.ones_like(meets[0]).triu(1) & alive[:, None] & alive[..., None]


def test_drivers_alone_do_not_collide_in_a_minute() -> None:
    world = DrivingEnv(count=16, maps="mixed", map_count=7, endings="evaluation", walkers=4)
    world.reset(seed=3)
    cars = world.state.vehicles
    before = torch.zeros_like(overlaps(world))
    collisions, speed = 0, 0.0
    for _ in range(600):
        world._traffic()
        cars.x[:, 0], cars.alive[:, 0] = 9e4, False
        now = overlaps(world)
        collisions += int((now & ~before).sum())
        before = now
        speed += float(cars.speed[:, 1:].mean()) / 600
    assert collisions <= 1  # in 4 hours of driving
    assert speed > 3.0  # and they do drive
