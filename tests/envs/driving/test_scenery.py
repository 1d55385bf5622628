import numpy as np
import torch

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.scenery import BEHIND, EGO, HEIGHT, LAMPS, METRES, PANEL, ROAD, WALKER, WIDTH
from palaestra.envs.driving.state import Light
from palaestra.envs.driving.world import DrivingEnv

PER_METRE = WIDTH / METRES


def close(colour: np.ndarray, expected: tuple[int, int, int]) -> bool:
    return int(np.abs(colour.astype(int) - expected).max()) <= 12


def test_things_are_where_they_are(road: Arena) -> None:
    world = DrivingEnv(count=2, maps=road, vehicles=1, walkers=1, render_mode="rgb_array")
    world.reset(seed=0)
    past, state = world.state.past, world.state
    now = past.cursor
    past.vehicles[now, :, 0] = torch.tensor([120.0, 0.0, 1.0, 0.0])
    past.vehicles[now, :, 1] = torch.tensor([135.0, 3.5, 1.0, 0.0])  # 15 m ahead, one lane to the left
    past.walkers[now, :, 0] = torch.tensor([130.0, -2.0])
    state.clocks.tick[:], state.clocks.shift[:] = 0, torch.tensor([5.0, 25.0])  # green, red
    green, red = world.render()
    assert green.shape == (HEIGHT + PANEL, WIDTH, 3) and green.dtype == np.uint8

    def at(frame: np.ndarray, ahead: float, left: float) -> np.ndarray:
        spot: np.ndarray = frame[
            round((METRES - BEHIND - ahead) * PER_METRE), round((METRES / 2 - left) * PER_METRE)
        ]
        return spot

    for frame, light in ((green, Light.GREEN), (red, Light.RED)):
        assert close(at(frame, 0.0, 0.0), EGO)
        assert not close(at(frame, 15.0, 3.5), ROAD)  # the other car
        assert close(at(frame, 7.0, 3.5), ROAD)
        assert close(at(frame, 10.0, -2.0), WALKER)
        assert close(at(frame, 29.4, 0.6), LAMPS[light])  # the stop line, just before 150 m


def test_instruments_tell_of_the_pedals_and_of_what_went_wrong(free_road: Arena) -> None:
    world = DrivingEnv(count=1, maps=free_road, vehicles=0, walkers=0, render_mode="rgb_array")
    world.reset(seed=0)

    def reds(frame: np.ndarray) -> int:
        return int((np.abs(frame[HEIGHT:].astype(int) - LAMPS[Light.RED]).max(2) < 12).sum())

    still = world.render()[0]
    assert reds(still) == 0
    world.state.ego.pedal[:] = -1.0
    braking = world.render()[0]
    assert 300 < reds(braking) < 900  # half of a bar of 130 by 8 pixels
    assert np.array_equal(braking[:HEIGHT], still[:HEIGHT])
    world.state.ego.pedal[:] = 0.0
    world.record.counts[0, 3] = 1.0
    assert reds(world.render()[0]) > 50  # "red light"


def test_looking_on_changes_nothing(road: Arena) -> None:
    watched, alone = (DrivingEnv(count=3, maps=road, render_mode="rgb_array") for _ in range(2))
    for world in (watched, alone):
        world.reset(seed=4)
    for step in range(25):
        watched.render()
        action = torch.full((3, 2), 0.6 if step < 15 else -0.5)
        seen, other = watched.step(action), alone.step(action)
        assert isinstance(seen[0], torch.Tensor) and isinstance(other[0], torch.Tensor)
        assert torch.equal(seen[0], other[0])
        assert torch.equal(seen[1], other[1])
