from dataclasses import dataclass
from pathlib import Path

import torch

from palaestra.envs.core import Observation
from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.bev import EGO, LIGHTS, VEHICLES, WALKERS
from palaestra.envs.driving.picture import LIGHT, MARK, ROAD, ROUTE, SELF, VEHICLE, coloured
from palaestra.envs.driving.world import DrivingEnv
from palaestra.envs.record import Single, record


def test_what_lies_above_hides_what_lies_below() -> None:
    views = torch.zeros(1, 32, 32, 15, dtype=torch.uint8)
    views[0, 1:, 0, 0] = 255
    views[0, 2:, 0, 1] = 255
    views[0, 3:, 0, 2] = 255
    views[0, 4:, 0, LIGHTS + 3] = 170
    views[0, 5:, 0, VEHICLES] = 255
    views[0, 6:, 0, VEHICLES + 3] = 255
    views[0, 7, 0, 0] = EGO
    views[0, 8, 0, LIGHTS] = 80  # the past of lights is not drawn
    views[0, 8, 0, VEHICLES + 3] = views[0, 8, 0, VEHICLES] = 0
    picture = coloured(views)[0, :, 0].tolist()
    faded = [0, 0, 64]
    expected = [[0, 0, 0], ROAD, ROUTE, MARK, LIGHT[170], faded, VEHICLE, SELF, LIGHT[170]]
    assert picture[:9] == [list(colour) for colour in expected]
    views[0, 10, 0, WALKERS + 3] = 255
    assert coloured(views)[0, 10, 0].tolist() == [0, 255, 255]


def test_pictures_are_of_the_worlds_that_are_asked_for(free_road: Arena) -> None:
    world = DrivingEnv(count=2, maps=free_road, vehicles=2, walkers=0)
    world.reset(seed=0)
    world.state.past.vehicles[:, 1, 0, 1] = 1.5  # beside its lane
    pictures = world.picture(torch.tensor([1, 0, 1]))
    assert pictures.shape == (3, 192, 192, 3)
    assert torch.equal(pictures[0], pictures[2])
    assert not torch.equal(pictures[0], pictures[1])


@dataclass
class Straight:
    """Drives on."""

    action: torch.Tensor

    def act(self, observation: Observation) -> "Straight":
        return self


def test_an_episode_is_filmed(free_road: Arena, tmp_path: Path) -> None:
    world = Single(DrivingEnv(count=1, maps=free_road, vehicles=2, walkers=0, render_mode="rgb_array"))
    recording = record(world, Straight(torch.tensor([[[1.0, 0.0]]])), tmp_path, [3], max_steps=8)[0]
    assert recording.steps == 8
    assert recording.path is not None
    assert recording.path.stat().st_size > 1000
