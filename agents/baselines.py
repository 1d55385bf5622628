"""Stable-Baselines3 both ways: our worlds as its VecEnv, its models as our policies.

So that its PPO and SAC train on any lock-step world and are evaluated exactly as our own policies are. Importing
this module imports Stable-Baselines3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from palaestra.agents.core import Decision
from palaestra.envs.core import Observation, Step, Worlds, WorldSpec, episode_seed

try:
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'palaestra.agents.baselines needs Stable-Baselines3: pip install "palaestra[sb3]"', name=error.name
    ) from error

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

Arrays = np.ndarray | dict[str, np.ndarray]
"""What Stable-Baselines3 calls an observation."""


class SB3VecEnv(VecEnv):
    """Worlds that answer together, as a Stable-Baselines3 `VecEnv`.

    Its observations are the state vector, or a dictionary of "state" and each camera's pictures. At an episode's
    end, the info holds what Stable-Baselines3 reads: "terminal_observation" (the true last view),
    "TimeLimit.truncated" and "is_success" (the verdict on the last view; beside it "is_success_once").

    An episode that a fault voids ends as one that was cut at the last good view, so that nothing is learnt from the
    fault; its info holds "fault" and no "is_success".

    Example:
        >>> from stable_baselines3 import PPO
        >>> from palaestra.envs.lockstep import LockstepWorlds
        >>> from palaestra.envs.toy import ReachEnv
        >>> worlds = LockstepWorlds(ReachEnv(8), id="toy/reach-v0")
        >>> model = PPO("MlpPolicy", SB3VecEnv(worlds), n_steps=32, device="cpu").learn(256)
        >>> policy = SB3Policy(model)
    """

    def __init__(self, worlds: Worlds, seed: int = 0) -> None:
        """Take worlds; `close` closes them.

        Args:
            worlds: With a `Box` or `Discrete` action space and no text. An action is held for the worlds' chunk: with
                chunk = 5, Stable-Baselines3 decides at every fifth step, and is paid the sum of the five rewards.
            seed: Of the start states, until `VecEnv.seed` gives another.

        Raises:
            ValueError: The worlds cannot be a `VecEnv`, with what to change.
        """
        _check(worlds.spec)
        self.worlds = worlds
        self._seed, self._resets = seed, 0
        self._shown: Arrays = {}
        super().__init__(worlds.count, observation_space(worlds.spec), worlds.spec.action)

    def reset(self) -> Arrays:
        """Start every row afresh and return the first views. Unseeded resets go on to further start states."""
        if self._seeds[0] is not None:
            self._seed, self._resets = int(self._seeds[0]), 0
        seed = self._seed if self._resets == 0 else episode_seed(self._seed, self._resets)
        self._resets += 1
        self._reset_seeds()
        self._reset_options()
        self._shown = arrays(self.worlds.reset(seed).observation)
        return self._shown

    def step_async(self, actions: np.ndarray) -> None:
        """Send one action a row, [B, A] or [B], held for the chunk."""
        action = held(torch.as_tensor(actions), self.worlds.spec.chunk)
        self.worlds.send(torch.arange(self.num_envs), action)

    def step_wait(self) -> tuple[Arrays, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Return observations, rewards [B] float32, dones [B] bool and B infos.

        Raises:
            RuntimeError: The worlds did not answer for all rows at once.
        """
        step = self.worlds.recv()
        if len(step.rows) != self.num_envs:
            raise RuntimeError(
                f"{self.worlds.spec.id} answered for rows {step.rows.tolist()} of {self.num_envs}, but "
                "Stable-Baselines3 steps all rows together: make the pool without `batch`, or the VectorEnv with "
                "autoreset_mode DISABLED or SAME_STEP."
            )
        dones = step.ended | step.faulted
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        if bool(dones.any()):
            self._describe_ends(step, infos)
        self._shown = arrays(step.observation)
        return self._shown, step.reward.cpu().numpy(), dones.cpu().numpy(), infos

    def close(self) -> None:
        """Close the worlds."""
        self.worlds.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return one of the worlds' attributes, the same for each row; `render_mode` is None."""
        value = None if attr_name == "render_mode" else getattr(self.worlds, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Refuse: rows are not objects of their own."""
        raise NotImplementedError(f"{self.worlds.spec.id}: {attr_name} cannot be set in single rows of Worlds.")

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse: rows are not objects of their own."""
        raise NotImplementedError(f"{self.worlds.spec.id}: {method_name} cannot be called on single rows of Worlds.")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: int | Iterable[int] | None = None
    ) -> list[bool]:
        """Return False for each row: wrappers inside the worlds are their own business."""
        return [False for _ in self._get_indices(indices)]

    def _describe_ends(self, step: Step, infos: list[dict[str, Any]]) -> None:
        """Put into the infos what Stable-Baselines3 reads at an episode's end."""
        truncated = (step.truncated & ~step.terminated).tolist()
        success, once = step.success.tolist(), step.success_once.tolist()
        last = None if step.final is None else arrays(step.final)
        for place, row in enumerate(step.ended.nonzero().flatten().tolist()):
            assert last is not None, "Step.final holds the last views of the rows that ended"
            infos[row]["terminal_observation"] = _row(last, place)
            infos[row]["TimeLimit.truncated"] = truncated[row]
            if self.worlds.spec.success:
                infos[row] |= {"is_success": success[row], "is_success_once": once[row]}
        for row, fault in enumerate(step.faults):
            if fault is not None:
                infos[row]["terminal_observation"] = _row(self._shown, row)
                infos[row] |= {"TimeLimit.truncated": True, "fault": fault.message}


class SB3Policy:
    """A Stable-Baselines3 model as a policy, with the `VecNormalize` statistics it was trained with, if any."""

    def __init__(self, model: BaseAlgorithm, deterministic: bool = True, chunk: int = 1) -> None:
        """Take a model.

        Args:
            model: Trained on `SB3VecEnv`, or on the same spaces.
            deterministic: Whether it takes its best action, as it would be deployed, or draws one.
            chunk: Of the worlds: for how many steps an action is held.
        """
        self.model = model
        self.deterministic, self.chunk = deterministic, chunk

    def act(self, observation: Observation) -> Decision:
        """Decide for N worlds: [N, C, A] float32, or [N, C] int64."""
        shown = arrays(observation)
        normaliser = self.model.get_vec_normalize_env()
        if normaliser is not None:
            shown = normaliser.normalize_obs(shown)
        action, _ = self.model.predict(shown, deterministic=self.deterministic)
        return Decision(held(torch.as_tensor(action), self.chunk))


def held(action: torch.Tensor, chunk: int) -> torch.Tensor:
    """Return actions [N, …] as chunks [N, C, …] that repeat them."""
    return action[:, None].expand(-1, chunk, *action.shape[1:])


def observation_space(spec: WorldSpec) -> spaces.Box | spaces.Dict:
    """Return what worlds show as Stable-Baselines3 names it: a `Box`, or a `Dict` where there are pictures."""
    state = spaces.Box(-np.inf, np.inf, (spec.state or 0,), np.float32)
    if not spec.images:
        return state
    parts: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(0, 255, shape, np.uint8) for name, shape in spec.images.items()
    }
    return spaces.Dict(parts if spec.state is None else {"state": state, **parts})


def arrays(observation: Observation) -> Arrays:
    """Return what N worlds show as arrays [N, …] that later steps leave alone, in the form of `observation_space`."""
    state = None if observation.state is None else observation.state.cpu().numpy().copy()
    if not observation.images:
        assert state is not None, "worlds without pictures and text show a state"
        return state
    parts = {name: picture.cpu().numpy().copy() for name, picture in observation.images.items()}
    return parts if state is None else {"state": state, **parts}


def _row(shown: Arrays, row: int) -> Arrays:
    return {name: part[row] for name, part in shown.items()} if isinstance(shown, dict) else shown[row]


def _check(spec: WorldSpec) -> None:
    """Refuse worlds that Stable-Baselines3 cannot step."""
    if spec.text:
        raise ValueError(f"{spec.id} shows text, which Stable-Baselines3 has no space for.")
    if not isinstance(spec.action, (spaces.Box, spaces.Discrete)):
        raise ValueError(f"{spec.id} takes {spec.action}; Stable-Baselines3 needs a Box or Discrete action space here.")
    if "state" in spec.images:
        raise ValueError(f"{spec.id} has a camera named 'state', which is the state vector's name: rename it.")
