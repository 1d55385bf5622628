"""Single worlds that each keep the contract but for one thing, named by their functions."""

import os
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from palaestra.envs.toy import ReachEnv


class Walk(gymnasium.Env[Any, Any]):
    """A point is pushed about for ten steps, and has succeeded once it is far from 0."""

    def __init__(self, **changes: Callable[..., Any]) -> None:
        self.changes = changes
        self.observation_space = spaces.Box(-100, 100, (2,), np.float32)
        self.action_space = changes.get("space", lambda: spaces.Box(-1, 1, (2,), np.float32))()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self._now("start", self.np_random.uniform(-0.5, 0.5, 2))
        return self.place.astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.place = self._now("move", self.place + 0.1 * np.asarray(action), action)
        far = bool(np.abs(self.place).max() > 0.9)
        reward = self._now("reward", float(self.place[0]))
        info = self._now("info", {"success": far})
        return self._now("show", self.place.astype(np.float32)), reward, self._now("ended", False), False, info

    def _now(self, what: str, value: Any, *more: Any) -> Any:
        return self.changes[what](value, *more) if what in self.changes else value


def limited(**changes: Callable[..., Any]) -> gymnasium.Env[Any, Any]:
    walk = Walk(**changes)
    walk.spec = EnvSpec("Walk-v0", "checked_worlds:Walk")
    return TimeLimit(walk, 10)


def good() -> gymnasium.Env[Any, Any]:
    return limited()


def unseeded() -> gymnasium.Env[Any, Any]:
    return limited(start=lambda place: np.frombuffer(os.urandom(2), np.uint8) / 256)


def one_start() -> gymnasium.Env[Any, Any]:
    return limited(start=lambda place: place * 0)


def noisy() -> gymnasium.Env[Any, Any]:
    return limited(move=lambda place, action: place + int.from_bytes(os.urandom(2)) / 2**20)


def limitless() -> gymnasium.Env[Any, Any]:
    return Walk(ended=lambda ended: bool(np.random.default_rng().random() < 0.1))


def endless() -> gymnasium.Env[Any, Any]:
    return Walk()


def verdictless() -> gymnasium.Env[Any, Any]:
    return limited(info=lambda info: {})


def always_won() -> gymnasium.Env[Any, Any]:
    return limited(info=lambda info: {"success": True})


def huge() -> gymnasium.Env[Any, Any]:
    return limited(show=lambda view: view * 50, reward=lambda reward: reward * 1e4)


def rewardless() -> gymnasium.Env[Any, Any]:
    return limited(reward=lambda reward: 0.0)


def wrongly_shaped() -> gymnasium.Env[Any, Any]:
    return limited(show=lambda view: view[:1])


def touchy() -> gymnasium.Env[Any, Any]:
    def move(place: Any, action: Any) -> Any:
        assert np.abs(action).max() <= 1, "the motor burnt out"
        return place

    return limited(move=move)


def unbounded() -> gymnasium.Env[Any, Any]:
    return limited(space=lambda: spaces.Box(-np.inf, np.inf, (2,), np.float32))


def odd_bounds() -> gymnasium.Env[Any, Any]:
    return limited(space=lambda: spaces.Box(0, 4, (2,), np.float32))


class TerminatesAtItsLimit(gymnasium.Wrapper[Any, Any, Any, Any]):
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info


def misnamed_limit() -> gymnasium.Env[Any, Any]:
    return TerminatesAtItsLimit(limited())


class ResetsOnlyEndedRows(ReachEnv):
    """Cannot give up an episode that has not ended."""

    def step(self, actions: Any) -> Any:
        result = super().step(actions)
        self.ended = result[2] | result[3]
        return result

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if options and not self.ended[np.asarray(options["reset_mask"])].all():
            raise RuntimeError("the arm cannot go home while it moves")
        return super().reset(seed=seed, options=options)
