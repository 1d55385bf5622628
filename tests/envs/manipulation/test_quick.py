"""The quickened simulator does what bare ManiSkill does, bit for bit, and faster."""

from typing import Any

import numpy as np
import pytest
import torch

from palaestra.envs.manipulation import vulkan
from palaestra.envs.manipulation.experts import CONTROL, EXPERTS
from palaestra.envs.manipulation.maniskill import (
    NEED_VULKAN,
    TASKS,
    ManiSkillEnv,
    ManiSkillFactory,
    build,
    command,
    env_factory,
    registered,
)

pytestmark = pytest.mark.simulator
pytest.importorskip("mani_skill")

OTHERS = sorted(set(TASKS) - set(EXPERTS) - NEED_VULKAN)
SPARSE = ("PlugCharger-v1", "StackPyramid-v1")


def bare_and_quick(task: str, control: str | None) -> tuple[Any, ManiSkillEnv]:
    reward = "sparse" if task in SPARSE else "normalized_dense"
    factory = ManiSkillFactory(task, control=control, reward=reward, max_steps=10**6, stop_at_success=False)
    return build(factory, registered(task), None), factory()


def assert_same_episode(bare: Any, quick: ManiSkillEnv, seed: int, actions: np.ndarray) -> None:
    expected, _ = bare.reset(seed=seed)
    view, _ = quick.reset(seed=seed)
    np.testing.assert_array_equal(view, expected[0].numpy())
    for index, action in enumerate(actions):
        expected, reward, terminated, _, info = bare.step(command(action[None], quick._arms))
        view, quick_reward, _, _, quick_info = quick.step(action)
        np.testing.assert_array_equal(view, expected[0].numpy(), err_msg=f"step {index}")
        assert quick_reward == float(reward), index
        assert quick_info == {"success": bool(info["success"])}, index
        assert bool(terminated) == quick_info["success"], index


def expert_actions(task: str, control: str, seed: int, steps: int) -> np.ndarray:
    """The expert's moves with noise on top, or random moves in a control mode that it does not know."""
    generator = np.random.default_rng(seed)
    width = 4 if control == CONTROL else 8
    noise = generator.uniform(-1, 1, (steps, width)).astype(np.float32)
    if control != CONTROL:
        return noise
    env = env_factory(task, control=control, max_steps=steps, stop_at_success=False)()
    state, _ = env.reset(seed=seed)
    actions = []
    for _ in range(steps):
        action = EXPERTS[task](torch.from_numpy(state)[None])[0].numpy()
        action[:3] += 0.1 * noise[len(actions), :3]
        actions.append(action)
        state = env.step(action)[0]
    return np.stack(actions)


@pytest.mark.parametrize("control", ["pd_joint_delta_pos", CONTROL])
@pytest.mark.parametrize("task", EXPERTS)
def test_the_same_bits_as_bare_maniskill_for_100_steps(task: str, control: str) -> None:
    bare, quick = bare_and_quick(task, control)
    assert_same_episode(bare, quick, 3, expert_actions(task, control, 3, 100))


@pytest.mark.slow
@pytest.mark.parametrize("control", [None, "pd_ee_delta_pose", "pd_joint_target_delta_pos", "pd_joint_vel"])
@pytest.mark.parametrize("task", OTHERS)
def test_the_same_bits_in_every_task(task: str, control: str | None) -> None:
    if task == "PickCubeSO100-v1" and control is not None:
        pytest.skip("the SO100 arm has other control modes")
    bare, quick = bare_and_quick(task, control)
    size = quick.action_space.shape
    actions = np.random.default_rng(0).uniform(-1, 1, (40, *size)).astype(np.float32)
    with vulkan.rendering_on(None):  # PegInsertionSide builds a new scene at each reset
        assert_same_episode(bare, quick, 1, actions)


@pytest.mark.parametrize("task", EXPERTS)
def test_a_reset_after_a_grasp_starts_what_a_fresh_world_starts(task: str) -> None:
    def play(env: ManiSkillEnv, seed: int, actions: np.ndarray) -> np.ndarray:
        return np.stack([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])

    actions = expert_actions(task, CONTROL, 1, 50)
    used, fresh = (env_factory(task, control=CONTROL, max_steps=10**6, stop_at_success=False)() for _ in range(2))
    play(used, 1, actions[:12])  # stops with the cube in the hand, or against it
    play(used, 2, -actions)
    play(used, 1, actions[:12])
    np.testing.assert_array_equal(play(used, 1, actions), play(fresh, 1, actions))


def test_bare_maniskill_remembers_a_grasp_across_a_reset_and_we_do_not() -> None:
    """Why `forget_contacts` exists. When this fails, ManiSkill has mended it and we can drop it."""
    bare, quick = bare_and_quick("PickCube-v1", CONTROL)
    actions = expert_actions("PickCube-v1", CONTROL, 1, 14)
    bare.reset(seed=1)
    quick.reset(seed=1)
    for action in actions:
        info = bare.step(action)[4]
        quick.step(action)
    assert bool(info["is_grasped"])
    assert bare.reset(seed=2)[0][0, 18] == 1
    assert quick.reset(seed=2)[0][18] == 0


def test_only_one_world_on_the_cpu_can_be_quickened() -> None:
    from palaestra.envs.manipulation.quick import quicken

    env = env_factory("PushCube-v1")()
    scene = env.simulator.scene
    scene.sub_scenes = scene.sub_scenes * 2
    with pytest.raises(ValueError, match="one world on the CPU"):
        quicken(env.simulator)


@pytest.mark.slow
def test_a_step_takes_less_than_two_thirds_of_a_bare_one() -> None:
    """Medians of interleaved runs, so that a busy machine slows both alike. Measured: a third to a half."""
    import time

    bare, quick = bare_and_quick("PushCube-v1", CONTROL)
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 4)).astype(np.float32)
    bare.reset(seed=0)
    quick.reset(seed=0)
    seconds: dict[str, list[float]] = {"bare": [], "quick": []}
    for start in range(0, 200, 10):
        for name, world in (("bare", bare), ("quick", quick)):
            begin = time.process_time()
            for action in actions[start : start + 10]:
                world.step(action)
            seconds[name].append(time.process_time() - begin)
    assert np.median(seconds["quick"]) < np.median(seconds["bare"]) * 2 / 3
