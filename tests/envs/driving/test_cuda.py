"""The same worlds on a GPU, where there is one."""

import pytest
import torch

from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.world import DrivingEnv

pytestmark = pytest.mark.gpu


def test_worlds_are_the_same_on_a_gpu() -> None:
    """But for floats: nineteen of twenty worlds stay together for 10 s, the others took some decision otherwise."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here = DrivingEnv(count=64, maps="town", map_count=2, view="bev", endings="evaluation")
    there = DrivingEnv(count=64, device="cuda", maps="town", map_count=2, view="bev", endings="evaluation")
    seen, other = here.reset(seed=list(range(64)))[0], there.reset(seed=list(range(64)))[0]
    for _ in range(100):
        action = expert_action(here)
        seen, other = here.step(action)[0], there.step(action.cuda())[0]
    assert isinstance(seen, dict) and isinstance(other, dict)
    apart = (seen["state"] - other["state"].cpu()).abs().amax(1)
    together = apart < 1e-3
    assert together.float().mean() >= 0.95
    assert (seen["bev"] != other["bev"].cpu())[together].float().mean() < 1e-3
