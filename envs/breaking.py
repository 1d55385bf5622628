"""Copies of worlds that break on purpose, for `check`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
from gymnasium.vector import VectorWrapper
from torch import Tensor

from palaestra.envs.core import episode_seed
from palaestra.envs.registry import Source


@dataclass(frozen=True)
class _Breaking:
    """Makes single worlds that break in the first step of two episodes."""

    factory: Callable[[], gymnasium.Env[Any, Any]]
    nan: int
    """The seed of the episode with a reward that is not a number."""
    kill: int
    """The seed of the episode in which the process dies."""

    def __call__(self) -> gymnasium.Env[Any, Any]:
        return _BreakingEnv(self)


class _BreakingEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, plan: _Breaking) -> None:
        super().__init__(plan.factory())
        self.plan = plan
        self.seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.seed = seed
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.seed == self.plan.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.seed == self.plan.nan:
            reward = float("nan")
        return observation, reward, terminated, truncated, info


class _BreakingVectorEnv(VectorWrapper[Any, Any, Any, Any, Any]):
    """Gives row 1 a reward of NaN in the first step after each reset of all rows."""

    armed = False

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.armed = not (options and "reset_mask" in options)
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if self.armed:
            reward = reward.clone() if isinstance(reward, Tensor) else reward.astype(float)
            reward[1] = float("nan")
            self.armed = False
        return observation, reward, terminated, truncated, info


def breaking(source: Source) -> Source:
    """Return a source of worlds that break in the first step of a run of two rows with seed 0.

    Single worlds: row 0 has a reward of NaN, and the process dies that holds row 1. Vectorised ones: row 1 has a
    reward of NaN.
    """
    if source.single is not None:
        return replace(source, single=_Breaking(source.single, episode_seed(0, 0), episode_seed(0, 1)))
    vector = source.vector
    assert vector is not None
    return replace(source, vector=lambda count: _BreakingVectorEnv(vector(count)))
