"""A world that knows nothing of Palaestra: a drawer to be pulled open."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec


class OpenDrawer(gymnasium.Env[np.ndarray, np.ndarray]):
    """A hand on a rail grasps a handle and pulls.

    Observation: float32 [3], the hand's place in [-2, 2], the handle's in [-2, 2], the drawer's opening in [0, 1].
    Action: float32 [2] in [-1, 1], the hand's motion in tenths, and the grip: above 0 the hand holds what it touches.
    Reward: how much further the drawer opened, and how much nearer the hand came to the handle.
    Termination: the drawer is open to `goal`. Truncation: after 40 steps. Info: `success`.
    """

    def __init__(self, goal: float = 0.8) -> None:
        """Make a drawer that counts as open at `goal`, in (0, 1]."""
        self.goal = goal
        self.spec = EnvSpec("kitchen/open-drawer-v0", max_episode_steps=40)  # says the limit that step() keeps
        self.observation_space = spaces.Box(np.float32([-2, -2, 0]), np.float32([2, 2, 1]))
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Close the drawer and put the hand somewhere near."""
        super().reset(seed=seed)
        self.closed, self.hand = self.np_random.uniform([-1, -0.5], [-0.5, 0.5])
        self.opening, self.steps = 0.0, 0
        return self._show(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the hand, and the drawer with it where it holds the handle."""
        before = self.opening - self._distance()
        touches = self._distance() < 0.1
        move = 0.1 * float(np.clip(action[0], -1, 1))
        if touches and action[1] > 0:
            self.opening = float(np.clip(self.opening + move, 0, 1))
            self.hand = self.closed + self.opening
        else:
            self.hand = float(np.clip(self.hand + move, -2, 2))
        self.steps += 1
        opened = self.opening >= self.goal
        reward = self.opening - self._distance() - before
        return self._show(), reward, opened, self.steps >= 40 and not opened, {"success": opened}

    def _distance(self) -> float:
        return abs(self.hand - self.closed - self.opening)

    def _show(self) -> np.ndarray:
        return np.array([self.hand, self.closed + self.opening, self.opening], np.float32)


def make(goal: float = 0.8) -> OpenDrawer:
    """Make one world."""
    return OpenDrawer(goal)
