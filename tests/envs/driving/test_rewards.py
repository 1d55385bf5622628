import pytest
import torch

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.rewards import completion, found_rl, slowed, wanted_share
from palaestra.envs.driving.rules import Verdict
from palaestra.envs.driving.state import Light, State, blank
from palaestra.envs.driving.surroundings import surroundings
from palaestra.envs.driving.tables import NEVER, OfRoute


def ego_at_origin(worlds: int = 1, vehicles: int = 2, walkers: int = 1) -> State:
    state = blank(worlds, vehicles, walkers, "cpu")
    state.vehicles.x[:, 0] = state.vehicles.y[:, 0] = 0.0
    return state


def route_row(line: float = NEVER, control: Control = Control.NONE) -> torch.Tensor:
    row = torch.zeros(1, len(OfRoute))
    row[0, OfRoute.LINE], row[0, OfRoute.CONTROL] = line, control
    return row


def share(state: State, row: torch.Tensor, light: Light = Light.NONE) -> float:
    return float(wanted_share(state, surroundings(state), row, torch.tensor([int(light)])))


def verdict(*infractions: int) -> Verdict:
    happened = torch.zeros(1, 5, dtype=torch.bool)
    happened[0, list(infractions)] = True
    no = torch.zeros(1, dtype=torch.bool)
    return Verdict(happened, no, no, no, no, no)


def test_hazards_slow_from_five_metres_further_on_than_they_stop() -> None:
    distance = torch.tensor([4.0, 8.0, 10.5, 13.0, 50.0])
    assert slowed(distance, 8.0).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("x", "y", "cos", "expected"),
    [(9.0, 0.0, 1.0, 0.2), (9.6, 0.0, 1.0, 1.0), (6.0, 6.5, 1.0, 1.0), (9.0, 0.0, -1.0, 1.0), (-9.0, 0.0, 1.0, 1.0)],
)
def test_vehicles_ahead_count_within_reach_and_angle(x: float, y: float, cos: float, expected: float) -> None:
    state = ego_at_origin()
    cars = state.vehicles
    cars.x[0, 1], cars.y[0, 1], cars.cos[0, 1] = x, y, cos
    assert share(state, route_row()) == pytest.approx(expected)


@pytest.mark.parametrize(("x", "y", "expected"), [(8.0, 0.0, 0.4), (7.0, 3.0, 1.0), (1.0, 0.9, 0.0), (-3.0, 0.0, 1.0)])
def test_walkers_count_in_a_cone_that_narrows(x: float, y: float, expected: float) -> None:
    state = ego_at_origin()
    state.walkers.x[0, 0], state.walkers.y[0, 0] = x, y
    assert share(state, route_row()) == pytest.approx(expected)


def test_lights_and_signs() -> None:
    state = ego_at_origin()
    signal = route_row(8.0, Control.SIGNAL)
    assert share(state, signal, Light.RED) == share(state, signal, Light.YELLOW) == pytest.approx(0.6)
    assert share(state, signal, Light.GREEN) == share(state, route_row(18.5, Control.SIGNAL), Light.RED) == 1.0
    sign = route_row(7.0, Control.STOP)
    assert share(state, sign) == pytest.approx(0.4)
    state.ego.halted.fill_(True)
    assert share(state, sign) == 1.0


def test_found_rls_reward_is_one_for_ideal_driving_and_adds_up_otherwise() -> None:
    state = ego_at_origin()
    state.vehicles.speed[0, 0] = 6.0
    one, no = torch.ones(1), torch.zeros(1, dtype=torch.bool)
    assert found_rl(state, one, verdict(), no, torch.zeros(1), 6.0) == 1.0
    state.ego.lateral.fill_(-0.5)
    state.ego.heading.fill_(0.1)
    state.vehicles.speed[0, 0] = 3.0
    reward = found_rl(state, one, verdict(), no, torch.tensor([0.02]), 6.0)
    assert float(reward) == pytest.approx(1 - 0.5 - 0.25 - 0.1 - 0.1)
    crashed = found_rl(state, one, verdict(0, 3), ~no, torch.tensor([0.02]), 6.0)
    assert float(crashed) == pytest.approx(float(reward) - 1 - 3)


def test_the_plain_reward_sums_to_a_hundred() -> None:
    length, no = torch.tensor([250.0]), torch.zeros(1, dtype=torch.bool)
    made = [completion(torch.tensor([2.5]), length, verdict(), no) for _ in range(100)]
    assert float(sum(made)) == pytest.approx(100.0, abs=1e-3)
    assert completion(torch.tensor([0.0]), length, verdict(1), ~no) == -5.0
