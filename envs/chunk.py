"""A chunk of actions played in one single world, up to its episode's end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from palaestra.envs.core import Boundary


class WorldError(Exception):
    """A world broke at one boundary. The cause, where there is one, is chained to it."""

    def __init__(self, boundary: Boundary, message: str) -> None:
        super().__init__(message)
        self.boundary: Boundary = boundary


@contextmanager
def boundary(name: Boundary) -> Iterator[None]:
    """Turn whatever the world raises inside into a `WorldError` of this boundary."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise WorldError(name, f"{name}: {type(error).__name__}: {error}") from error


@dataclass(slots=True)
class Played:
    """What came of one chunk of C actions."""

    rewards: np.ndarray
    """[C] float32, zero after the episode's end."""
    played: int
    """How many of the C actions were played."""
    terminated: bool
    """The task ended."""
    truncated: bool
    """The episode was cut."""
    success: bool
    """The task's own verdict on the last view."""
    success_once: bool
    """That verdict was true at some time in this episode."""
    observation: Any
    """The last view, as the world returned it."""


class Episode:
    """One world and how its current episode has gone so far.

    The verdict is `info["success"]`, else `info["is_success"]`, else "the return so far has reached the
    `reward_threshold` of the world's `EnvSpec`", else False.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], tick: Callable[[], object] = bool) -> None:
        """Take a world; `tick` is called after each of its steps and resets (a heartbeat)."""
        self.env = env
        self.threshold = env.spec.reward_threshold if env.spec is not None else None
        self.total = 0.0
        self.success_once = False
        self._tick = tick

    def start(self, seed: int) -> Any:
        """Reset the world with a seed and return its first view."""
        self.total, self.success_once = 0.0, False
        with boundary("reset"):
            observation, _ = self.env.reset(seed=seed)
        self._tick()
        return observation

    def play(self, actions: Sequence[Any]) -> Played:
        """Play C actions, or fewer where the episode ends before, and return what came of them.

        Raises:
            WorldError: Where the world raises, or its reward is no finite number.
        """
        rewards = np.zeros(len(actions), np.float32)
        step, tick = self.env.step, self._tick
        count = 0
        for action in actions:
            try:
                observation, reward, terminated, truncated, info = step(action)
            except (Exception, SystemExit) as error:
                raise WorldError("step", f"step: {type(error).__name__}: {error}") from error
            tick()
            rewards[count] = value = self._number(reward)
            count += 1
            self.total += value
            success = self._verdict(info)
            self.success_once |= success
            if terminated or truncated:
                break
        return Played(
            rewards, count, bool(terminated), bool(truncated), success, self.success_once, observation
        )

    def _number(self, reward: Any) -> float:
        with_error = f"reward is {reward!r}, expected a finite number."
        try:
            value = float(reward)
        except (TypeError, ValueError) as error:
            raise WorldError("reward", with_error) from error
        if not math.isfinite(value):
            raise WorldError("reward", with_error)
        return value

    def _verdict(self, info: dict[str, Any]) -> bool:
        value = info.get("success")
        if value is None:
            value = info.get("is_success")
        if value is None:
            return self.threshold is not None and self.total >= self.threshold
        with boundary("step"):
            return bool(value)


def success_words(info: dict[str, Any], env: gymnasium.Env[Any, Any]) -> str:
    """Return in words how `Episode` judges a world that reports `info`, empty where it has no verdict."""
    for key in ("success", "is_success"):
        if info.get(key) is not None:
            return f"info[{key!r}]"
    if env.spec is not None and env.spec.reward_threshold is not None:
        return f"return so far >= {env.spec.reward_threshold:g} (the reward_threshold of {env.spec.id})"
    return ""
