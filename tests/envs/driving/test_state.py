import math

import torch

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.state import FLAGS, FRAMES, REALS, WHOLES, Light, blank, lights, wrapped
from palaestra.envs.driving.tables import tabulate
from palaestra.envs.driving.world import DrivingEnv
from palaestra.envs.streams import draw


def test_a_signal_goes_from_green_over_yellow_to_red(road: Arena) -> None:
    signals = tabulate(road).signals
    times = torch.tensor([0.0, 16.9, 17.1, 19.9, 20.1, 39.9, 40.1, 137.2])
    shown, rest = lights(signals, torch.zeros(8, dtype=torch.int64), times)
    green, yellow, red = Light.GREEN, Light.YELLOW, Light.RED
    assert shown.tolist() == [green, green, yellow, yellow, red, red, green, yellow]
    expected = [1.0, 0.1 / 17, 2.9 / 3, 0.1 / 3, 19.9 / 20, 0.1 / 20, 16.9 / 17, 2.8 / 3]
    assert torch.allclose(rest, torch.tensor(expected), atol=1e-4)
    nothing, _ = lights(signals, torch.tensor([-1]), torch.tensor([5.0]))
    assert nothing.tolist() == [Light.NONE]


def test_draws_are_uniform_and_functions_of_seed_and_counter() -> None:
    numbers = draw(torch.tensor([[7], [8]]), torch.arange(50_000))
    assert torch.equal(numbers[0, 123], draw(torch.tensor(7), 123))
    assert abs(float(numbers.mean()) - 0.5) < 0.005
    assert abs(float(numbers.var()) - 1 / 12) < 0.002
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert abs(float(torch.corrcoef(numbers)[0, 1])) < 0.02
    assert abs(float(torch.corrcoef(torch.stack((numbers[0, 1:], numbers[0, :-1])))[0, 1])) < 0.02


def test_angles_are_wrapped() -> None:
    angles = torch.linspace(-20, 20, 999)
    turned = wrapped(angles)
    assert float(turned.abs().max()) <= math.pi + 1e-5
    assert torch.allclose(torch.cos(turned), torch.cos(angles), atol=1e-5)


def test_the_past_is_a_ring_of_frames(road: Arena) -> None:
    world = DrivingEnv(count=2, maps=road, vehicles=3, walkers=1)
    world.reset(seed=0)
    frames = [world.state.frame()[0].clone()]
    past = world.state.past
    for _ in range(40):
        world.step(torch.full((2, 2), 0.5))
        frames.append(world.state.frame()[0].clone())
        for ago in range(FRAMES):
            assert torch.equal(past.vehicles[past.slot(ago)], frames[max(0, len(frames) - 1 - ago)])


def test_fields_stay_views_of_their_pools() -> None:
    world = DrivingEnv(count=2, maps="signalised", map_count=1, vehicles=5)
    world.reset(seed=0)
    for _ in range(5):
        world.step(torch.zeros(2, 2))
    cars = world.state.vehicles
    for names, pool in ((REALS, cars.reals), (WHOLES, cars.wholes), (FLAGS, cars.flags)):
        for name, view in zip(names, pool, strict=True):
            assert getattr(cars, name).data_ptr() == view.data_ptr(), name


def test_writing_rows_repeats_their_start_in_the_past() -> None:
    state, other = blank(3, 2, 1, "cpu"), blank(1, 2, 1, "cpu")
    other.vehicles.x.fill_(4.0)
    state.write(torch.tensor([1]), other)
    assert (state.past.vehicles[:, 1, :, 0] == 4.0).all()
    assert (state.vehicles.x[1] == 4.0).all()
    assert (state.vehicles.x[0] > 9e4).all()
