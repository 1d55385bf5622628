"""Tables that policies of this folder see."""

import pytest
import torch

from palaestra.envs.core import Observation, Worlds
from palaestra.envs.registry import make


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return make("tabletop/pick-place-v0", 4, chunk=2, pixels=32)


@pytest.fixture(scope="module")
def view(worlds: Worlds) -> Observation:
    return worlds.reset(seed=0).observation
