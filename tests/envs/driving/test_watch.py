import pytest
import torch

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.maps import suite
from palaestra.envs.driving.state import State, blank
from palaestra.envs.driving.tables import Tables, tabulate
from palaestra.envs.driving.traffic import drive, lane_rows
from palaestra.envs.driving.watch import look


@pytest.fixture(scope="module")
def crossing() -> tuple[Arena, Tables]:
    arena = build_arena(suite("priority", "train", 1))
    return arena, tabulate(arena)


def meeting(arena: Arena) -> tuple[int, int, int, int, int]:
    """Return the slot of a conflict in which one lane waits, both lanes, and a lane before each."""
    before = {int(after): lane for lane, row in enumerate(arena.successors) for after in row if after >= 0}
    for lane in range(len(arena.length)):
        for slot in range(arena.conflict.shape[1]):
            other = int(arena.conflict[lane, slot])
            crosses = other >= 0 and arena.conflict_here[lane, slot, 0] > 6
            if crosses and arena.gives_way[lane, slot] and before[lane] != before[other]:
                return slot, lane, other, before[lane], before[other]
    raise AssertionError("no conflict")


def drivers(arena: Arena, places: list[tuple[int, int, float, float]]) -> State:
    """Drivers 1, 2, ...: lane, next lane, station, speed."""
    state = blank(1, len(places) + 1, 0, "cpu")
    cars = state.vehicles
    cars.alive[:, 1:] = cars.halted[:, 1:] = True
    for number, (lane, following, station, speed) in enumerate(places, 1):
        cars.lane[0, number], cars.following[0, number] = lane, following
        cars.station[0, number], cars.speed[0, number] = station, speed
        cars.allowed[0, number] = 8.0
    return state


def stop_of(state: State, number: int) -> float:
    return float(state.vehicles.stop_at[0, number] - state.vehicles.odometer[0, number])


def glance(state: State, arena: Arena, tables: Tables) -> None:
    count = state.vehicles.x.shape[1] - 1
    slots = torch.arange(1, count + 1)[None]
    for _ in range(2):  # one learns from the other whether it comes
        look(state, arena, tables, lane_rows(state, tables), slots, torch.zeros(1, count))


def test_who_gives_way_waits_at_the_line_until_the_other_is_through(crossing: tuple[Arena, Tables]) -> None:
    arena, tables = crossing
    _, lane, other, before, before_other = meeting(arena)
    length, length_other = float(arena.length[before]), float(arena.length[before_other])
    near = drivers(arena, [(before, lane, length - 15, 6.0), (before_other, other, length_other - 12, 8.0)])
    glance(near, arena, tables)
    assert stop_of(near, 1) == pytest.approx(15 - 2.25, abs=0.01)
    assert torch.isinf(near.vehicles.stop_at[0, 2])
    far = drivers(arena, [(before, lane, length - 4, 6.0), (before_other, other, length_other - 90, 6.0)])
    glance(far, arena, tables)
    assert torch.isinf(far.vehicles.stop_at[0, 1])


def test_nobody_drives_into_a_stretch_that_is_taken(crossing: tuple[Arena, Tables]) -> None:
    arena, tables = crossing
    slot, lane, other, _, before_other = meeting(arena)
    station = float(arena.conflict_here[lane, slot].mean())
    length = float(arena.length[before_other])
    state = drivers(arena, [(lane, -1, station, 0.0), (before_other, other, length - 20, 7.0)])
    glance(state, arena, tables)
    assert torch.isinf(state.vehicles.stop_at[0, 1])  # it is in it, and leaves
    assert stop_of(state, 2) == pytest.approx(20 - 2.25, abs=0.01)


def test_both_get_through_without_touching(crossing: tuple[Arena, Tables]) -> None:
    arena, tables = crossing
    _, lane, other, before, before_other = meeting(arena)
    for away in (5.0, 15.0, 25.0, 40.0):
        state = drivers(
            arena,
            [
                (before, lane, float(arena.length[before]) - 20, 6.0),
                (before_other, other, float(arena.length[before_other]) - away, 8.0),
            ],
        )
        nearest = torch.inf
        for step in range(250):
            rows = lane_rows(state, tables)
            if step % 8 == 0:
                look(state, arena, tables, rows, torch.tensor([[1, 2]]), torch.zeros(1, 2))
            drive(state, tables, rows)
            cars = state.vehicles
            if cars.alive[0, 1:].all():
                nearest = min(nearest, float(torch.hypot(cars.x[0, 1] - cars.x[0, 2], cars.y[0, 1] - cars.y[0, 2])))
        assert nearest > 2.2
        assert not arena.junction[state.vehicles.lane[0, 1:]].any() or not state.vehicles.alive[0, 1:].all()


def test_a_yellow_light_stops_who_can_stop(road: Arena) -> None:
    tables = tabulate(road)
    state = drivers(road, [(0, 1, 150 - 2.25 - 30, 10.0), (2, 3, 150 - 2.25 - 10, 10.0)])
    state.clocks.shift.fill_(18.0)
    glance(state, road, tables)
    assert stop_of(state, 1) == pytest.approx(30.0, abs=0.01)
    assert torch.isinf(state.vehicles.stop_at[0, 2])
