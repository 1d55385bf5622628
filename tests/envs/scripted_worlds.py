"""Single worlds that do what a test scripts: small random dynamics, and faults in chosen episodes."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

VECTOR = spaces.Box(-100, 100, (3,), np.float32)
OBSERVATIONS: dict[str, gymnasium.Space[Any]] = {
    "vector": VECTOR,
    "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "text": spaces.Text(40),
    "dict": spaces.Dict(
        {
            "wrist": spaces.Box(0, 255, (4, 5, 3), np.uint8),
            "joints": VECTOR,
            "angle": spaces.Box(-100, 100, (), np.float64),
            "instruction": spaces.Text(40),
        }
    ),
}
ACTIONS: dict[str, gymnasium.Space[Any]] = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(3, start=-1),
    "text": spaces.Text(20),
}


@dataclass(frozen=True)
class Scripted:
    """Makes scripted worlds."""

    shows: str = "vector"
    takes: str = "box"
    faults: Mapping[int, tuple[str, int]] = field(default_factory=dict)  # episode's seed: (what, at which step)
    once: Path | None = None  # a file without which nothing faults, and that the first fault removes
    slow: Mapping[int, float] = field(default_factory=dict)  # episode's seed: seconds a step
    verdict: str = "success"  # the key in info, or ""
    length: int = 0  # steps of each episode, 0: drawn from its seed
    broken: Path | None = None  # no world can be made while this file exists
    pids: Path | None = None  # a folder where each made world leaves a file named by its process

    def __call__(self) -> gymnasium.Env[Any, Any]:
        if self.broken is not None and self.broken.exists():
            raise OSError("the simulator's licence has expired")
        return ScriptedEnv(self)


class ScriptedEnv(gymnasium.Env[Any, Any]):
    def __init__(self, script: Scripted) -> None:
        self.script = script
        self.observation_space = OBSERVATIONS[script.shows]
        self.action_space = ACTIONS[script.takes]
        self.state = np.zeros(3, np.float32)
        self.seed: int | None = None
        self.time = self.last = 0
        if script.pids is not None:
            (script.pids / str(os.getpid())).touch()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.rng = np.random.default_rng(seed)
        self.seed, self.time = seed, 0
        drawn = int(self.rng.integers(2, 9))
        self.last = self.script.length or drawn
        self.state = self.rng.normal(size=3).astype(np.float32)
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.script.slow.get(self.seed or 0, 0.0))
        self.time += 1
        push = len(action) if isinstance(action, str) else float(np.sum(action))
        self.state = (0.9 * self.state + 0.1 * push + 0.1 * self.rng.normal(size=3)).astype(np.float32)
        ended = self.time >= self.last
        cut = ended and self.last % 2 == 0
        reward = float(self.state.sum())
        info = {self.script.verdict: bool(self.state[0] > 0)} if self.script.verdict else {}
        observation = self._show()
        if self._now("reward"):
            reward = float("inf")
        return observation, reward, ended and not cut, cut, info

    def _now(self, *what: str) -> bool:
        now = self.script.faults.get(self.seed or 0, ("", -1)) in [(name, self.time) for name in what]
        if now and self.script.once is not None:
            now = self.script.once.exists()
            self.script.once.unlink(missing_ok=True)
        return now

    def _show(self) -> Any:
        if self._now("raise"):
            raise ValueError(f"the gripper fell off at step {self.time}")
        if self._now("exit"):
            os._exit(3)
        if self._now("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._now("hang"):
            time.sleep(1000)
        vector = self.state.copy()
        if self._now("nan"):
            vector[1] = np.nan
        if self._now("shape"):
            vector = vector[:2]
        if self._now("dtype"):
            vector = vector.astype(np.int64)
        picture = np.random.default_rng(abs(int(self.state[0] * 1000))).integers(0, 256, (4, 5, 3), np.uint8)
        text = f"step {self.time}: {self.state[0]:.3f} °"
        whole = {"joints": vector, "wrist": picture, "angle": float(vector[0]), "instruction": text}
        return {"vector": vector, "image": picture, "text": text, "dict": whole}[self.script.shows]
