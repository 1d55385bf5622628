"""The scripted experts solve their tasks, and what they leave behind is what they did."""

import numpy as np
import pytest
import torch

from palaestra.envs.core import episode_seed
from palaestra.envs.manipulation import vulkan
from palaestra.envs.manipulation.experts import CONTROL, EXPERTS, demonstrate
from palaestra.envs.manipulation.maniskill import env_factory

pytestmark = pytest.mark.simulator
pytest.importorskip("mani_skill")


def success_rate(task: str, episodes: int) -> float:
    env = env_factory(task, control=CONTROL, reward="sparse")()
    successes = 0
    for seed in range(episodes):
        state, info = env.reset(seed=seed)
        ended = False
        while not ended:
            action = EXPERTS[task](torch.from_numpy(state)[None])[0].numpy()
            state, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        successes += info["success"]
    return successes / episodes


@pytest.mark.parametrize("task", EXPERTS)
def test_experts_solve_their_tasks(task: str) -> None:
    assert success_rate(task, 12) >= 11 / 12


@pytest.mark.slow
@pytest.mark.parametrize("task", EXPERTS)
def test_experts_solve_their_tasks_over_100_seeds(task: str) -> None:
    assert success_rate(task, 100) >= 0.95


@pytest.mark.parametrize(("task", "width"), [("PushCube-v1", 35), ("PickCube-v1", 42), ("StackCube-v1", 48)])
def test_an_expert_acts_on_each_row_by_itself_and_within_bounds(task: str, width: int) -> None:
    states = torch.randn(64, width, generator=torch.Generator().manual_seed(0)) * 0.1
    actions = EXPERTS[task](states)
    assert actions.shape == (64, 4) and actions.abs().max() <= 1
    assert set(actions[:, 3].tolist()) <= {-1.0, 1.0}
    rows = torch.cat([EXPERTS[task](state[None]) for state in states])
    torch.testing.assert_close(rows, actions)


def test_demonstrations_can_be_played_again() -> None:
    episodes = demonstrate("PushCube-v1", 2, seed=5, noise=0.3)
    env = env_factory("PushCube-v1", control=CONTROL)()
    for index, episode in enumerate(episodes):
        assert episode.success and episode.text == "push the cube onto the target"
        assert episode.seed == episode_seed(5, index)
        view, _ = env.reset(seed=episode.seed)
        views, rewards = [view], []
        for action in episode.action.numpy():
            view, reward, terminated, _, _ = env.step(action)
            views.append(view)
            rewards.append(reward)
        assert terminated
        assert episode.state is not None
        np.testing.assert_array_equal(episode.state.numpy(), np.stack(views))
        np.testing.assert_array_equal(episode.reward.numpy(), np.float32(rewards))


def test_noise_changes_the_moves_and_never_the_gripper() -> None:
    (plain,) = demonstrate("PickCube-v1", 1, seed=1)
    (noisy,) = demonstrate("PickCube-v1", 1, seed=1, noise=0.05)
    assert noisy.seed == plain.seed
    assert plain.state is not None and noisy.state is not None
    torch.testing.assert_close(plain.state[0], noisy.state[0], rtol=0, atol=0)
    difference = noisy.action[0] - plain.action[0]
    assert (difference[:3] != 0).any() and difference[3] == 0
    assert set(noisy.action[:, 3].tolist()) == {-1.0, 1.0}


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no expert for 'PushCub-v1'.*Did you mean PushCube-v1"):
        demonstrate("PushCub-v1", 1, seed=0)
    with pytest.raises(ValueError, match="episodes is 0"):
        demonstrate("PushCube-v1", 0, seed=0)
    with pytest.raises(ValueError, match="noise nan"):
        demonstrate("PushCube-v1", 1, seed=0, noise=float("nan"))
    with pytest.raises(RuntimeError, match=r"succeeded in \d of 25 attempts with noise=50"):
        demonstrate("PushCube-v1", 1, seed=0, noise=50.0)


@pytest.mark.slow
@pytest.mark.skipif(vulkan.find_renderer() is None, reason="no Vulkan device renders here")
def test_demonstrations_with_pictures_show_the_same_episode() -> None:
    (seen,) = demonstrate("PushCube-v1", 1, seed=3, observation="rgb", image_size=16)
    (known,) = demonstrate("PushCube-v1", 1, seed=3)
    torch.testing.assert_close(seen.action, known.action, rtol=0, atol=0)
    assert seen.images["base_camera"].shape == (len(seen) + 1, 16, 16, 3)
    assert seen.state is not None and seen.state.shape[1] == 25
