import pytest
import torch

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.rules import Infraction
from palaestra.envs.driving.score import CLASSES, PENALTY, Record
from palaestra.envs.driving.state import blank
from palaestra.envs.driving.tables import tabulate


def test_names_follow_the_rules() -> None:
    assert [name.upper() for name in CLASSES] == [kind.name for kind in Infraction]
    assert PENALTY == (0.60, 0.50, 0.65, 0.70, 0.80)


def test_the_driving_score_by_hand(road: Arena) -> None:
    """Half the route, a tenth of the way outside, one collision, two red lights: 0.5 · 0.9 · 0.6 · 0.7²."""
    tables = tabulate(road)
    state, record = blank(1, 1, 0, "cpu"), Record.blank(1, "cpu")
    none, no, far = torch.zeros(1, 5, dtype=torch.bool), torch.zeros(1, dtype=torch.bool), torch.full((1,), 9.0)
    state.vehicles.speed.fill_(10.0)
    for step in range(100):
        happened = none.clone()
        happened[0, Infraction.VEHICLE] = step == 10
        happened[0, Infraction.RED_LIGHT] = step in (20, 30)
        state.vehicles.acceleration.fill_(float(step % 2))
        state.ego.yaw_rate.fill_(-0.5)
        state.clocks.tick += 1
        record.add(state, happened, no | (step < 10), no, far - float(step == 50))
    state.ego.progress = 0.5 * tables.route_length[state.clocks.route]
    metrics = record.metrics(state, tables)
    assert float(metrics["driving_score"]) == pytest.approx(0.5 * 0.9 * 0.6 * 0.7**2, rel=1e-4)
    assert float(metrics["red_light_a_km"]) == pytest.approx(20.0, rel=1e-4)
    assert float(metrics["vehicle_a_km"]) == pytest.approx(10.0, rel=1e-4)
    assert float(metrics["speed"]) == pytest.approx(10.0, rel=1e-4)
    assert float(metrics["acceleration"]) == pytest.approx(0.5, rel=1e-4)
    assert float(metrics["jerk"]) == pytest.approx(9.9, rel=1e-4)
    assert float(metrics["yaw_rate"]) == pytest.approx(0.5, rel=1e-4)
    assert float(metrics["time_to_collision"]) == 8.0
    assert not metrics["success"].any()


def test_arrival_with_an_infraction_is_no_strict_success() -> None:
    record = Record.blank(3, "cpu")
    record.arrived = torch.tensor([True, True, False])
    record.counts[1, Infraction.STOP_SIGN] = 1
    assert record.success().tolist() == [True, False, False]
    record.clear(torch.tensor([0]))
    assert record.arrived.tolist() == [False, True, False]
