import gymnasium
import numpy as np
import pytest
from scripted_worlds import Scripted

from palaestra.envs.chunk import Episode, WorldError, success_words

ACTIONS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(12, 2)


@pytest.mark.parametrize("seed", range(6))
def test_a_chunk_is_its_single_steps(seed: int) -> None:
    whole, single = Episode(Scripted()()), Episode(Scripted()())
    np.testing.assert_array_equal(whole.start(seed), single.start(seed))
    played = whole.play(ACTIONS)
    steps = []
    for action in ACTIONS:
        steps.append(single.play([action]))
        if steps[-1].terminated or steps[-1].truncated:
            break
    assert played.played == len(steps)
    expected = [float(step.rewards[0]) for step in steps] + [0.0] * (12 - len(steps))
    assert played.rewards.tolist() == expected
    last = steps[-1]
    assert (played.terminated, played.truncated) == (last.terminated, last.truncated)
    assert (played.success, played.success_once) == (last.success, last.success_once)
    assert played.success_once == any(step.success for step in steps)
    np.testing.assert_array_equal(played.observation, last.observation)


def test_a_chunk_stops_at_its_episodes_end() -> None:
    episode = Episode(Scripted(length=5)())
    episode.start(0)
    played = episode.play(ACTIONS)
    assert played.played == 5 and played.terminated and not played.truncated
    assert (played.rewards[:5] != 0).all() and (played.rewards[5:] == 0).all()


class Lamp(gymnasium.Env):
    """Success at chosen steps, reward 1 a step."""

    def __init__(self, key: str, lit: tuple[int, ...] = (), threshold: float | None = None) -> None:
        self.key, self.lit, self.time = key, lit, 0
        if threshold is not None:
            self.spec = gymnasium.envs.registration.EnvSpec("Lamp-v0", reward_threshold=threshold)

    def reset(self, **_: object) -> tuple[int, dict]:
        self.time = 0
        return 0, {}

    def step(self, action: object) -> tuple[int, float, bool, bool, dict]:
        self.time += 1
        return self.time, 1.0, False, False, {self.key: self.time in self.lit} if self.key else {}


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_success_once_lasts_for_the_episode_and_no_longer(key: str) -> None:
    episode = Episode(Lamp(key, lit=(2,)))
    episode.start(0)
    verdicts = [episode.play([0]) for _ in range(3)]
    assert [v.success for v in verdicts] == [False, True, False]
    assert [v.success_once for v in verdicts] == [False, True, True]
    episode.start(1)
    assert not episode.play([0]).success_once


def test_a_threshold_on_the_return_is_a_verdict() -> None:
    episode = Episode(Lamp("", threshold=3))
    episode.start(0)
    assert [episode.play([0]).success for _ in range(4)] == [False, False, True, True]
    assert Episode(Lamp("")).play([0]).success is False


def test_success_is_said_in_words() -> None:
    assert success_words({"success": False}, Lamp("")) == "info['success']"
    assert success_words({"is_success": 1}, Lamp("", threshold=3)) == "info['is_success']"
    assert success_words({}, Lamp("", threshold=475)) == "return so far >= 475 (the reward_threshold of Lamp-v0)"
    assert success_words({}, Lamp("")) == ""


@pytest.mark.parametrize(
    ("fault", "boundary", "message"),
    [("raise", "step", "ValueError: the gripper fell off at step 2"), ("reward", "reward", "reward is inf")],
)
def test_what_breaks_is_named(fault: str, boundary: str, message: str) -> None:
    episode = Episode(Scripted(length=5, faults={7: (fault, 2)})())
    episode.start(7)
    with pytest.raises(WorldError, match=message) as error:
        episode.play(ACTIONS)
    assert error.value.boundary == boundary


def test_a_broken_reset_is_named() -> None:
    with pytest.raises(WorldError, match="reset: ValueError: the gripper fell off at step 0"):
        Episode(Scripted(faults={7: ("raise", 0)})()).start(7)
