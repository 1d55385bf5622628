import runpy
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from palaestra.agents import baselines
from palaestra.agents.baselines import SB3Policy, SB3VecEnv, arrays, observation_space
from palaestra.agents.core import Decision
from palaestra.envs.core import Observation, episode_seed
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.toy import ReachEnv, expert_action
from palaestra.launch.evaluate import evaluate


class Line(gymnasium.Env[Any, Any]):
    """Walks a line by its action; ends at 1.0 with success, is cut after 5 steps, and breaks on 0.123.

    Observation: a vector of the place, the step and the episode's seed; with `picture`, a camera's view besides.
    """

    def __init__(self, picture: bool = False) -> None:
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        vector = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        camera = gymnasium.spaces.Box(0, 255, (40, 48, 3), np.uint8)
        self.picture = picture
        self.observation_space = gymnasium.spaces.Dict({"agent": vector, "eye": camera}) if picture else vector

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start at zero."""
        super().reset(seed=seed)
        self.place, self.steps, self.seed = 0.0, 0, float((seed or 0) % 1000)
        return self._view(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move."""
        move = float(action[0])
        self.place += move
        self.steps += 1
        reward = float("nan") if abs(move - 0.123) < 1e-6 else move
        done = self.place >= 1
        return self._view(), reward, done, self.steps >= 5, {"success": done}

    def _view(self) -> Any:
        vector = np.array([self.place, self.steps, self.seed], np.float32)
        return {"agent": vector, "eye": np.full((40, 48, 3), self.steps, np.uint8)} if self.picture else vector


def line(
    count: int, mode: AutoresetMode = AutoresetMode.DISABLED, picture: bool = False, chunk: int = 1
) -> LockstepWorlds:
    venv = SyncVectorEnv([lambda: Line(picture)] * count, autoreset_mode=mode)
    return LockstepWorlds(venv, id="test/line", chunk=chunk)


def reach(count: int, chunk: int = 1) -> LockstepWorlds:
    return LockstepWorlds(ReachEnv(count), id="toy/reach-v0", chunk=chunk)


def moves(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_shapes_types_and_spaces_are_those_of_a_vec_env() -> None:
    env = SB3VecEnv(line(3))
    assert env.num_envs == 3 and env.observation_space.shape == (3,) and env.action_space.shape == (1,)
    shown = env.reset()
    assert isinstance(shown, np.ndarray) and shown.shape == (3, 3) and shown.dtype == np.float32
    shown, rewards, dones, infos = env.step(moves(0.5, 0.25, -1))
    assert isinstance(shown, np.ndarray) and shown[:, 0].tolist() == [0.5, 0.25, -1]
    assert rewards.dtype == np.float32 and rewards.tolist() == [0.5, 0.25, -1]
    assert dones.dtype == bool and not dones.any()
    assert infos == [{"TimeLimit.truncated": False}] * 3
    assert env.get_attr("render_mode") == [None] * 3 and env.get_attr("count", [0, 2]) == [3, 3]
    assert not env.has_attr("goal") and env.env_is_wrapped(gymnasium.Wrapper) == [False] * 3
    with pytest.raises(NotImplementedError, match="test/line: goal cannot be set"):
        env.set_attr("goal", 1)
    with pytest.raises(NotImplementedError, match="test/line: render"):
        env.env_method("render")


def test_an_action_is_held_for_the_worlds_chunk() -> None:
    env = SB3VecEnv(line(2, chunk=3))
    env.reset()
    shown, rewards, dones, infos = env.step(moves(0.25, 0.5))
    # 3 x 0.25, and 0.5 twice: the second world ends at 1.
    assert rewards.tolist() == [0.75, 1.0] and dones.tolist() == [False, True]
    assert isinstance(shown, np.ndarray) and shown[0].tolist()[:2] == [0.75, 3]
    assert infos[1]["terminal_observation"].tolist()[:2] == [1.0, 2] and infos[1]["is_success"]
    model = PPO("MlpPolicy", env, n_steps=2, batch_size=4, device="cpu")
    action = SB3Policy(model, chunk=3).act(Observation(state=torch.randn(2, 3))).action
    assert isinstance(action, torch.Tensor) and action.shape == (2, 3, 1)
    assert torch.equal(action[:, 0], action[:, 2])


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP])
def test_terminal_observation_is_the_true_last_view_and_ends_are_told_apart(mode: AutoresetMode) -> None:
    env = SB3VecEnv(line(3, mode), seed=4)
    first = env.reset()
    for _ in range(4):
        shown, _, dones, _ = env.step(moves(0.2, 0.1, 0.2))
        assert not dones.any()
    shown, rewards, dones, infos = env.step(moves(0.5, 0.1, -0.5))
    # Row 0 terminates in success as its time runs out too; rows 1 and 2 are cut.
    assert dones.all() and rewards == pytest.approx([0.5, 0.1, -0.5])
    last = np.array([info["terminal_observation"] for info in infos])
    assert last[:, 0] == pytest.approx([1.3, 0.5, 0.3]) and last[:, 1].tolist() == [5, 5, 5]
    assert (last[:, 2] == first[:, 2]).all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True, True]
    assert [info["is_success"] for info in infos] == [True, False, False]
    assert (shown[:, :2] == 0).all()
    if mode is AutoresetMode.DISABLED:
        assert shown[:, 2].tolist() == [episode_seed(4, row + 3) % 1000 for row in range(3)]
    shown, _, dones, infos = env.step(moves(0, 0, 0))
    assert not dones.any() and infos == [{"TimeLimit.truncated": False}] * 3


def test_earlier_observations_are_not_overwritten() -> None:
    env = SB3VecEnv(line(2))
    first = env.reset()
    kept = first.copy()
    second = env.step(moves(0.3, 0.3))[0]
    env.step(moves(0.3, 0.3))
    assert (first == kept).all() and second[:, 0] == pytest.approx([0.3, 0.3])


def test_seeds_say_the_start_states_and_unseeded_resets_go_on() -> None:
    env = SB3VecEnv(line(2), seed=7)
    starts = [env.reset()[:, 2].tolist() for _ in range(3)]
    assert starts[0] == [episode_seed(7, row) % 1000 for row in range(2)] and len({str(s) for s in starts}) == 3
    env.seed(7)
    assert [env.reset()[:, 2].tolist() for _ in range(3)] == starts
    env.seed(8)
    assert env.reset()[:, 2].tolist() == [episode_seed(8, row) % 1000 for row in range(2)]


def test_a_fault_cuts_the_episode_at_the_last_good_view() -> None:
    env = SB3VecEnv(line(2))
    env.reset()
    env.step(moves(0.25, 0.25))
    shown, rewards, dones, infos = env.step(moves(0.123, 0.25))
    assert dones.tolist() == [True, False] and rewards.tolist() == [0, 0.25]
    assert infos[0]["terminal_observation"][:2].tolist() == [0.25, 1] and infos[0]["TimeLimit.truncated"]
    assert "reward" in infos[0]["fault"] and "is_success" not in infos[0]
    assert shown[:, 1].tolist() == [0, 2]


def test_pictures_make_a_dictionary_that_ppo_takes() -> None:
    env = SB3VecEnv(line(2, picture=True))
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    assert set(env.observation_space.spaces) == {"state", "eye"}
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu", seed=0).learn(16)
    assert evaluate(line(2, picture=True), SB3Policy(model), 2, seed=0).length_mean == 5
    for _ in range(5):
        infos = env.step(moves(0, 0))[3]
    last = next(info["terminal_observation"] for info in infos if "terminal_observation" in info)
    assert last["eye"].shape == (40, 48, 3) and (last["eye"] == 5).all() and last["state"][1] == 5


def test_worlds_without_a_state_vector_are_a_dictionary_of_pictures() -> None:
    spec = line(1, picture=True).spec
    only = type(spec)(spec.id, spec.action, state=None, images=spec.images)
    assert list(observation_space(only).spaces) == ["eye"]
    assert list(arrays(Observation(images={"eye": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}))) == ["eye"]


def test_discrete_actions_go_both_ways() -> None:
    venv = gymnasium.make_vec("CartPole-v1", 4, vectorization_mode="sync", vector_kwargs={"autoreset_mode": "SameStep"})
    worlds = LockstepWorlds(venv, id="CartPole-v1")
    model = PPO("MlpPolicy", SB3VecEnv(worlds), n_steps=16, batch_size=32, n_epochs=1, device="cpu", seed=0).learn(64)
    evaluation = evaluate(worlds, SB3Policy(model), 4, seed=0)
    assert evaluation.return_mean == evaluation.length_mean and len(evaluation.episode_list) == 4


def test_ppo_improves_and_its_own_evaluation_gives_our_return_on_the_same_episodes() -> None:
    torch.set_num_threads(1)
    hyper = {"n_steps": 32, "batch_size": 256, "n_epochs": 5, "learning_rate": 1e-3, "gamma": 0.95}
    model = PPO("MlpPolicy", VecMonitor(SB3VecEnv(reach(32))), seed=0, device="cpu", **hyper)
    before = evaluate(reach(32), SB3Policy(model), 64, seed=9).return_mean
    model.learn(5 * 1024)
    after = evaluate(reach(16), SB3Policy(model), 64, seed=9).return_mean
    assert before is not None and after is not None and after > before + 0.5
    theirs, _ = evaluate_policy(model, VecMonitor(SB3VecEnv(reach(32), seed=9)), n_eval_episodes=64)
    assert theirs == pytest.approx(after, abs=1e-4)


class HalfExpert:
    """The toy's expert, which forgets how to move where the goal is low; for us and for Stable-Baselines3."""

    def act(self, observation: Observation) -> Decision:
        """Decide."""
        assert observation.state is not None
        action = expert_action(observation.state)
        return Decision(torch.where(observation.state[:, 5:6] > 0, action, 0.0)[:, None])

    def predict(self, observation: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        """Decide."""
        action = self.act(Observation(state=torch.as_tensor(observation))).action
        assert isinstance(action, torch.Tensor)
        return action[:, 0].numpy(), None


def test_both_evaluations_give_the_same_success_rate_and_lengths_on_the_same_episodes() -> None:
    ours = evaluate(reach(8), HalfExpert(), 64, seed=3)
    successes: list[bool] = []

    def keep(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            successes.append(local["info"]["is_success"])

    env = VecMonitor(SB3VecEnv(reach(16), seed=3))
    returns, lengths = evaluate_policy(HalfExpert(), env, 64, callback=keep, return_episode_rewards=True)
    assert ours.success_at_end is not None and 0.2 < ours.success_at_end < 0.8
    assert len(successes) == 64 and np.mean(successes) == ours.success_at_end
    assert isinstance(returns, list) and isinstance(lengths, list)
    assert sorted(lengths) == sorted(episode.length for episode in ours.episode_list)
    # VecMonitor rounds returns to six digits.
    assert sorted(returns) == pytest.approx(sorted(episode.total for episode in ours.episode_list), abs=1e-5)


def test_sac_trains() -> None:
    torch.set_num_threads(1)
    env = SB3VecEnv(reach(4))
    model = SAC("MlpPolicy", env, learning_starts=100, batch_size=32, seed=0, device="cpu")
    before = [parameter.clone() for parameter in model.actor.parameters()]
    model.learn(240)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.actor.parameters(), strict=True))
    buffer = model.replay_buffer
    assert buffer is not None
    # Where an episode ended, the buffer's next view is its last one and not the next episode's first.
    ended = buffer.dones[: buffer.pos].astype(bool)
    goal, after = (
        buffer.observations[: buffer.pos][ended][:, 4:6],
        buffer.next_observations[: buffer.pos][ended][:, 4:6],
    )
    assert len(goal) and (goal == after).all()
    assert (buffer.timeouts[: buffer.pos][ended] == 1).all()  # this early, every end is the time limit
    assert evaluate(reach(4), SB3Policy(model), 4, seed=0).length_mean is not None


def test_normalisation_statistics_travel_with_the_policy() -> None:
    env = VecNormalize(SB3VecEnv(line(2)), norm_reward=False)
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, device="cpu", seed=0).learn(32)
    shown = torch.tensor([[0.5, 2.0, 300.0], [-0.5, 1.0, 700.0]])
    expected, _ = model.predict(env.normalize_obs(shown.numpy()), deterministic=True)
    raw, _ = model.predict(shown.numpy(), deterministic=True)
    action = SB3Policy(model).act(Observation(state=shown)).action
    assert isinstance(action, torch.Tensor) and action.shape == (2, 1, 1)
    assert np.array_equal(action[:, 0].numpy(), expected) and not np.array_equal(expected, raw)


def test_worlds_that_sb3_cannot_step_are_refused_with_the_way_out() -> None:
    env = SB3VecEnv(line(2, AutoresetMode.NEXT_STEP))
    env.reset()
    with pytest.raises(RuntimeError, match=r"rows \[1\] of 2.*autoreset_mode"):
        for _ in range(4):
            env.step(moves(0.5, 0.1))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.vec_env", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "palaestra\[sb3\]"'):
        runpy.run_path(baselines.__file__)
