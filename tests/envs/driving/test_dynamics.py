import math

import torch

from palaestra.envs.driving import dynamics
from palaestra.envs.driving.dynamics import (
    AXLE,
    BRAKE,
    DRAG,
    GRIP,
    LOCK,
    PEDAL_LAG,
    PUSH,
    STEER_RATE,
    TOP_SPEED,
    move_ego,
)
from palaestra.envs.driving.state import DT, blank


def scalar_step(
    x: float, y: float, yaw: float, speed: float, pedal: float, steer: float, action: tuple[float, float]
) -> tuple[float, ...]:
    """The same car in plain Python."""
    pedal += (action[0] - pedal) * (1 - math.exp(-DT / PEDAL_LAG))
    steer += min(max(action[1] - steer, -STEER_RATE * DT), STEER_RATE * DT)
    push = PUSH * pedal * (1 - speed / TOP_SPEED) if pedal > 0 else BRAKE * pedal
    after = max(0.0, speed + (push - DRAG * speed) * DT)
    mean, forward = (speed + after) / 2, (after - speed) / DT
    rate = mean * math.sin(math.atan(math.tan(-LOCK * steer) / 2)) / AXLE
    most = math.sqrt(GRIP**2 - forward**2) / max(mean, 0.1)
    rate = min(max(rate, -most), most)
    slip = math.asin(min(max(rate * AXLE / max(mean, 1e-3), -1.0), 1.0))
    turned = rate * DT
    reach = mean * DT * (1.0 if turned == 0 else math.sin(turned / 2) / (turned / 2))
    x += reach * math.cos(yaw + slip + turned / 2)
    y += reach * math.sin(yaw + slip + turned / 2)
    yaw += turned
    return x, y, math.atan2(math.sin(yaw), math.cos(yaw)), after, pedal, steer


def test_a_thousand_random_steps_equal_the_scalar_car() -> None:
    state = blank(4, 1, 0, "cpu")
    cars, ego = state.vehicles, state.ego
    cars.x.zero_()
    cars.y.zero_()
    generator, fastest = torch.Generator().manual_seed(1), 0.0
    for step in range(1000):
        action = torch.rand(4, 2, generator=generator) * 2 - 1
        action[:, 0] += 0.6 if step % 200 < 150 else -0.5
        action = action.clamp(-1, 1)
        columns = (cars.x[:, 0], cars.y[:, 0], cars.yaw[:, 0], cars.speed[:, 0], ego.pedal, ego.steer)
        before = torch.stack(columns, 1).tolist()
        move_ego(state, action)
        columns = (cars.x[:, 0], cars.y[:, 0], cars.yaw[:, 0], cars.speed[:, 0], ego.pedal, ego.steer)
        expected = [scalar_step(*row, tuple(pair)) for row, pair in zip(before, action.tolist(), strict=True)]
        assert torch.allclose(torch.stack(columns, 1), torch.tensor(expected), atol=2e-4)
        fastest = max(fastest, float(cars.speed.max()))
    assert fastest > 5


def test_a_car_that_stands_stays_where_it_is() -> None:
    state = blank(2, 1, 0, "cpu")
    state.vehicles.x.zero_()
    state.vehicles.y.zero_()
    for _ in range(20):
        move_ego(state, torch.tensor([[-1.0, 1.0], [0.0, -1.0]]))
    cars = state.vehicles
    assert not torch.stack((cars.x, cars.y, cars.yaw, cars.speed)).any()


def test_the_turning_circle_is_the_bicycles() -> None:
    state = blank(1, 1, 0, "cpu")
    cars = state.vehicles
    cars.x.zero_()
    cars.y.zero_()
    state.ego.steer.fill_(0.5)
    cars.speed.fill_(2.0)
    places = []
    for _ in range(400):
        cars.speed.fill_(2.0)
        move_ego(state, torch.tensor([[0.0, 0.5]]))
        places.append((float(cars.x[0, 0]), float(cars.y[0, 0])))
    assert cars.yaw[0, 0] != 0
    assert min(y for _, y in places) < -5  # to the right
    slip = math.atan(math.tan(LOCK * 0.5) / 2)
    radius = AXLE / math.sin(slip)
    ys = [y for _, y in places]
    xs = [x for x, _ in places]
    assert abs((max(ys) - min(ys)) / 2 - radius) < 0.05
    assert abs((max(xs) - min(xs)) / 2 - radius) < 0.05


def test_friction_bounds_the_acceleration() -> None:
    state = blank(1, 1, 0, "cpu")
    state.vehicles.speed.fill_(25.0)
    for _ in range(15):
        move_ego(state, torch.tensor([[-1.0, 1.0]]))
        both = math.hypot(float(state.ego.side_acceleration[0]), float(state.vehicles.acceleration[0, 0]))
        assert both <= GRIP * 1.001
    assert state.ego.side_acceleration[0] < 0  # to the right


def test_the_pedal_follows_with_its_time_constant() -> None:
    state = blank(1, 1, 0, "cpu")
    for _ in range(2):  # two steps are one time constant
        move_ego(state, torch.tensor([[1.0, 0.0]]))
    assert math.isclose(float(state.ego.pedal[0]), 1 - math.exp(-1), rel_tol=1e-5)
    assert dynamics.DT / dynamics.PEDAL_LAG == 0.5
