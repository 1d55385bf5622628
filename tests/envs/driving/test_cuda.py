"""The same worlds on a GPU, where there is one."""

import pytest
import torch
from torch import Tensor

from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.world import DrivingEnv

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def state(shown: Tensor | dict[str, Tensor]) -> Tensor:
    return (shown["state"] if isinstance(shown, dict) else shown).cpu()


@pytest.mark.parametrize("compiled", [False, True])
def test_worlds_are_the_same_on_a_gpu(compiled: bool) -> None:
    """But for floats: nineteen of twenty worlds stay together for 10 s, the others took some decision otherwise."""
    options = {"count": 64, "maps": "town", "map_count": 2, "view": "bev", "endings": "evaluation"}
    here, there = DrivingEnv(**options), DrivingEnv(**options, device="cuda", compiled=compiled)
    seen, other = here.reset(seed=list(range(64)))[0], there.reset(seed=list(range(64)))[0]
    for _ in range(100):
        action = expert_action(here)
        seen, other = here.step(action)[0], there.step(action.cuda())[0]
    assert isinstance(seen, dict) and isinstance(other, dict)
    together = (state(seen) - state(other)).abs().amax(1) < 1e-3
    assert together.float().mean() >= 0.95
    assert (seen["bev"] != other["bev"].cpu())[together].float().mean() < 1e-3


def test_a_world_starts_again_alone_and_what_was_returned_stays() -> None:
    here, there = DrivingEnv(count=8, maps="lane-drop"), DrivingEnv(count=8, maps="lane-drop", device="cuda")
    for world in (here, there):
        world.reset(seed=3)
    action = torch.tensor([[1.0, 0.1]]).expand(8, 2)
    for _ in range(10):
        here.step(action)
        first, reward, *_ = there.step(action.cuda())
    kept, paid = state(first).clone(), reward.cpu().clone()
    mask = torch.tensor([True, False] * 4)
    again = here.reset(options={"reset_mask": mask})[0], there.reset(options={"reset_mask": mask.cuda()})[0]
    assert (state(again[0]) - state(again[1])).abs().max() < 1e-3
    there.step(action.cuda())
    assert torch.equal(state(first), kept) and torch.equal(reward.cpu(), paid)


def test_a_step_does_not_wait_for_the_gpu() -> None:
    world = DrivingEnv(count=32, device="cuda", view="bev")
    world.reset(seed=0)
    action = torch.rand(32, 2, device="cuda") * 2 - 1
    for _ in range(3):
        world.step(action)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            world.step(action)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_action_that_is_no_number_spoils_its_own_world_alone() -> None:
    world = DrivingEnv(count=4, device="cuda")
    world.reset(seed=0)
    action = torch.zeros(4, 2, device="cuda")
    action[2, 1] = torch.nan
    observation, reward, *_ = world.step(action)
    assert reward.isnan().tolist() == [False, False, True, False]
    assert torch.isfinite(state(observation)).all()
