import pytest
import torch

from palaestra.envs.driving.arena import Arena, Command
from palaestra.envs.driving.describe import (
    COMMANDS,
    LATERAL,
    LONGITUDINAL,
    SPEEDS,
    caption,
    captions,
    describe,
    lateral_bin,
    longitudinal_bin,
    speed_bin,
)
from palaestra.envs.driving.world import DrivingEnv


@pytest.mark.parametrize(
    ("speed", "name"),
    [
        (0.0, "currently stopped"),
        (0.099, "currently stopped"),
        (0.1, "moving slowly"),
        (1.999, "moving slowly"),
        (2.0, "driving at a moderate speed"),
        (4.499, "driving at a moderate speed"),
        (4.5, "driving at a high speed"),
        (30.0, "driving at a high speed"),
    ],
)
def test_speed_edges(speed: float, name: str) -> None:
    assert SPEEDS[int(speed_bin(torch.tensor(speed)))] == name


@pytest.mark.parametrize(
    ("acceleration", "name"),
    [
        (-1.0, "braking hard"),
        (-0.51, "braking hard"),
        (-0.5, "braking"),
        (-0.051, "braking"),
        (-0.05, "idling"),
        (0.0, "idling"),
        (0.05, "idling"),
        (0.051, "accelerating gently"),
        (0.3, "accelerating gently"),
        (0.301, "accelerating"),
        (0.8, "accelerating"),
        (0.801, "accelerating fast"),
        (1.0, "accelerating fast"),
    ],
)
def test_longitudinal_edges(acceleration: float, name: str) -> None:
    assert LONGITUDINAL[int(longitudinal_bin(torch.tensor(acceleration)))] == name


@pytest.mark.parametrize(
    ("steer", "name"),
    [
        (0.0, "going straight"),
        (0.049, "going straight"),
        (-0.049, "going straight"),
        (0.05, "turning right"),
        (0.3, "turning right"),
        (0.301, "turning right sharply"),
        (-0.05, "turning left"),
        (-0.3, "turning left"),
        (-0.301, "turning left sharply"),
    ],
)
def test_lateral_edges(steer: float, name: str) -> None:
    assert LATERAL[int(lateral_bin(torch.tensor(steer)))] == name


def test_there_are_720_captions_and_a_caption_is_one_of_them() -> None:
    every = captions()
    assert len(every) == len(set(every)) == 720
    said = caption(Command.STRAIGHT, 3.0, torch.tensor([0.9, -0.2]))
    assert said == (
        "Command is to go straight at the intersection. The car is driving at a moderate speed. "
        "Action behavior: The car is accelerating fast and turning left."
    )
    assert every.index(said) == (Command.STRAIGHT * 4 + 2) * 30 + 2 * 5 + 3


def test_the_prompt_says_speed_way_and_command(road: Arena) -> None:
    world = DrivingEnv(count=3, maps=road, vehicles=0, walkers=0)
    world.reset(seed=0)
    cars = world.state.vehicles
    cars.speed[2, 0] = 4.26
    cars.y[2, 0] = 1.0  # left of the route, so its point lies to the right
    first, last = describe(world.state, world.tables, torch.tensor([0, 2]))
    assert "Current speed: 0.0 m/s" in first
    assert "Forward vector: (12.00, 0.00)" in first
    assert "Current speed: 4.3 m/s" in last
    assert "Forward vector: (12.00, 1.00)" in last
    assert f'Navigation command: "{COMMANDS[Command.FOLLOW]}"' in last
    assert "throttle" in last
