"""Many ManiSkill worlds in one simulation on a GPU, as a Gymnasium `VectorEnv` on torch.

The same class runs one world on a CPU, which is how it is tested without a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from palaestra.envs.manipulation.maniskill import (
    ManiSkillFactory,
    arms_of,
    build,
    command,
    flat,
    registered,
    renderer_for,
    space_of,
    view,
)


class ManiSkillVectorEnv(VectorEnv[Any, Tensor, Tensor]):
    """B worlds of one task. Whoever steps them resets those whose episode ended: autoreset is disabled.

    A world's start depends on its own seed alone, not on its row, nor on how many worlds are reset with it
    (ManiSkill by itself draws all starts of one reset from the first seed). It does depend on the device: a
    GPU draws other numbers than a CPU, and its physics are not repeatable to the bit.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, factory: ManiSkillFactory, count: int, device: str) -> None:
        """Build the simulation.

        Raises:
            ValueError: Where several worlds are to be simulated on a CPU, or ManiSkill has no such control mode
                or reward.
        """
        place = torch.device(device)
        if place.type == "cpu" and count != 1:
            raise ValueError(
                f"{factory.task}: on a CPU one simulation holds one world, but count is {count}. Use a GPU, or "
                "the process pool: env_factory makes its worlds."
            )
        spec = registered(factory.task)
        backend = "physx_cpu" if place.type == "cpu" else f"physx_{device}"
        self._factory = factory
        size = {"num_envs": count, "sim_backend": backend, "reconfiguration_freq": 0}
        self.simulator = build(factory, spec, renderer_for(factory), **size)
        """ManiSkill's own environment. Its scene is built once: shapes that a task varies stay as they are."""
        self.num_envs = count
        self.render_mode = factory.render_mode
        self.spec = EnvSpec(factory.task, max_episode_steps=factory.max_steps or spec.max_episode_steps)
        self._arms = arms_of(self.simulator.single_action_space)
        self._seeds = np.zeros(count, np.int64)
        self._start_each_row_from_its_seed()
        self._forget_contacts_at_reset()
        self.single_action_space = flat(self.simulator.single_action_space)
        self.action_space = batch_space(self.single_action_space, count)
        shown = self._show(self.simulator._init_raw_obs)
        first = {name: part[0].numpy() for name, part in shown.items()} if isinstance(shown, dict) else None
        self.single_observation_space = space_of(shown[0].numpy() if isinstance(shown, Tensor) else first)
        self.observation_space = batch_space(self.single_observation_space, count)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes and return the views of all rows.

        Args:
            seed: One a row, or one from which they are counted up; of rows that are not reset it is not read.
                None draws them.
            options: `reset_mask`, bool [B]: which rows to reset, by default all.
        """
        mask = (options or {}).get("reset_mask")
        rows = np.arange(self.num_envs) if mask is None else torch.as_tensor(mask).cpu().numpy().nonzero()[0]
        if seed is None:
            seed = np.random.default_rng().integers(2**31, size=self.num_envs).tolist()
        elif isinstance(seed, int):
            seed = [seed + row for row in range(self.num_envs)]
        self._seeds[rows] = np.array(seed, np.int64)[rows]
        index = torch.from_numpy(rows).to(self.simulator.device)
        observation, info = self.simulator.reset(seed=int(self._seeds[rows[0]]), options={"env_idx": index})
        return self._show(observation), self._verdict(info)

    def step(self, actions: Tensor) -> tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Play actions [B, A] in [-1, 1] (clipped) for one control step, 0.05 s."""
        moves = torch.as_tensor(actions, dtype=torch.float32, device=self.simulator.device)
        observation, reward, terminated, _, info = self.simulator.step(command(moves, self._arms))
        limit = self.spec.max_episode_steps if self.spec is not None else None
        over = self.simulator.elapsed_steps >= limit if limit is not None else torch.zeros_like(terminated)
        ended = terminated if self._factory.stop_at_success else torch.zeros_like(terminated)
        return self._show(observation), reward.float(), ended, over, self._verdict(info)

    def render(self) -> tuple[Any, ...]:
        """Return one picture [H, W, 3] uint8 a world, as NumPy arrays.

        Raises:
            RuntimeError: Where the worlds were not made with `render_mode="rgb_array"`.
        """
        if self.render_mode is None:
            raise RuntimeError(f"{self._factory.task} was made without pictures: pass render_mode='rgb_array'.")
        return tuple(self.simulator.render_rgb_array().cpu().numpy())

    def close_extras(self, **_: Any) -> None:
        """Free the simulation."""
        self.simulator.close()

    def _show(self, observation: Any) -> Tensor | dict[str, Tensor]:
        return view(observation, self._factory.observation)

    @staticmethod
    def _verdict(info: dict[str, Any]) -> dict[str, Any]:
        return {"success": info["success"].bool()} if "success" in info else {}

    def _start_each_row_from_its_seed(self) -> None:
        """Make the task place the objects of one row at a time, with generators seeded for that row."""
        from mani_skill.envs.utils.randomization.batched_rng import BatchedRNG

        simulator, place = self.simulator, self.simulator._initialize_episode

        def place_rows(rows: Tensor, options: dict[str, Any]) -> None:
            simulator._batched_episode_rng = BatchedRNG.from_seeds(self._seeds.tolist())
            scene = simulator.scene
            mask = scene._reset_mask
            for row in rows.tolist():
                torch.manual_seed(int(self._seeds[row]))  # `reset` has forked torch's generators
                simulator._episode_rng = np.random.RandomState(self._seeds[row])
                scene._reset_mask = torch.zeros_like(mask)
                scene._reset_mask[row] = True
                place(rows.new_tensor([row]), options)
            scene._reset_mask = mask

        simulator._initialize_episode = place_rows

    def _forget_contacts_at_reset(self) -> None:
        """Let rows that have not been stepped since their reset feel none of the last episode's contacts."""
        simulator, scene = self.simulator, self.simulator.scene
        measure = scene.get_pairwise_contact_impulses

        def impulses(one: Any, other: Any) -> Tensor:
            felt: Tensor = measure(one, other)
            stepped: Tensor = simulator.elapsed_steps > 0
            return felt * stepped[:, None]

        scene.get_pairwise_contact_impulses = impulses
