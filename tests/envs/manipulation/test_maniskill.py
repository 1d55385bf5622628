"""ManiSkill's tasks as plain worlds. Each test that must run without Vulkan does so in a process of its own."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from palaestra.envs.manipulation import vulkan
from palaestra.envs.manipulation.maniskill import NEED_VULKAN, TASKS, depth_metres, env_factory, two_bytes

pytestmark = pytest.mark.simulator
pytest.importorskip("mani_skill")

DEFAULT = ("PickCube-v1", "PegInsertionSide-v1", "TwoRobotPickCube-v1", "PlugCharger-v1")
"""Of the run by default: an ordinary one, one rebuilt at each reset, one with two arms, one without dense reward."""

TWO_STEPS = """
import sys
import numpy as np
from palaestra.envs.manipulation.maniskill import env_factory
for task in sys.argv[1:]:
    reward = "sparse" if task in ("PlugCharger-v1", "StackPyramid-v1") else "normalized_dense"
    env = env_factory(task, reward=reward)()
    view, info = env.reset(seed=3)
    env.action_space.seed(0)
    for _ in range(2):
        assert env.observation_space.contains(view), task
        view, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert type(reward) is float and type(terminated) is bool and type(truncated) is bool, task
    assert type(info["success"]) is bool, task
    print(task, view.astype(np.float64).sum())
    env.close()
"""


def two_steps(tasks: list[str], **environment: str) -> dict[str, float]:
    """Run two random steps of some tasks in a process of its own and return the sum of each one's last view."""
    result = subprocess.run(
        [sys.executable, "-c", TWO_STEPS, *tasks],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return {task: float(total) for task, total in (line.split() for line in result.stdout.splitlines())}


def renders() -> bool:
    return vulkan.find_renderer() is not None


needs_renderer = pytest.mark.skipif(not renders(), reason="no Vulkan device renders here")


def test_tasks_run_without_any_vulkan_device() -> None:
    assert set(two_steps(list(DEFAULT), VK_ICD_FILENAMES="/nonexistent")) == set(DEFAULT)


@pytest.mark.slow
def test_every_task_runs_the_same_with_and_without_a_vulkan_device() -> None:
    tasks = [task for task in TASKS if task not in NEED_VULKAN]
    without = two_steps(tasks, VK_ICD_FILENAMES="/nonexistent")
    assert set(without) == set(tasks)
    assert two_steps(tasks) == without


@needs_renderer
@pytest.mark.slow
def test_push_t_runs_on_a_vulkan_device() -> None:
    assert two_steps(["PushT-v1"])


def test_push_t_says_that_it_needs_a_vulkan_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "find_renderer", lambda: None)
    with pytest.raises(RuntimeError, match=r"PushT-v1 builds its scene with it.*apt-get install chromium"):
        env_factory("PushT-v1")


def test_pictures_without_a_device_are_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "find_renderer", lambda: None)
    for options in ({"observation": "rgb"}, {"render_mode": "rgb_array"}):
        with pytest.raises(RuntimeError, match=r"no Vulkan device renders here.*VK_ICD_FILENAMES"):
            env_factory("PushCube-v1", **options)


def test_state_world_speaks_numpy_and_stops_at_its_limit() -> None:
    factory = env_factory("PushCube-v1", control="pd_ee_delta_pos", max_steps=3)
    env = pickle.loads(pickle.dumps(factory))()
    view, info = env.reset(seed=0)
    assert view.shape == (35,) and view.dtype == np.float32 and info == {"success": False}
    assert env.action_space.shape == (4,) and env.spec.max_episode_steps == 3
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    env.close()
    env.close()


def test_a_seed_starts_the_same_episode_whatever_was_played_before() -> None:
    env = env_factory("PickCube-v1", control="pd_ee_delta_pos")()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (20, 4)).astype(np.float32)

    def play(seed: int) -> np.ndarray:
        return np.stack([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])

    first = play(7)
    assert not np.array_equal(first, play(8))
    np.testing.assert_array_equal(first, play(7))


def test_wrong_names_and_values_say_what_is_right() -> None:
    with pytest.raises(ValueError, match=r"no task 'PushCub-v1'.*Did you mean PushCube-v1"):
        env_factory("PushCub-v1")
    with pytest.raises(ValueError, match="max_steps is 0"):
        env_factory("PushCube-v1", max_steps=0)
    with pytest.raises(ValueError, match="observation is 'pixels', expected 'state'"):
        env_factory("PushCube-v1", observation="pixels")
    with pytest.raises(ValueError, match="no reward 'dense': choose one of none, sparse"):
        env_factory("PlugCharger-v1", reward="dense")()
    with pytest.raises(ValueError, match=r"pd_ee_delta_poss not in supported modes.*pd_ee_delta_pos"):
        env_factory("PushCube-v1", control="pd_ee_delta_poss")()
    with pytest.raises(FileNotFoundError, match=r"PickSingleYCB-v1 needs models.*download_asset"):
        env_factory("PickSingleYCB-v1")()


def test_an_action_that_is_not_finite_is_refused() -> None:
    env = env_factory("PushCube-v1")()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full(8, np.nan, np.float32))
    with pytest.raises(ValueError, match=r"expected \(8,\)"):
        env.step(np.zeros(4, np.float32))


@needs_renderer
def test_pictures_and_depth() -> None:
    env = env_factory("PushCube-v1", observation="rgbd", image_size=32, render_mode="rgb_array", frame_size=64)()
    view, _ = env.reset(seed=0)
    assert env.observation_space.contains(view)
    assert view["base_camera"].shape == (32, 32, 3) and view["base_camera"].std() > 10
    depth = depth_metres(view["base_camera_depth"])
    assert 0.3 < np.median(depth) < 1.5  # the camera looks at the table from 0.6 m above it
    assert view["state"].shape == (25,)  # joint positions and speeds, and the tool's pose: no cube, no goal
    frame = env.render()
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8 and frame.std() > 10


@needs_renderer
def test_drawing_does_not_change_what_happens() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 8)).astype(np.float32)
    views = []
    for render_mode in (None, "rgb_array"):
        env = env_factory("PushCube-v1", render_mode=render_mode)()
        views.append(np.stack([env.reset(seed=1)[0], *(env.step(action)[0] for action in actions)]))
    np.testing.assert_array_equal(*views)


def test_depth_is_kept_to_the_millimetre() -> None:
    millimetres = torch.tensor([[[0], [1], [255], [256], [1234], [32767]]], dtype=torch.int16)
    np.testing.assert_allclose(depth_metres(two_bytes(millimetres)) * 1000, millimetres[..., 0], rtol=1e-6)


def test_a_world_can_go_on_after_success() -> None:
    env = env_factory("PushCube-v1", max_steps=2, stop_at_success=False, control="pd_ee_delta_pos")()
    env.reset(seed=0)
    env.simulator.obj.set_pose(env.simulator.goal_region.pose)
    _, reward, terminated, truncated, info = env.step(np.zeros(4, np.float32))
    assert info["success"] and reward == 1.0 and not terminated and not truncated


@needs_renderer
@pytest.mark.slow
def test_pictures_are_the_same_without_the_table_of_reflections(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def pictures() -> list[np.ndarray]:
        env = env_factory("PickCube-v1", observation="rgb", render_mode="rgb_array", frame_size=128)()
        return [env.reset(seed=0)[0]["base_camera"], env.render()]

    renderer = vulkan.find_renderer()
    if renderer is None or not renderer.on_cpu:
        pytest.skip("only SwiftShader draws without the table")
    ours = pictures()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # cannot hold a folder: SAPIEN's own shaders
    for one, other in zip(ours, pictures(), strict=True):
        np.testing.assert_array_equal(one, other)
