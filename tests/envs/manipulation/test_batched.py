"""The vectorised ManiSkill env: one world on a CPU here, many on a GPU where there is one."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.manipulation.experts import CONTROL, EXPERTS
from palaestra.envs.manipulation.maniskill import env_factory, vector_env

pytestmark = pytest.mark.simulator
pytest.importorskip("mani_skill")


@pytest.mark.parametrize("task", ["PushCube-v1", "PegInsertionSide-v1", "TwoRobotPickCube-v1"])
def test_one_world_on_a_cpu_does_what_the_single_world_does(task: str) -> None:
    many, one = vector_env(task, 1, "cpu", max_steps=6), env_factory(task, max_steps=6)()
    if task == "PegInsertionSide-v1":  # the single world draws a new peg at each reset, the other keeps its first
        one.simulator.reconfiguration_freq = 0
    width = one.action_space.shape[0]
    actions = torch.randn(6, 1, width, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    state, info = many.reset(seed=[4])
    expected, _ = one.reset(seed=4)
    np.testing.assert_array_equal(state[0].numpy(), expected)
    assert info["success"].tolist() == [False]
    for action in actions:
        state, reward, terminated, truncated, info = many.step(action)
        expected = one.step(action[0].numpy())
        np.testing.assert_array_equal(state[0].numpy(), expected[0])
        assert (reward.tolist(), terminated.tolist(), truncated.tolist()) == tuple([x] for x in expected[1:4])
    assert truncated.tolist() == [True]


def test_spaces_and_metadata_say_what_it_does() -> None:
    env = vector_env("PushCube-v1", 1, "cpu", control=CONTROL)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert env.observation_space.shape == (1, 35) and env.action_space.shape == (1, 4)
    assert env.spec is not None and env.spec.max_episode_steps == 50
    env.close()
    env.close()


def test_it_plays_chunks_in_lockstep_worlds_and_succeeds() -> None:
    worlds = LockstepWorlds(vector_env("PushCube-v1", 1, "cpu", control=CONTROL), id="maniskill/PushCube-v1", chunk=2)
    step = worlds.reset(seed=0)
    for _ in range(25):
        assert step.observation.state is not None
        action = EXPERTS["PushCube-v1"](step.observation.state)
        worlds.send(step.rows, action[:, None].expand(1, 2, 4))
        step = worlds.recv()
        if step.ended.any():
            break
    assert step.terminated.all() and step.success.all() and step.final is not None
    worlds.close()


def test_several_worlds_on_a_cpu_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one simulation holds one world, but count is 2.*env_factory"):
        vector_env("PushCube-v1", 2, "cpu")


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@gpu
def test_starts_on_a_gpu_depend_on_each_rows_seed_alone() -> None:
    env = vector_env("StackCube-v1", 4, "cuda", control=CONTROL)
    first, _ = env.reset(seed=[1, 2, 3, 1])
    torch.testing.assert_close(first[0], first[3], rtol=0, atol=1e-6)
    assert not torch.equal(first[0], first[1])
    moved = env.step(torch.rand(4, 4, device="cuda") * 2 - 1)[0]
    mask = torch.tensor([False, True, False, False], device="cuda")
    again, _ = env.reset(seed=[9, 3, 9, 9], options={"reset_mask": mask})
    torch.testing.assert_close(again[1], first[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(again[[0, 2, 3]], moved[[0, 2, 3]], rtol=0, atol=1e-5)


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("task", EXPERTS)
def test_experts_solve_their_tasks_on_a_gpu(task: str) -> None:
    worlds = LockstepWorlds(vector_env(task, 64, "cuda", control=CONTROL), id=task)
    step = worlds.reset(seed=0)
    ends = successes = 0
    for _ in range(50):
        assert step.observation.state is not None
        worlds.send(step.rows, EXPERTS[task](step.observation.state)[:, None])
        step = worlds.recv()
        ends += int(step.ended.sum())
        successes += int((step.ended & step.success_once).sum())
    assert ends >= 64 and successes >= 0.8 * ends
