"""A toy world, vectorised: a fingertip goes round a wall to a goal. For tests and a 30-second first taste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from palaestra.envs.episode import Episode
from palaestra.envs.streams import draw, restarted

WALL = 0.5  # half the wall's height; it stands at x = 0
SKIN = 0.02  # how far from the wall its contact keeps the fingertip
GAIN = 0.08  # speed gained a step at full action
KEEP = 0.6  # share of the speed kept a step; the top speed is GAIN / (1 - KEEP) = 0.2
GOAL_RADIUS = 0.08
REST_SPEED = 0.05


class ReachEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """`toy/reach-v0`: B planar fingertips reach goals behind a wall and come to rest there.

    The square [-1, 1]² holds a wall at x = 0 from y = -0.5 to y = 0.5. The fingertip starts left of it, the goal
    lies right of it, and the way round leads above or below. The wall is sticky: touching it stops the
    fingertip dead, so a policy that averages both ways (few-shot imitation does) gets caught.

    Observation: float32 [B, 6], in order
        position x, y      in [-1, 1]
        velocity x, y      a step, in [-0.2, 0.2]
        goal x, y          in [-1, 1]
    Action: float32 [B, 2] in [-1, 1], a force; one step is v ← 0.6 v + 0.08 a, then p ← p + v. Values beyond
        the box are clipped. Reaching the square's edge stops the motion across that edge.
    Reward: float32 [B], the decrease of the shortest way to the goal round the wall, plus 1 on success. Hence
        return = first way - last way + success.
    Termination: bool [B], on success: within 0.08 of the goal and slower than 0.05 a step.
    Truncation: bool [B], after 32 steps without success.
    Info: `success`, bool [B].
    Seeding: `reset(seed=[...])` takes one seed a world; a world's start is a pure function of its seed, the same
        on every device and at every count. `reset(options={"reset_mask": mask})` resets some worlds.
        Without seeds each world goes on to the next start of its own stream.

    Ended worlds are not reset by `step` (`AutoresetMode.DISABLED`); stepped on regardless, they move on.

    >>> world = ReachEnv(count=3)
    >>> observation, info = world.reset(seed=[1, 2, 3])
    >>> observation, reward, terminated, truncated, info = world.step(expert_action(observation))
    >>> observation.shape, reward.shape
    (torch.Size([3, 6]), torch.Size([3]))
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.DISABLED,
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }

    def __init__(self, count: int = 1, device: str = "cpu", render_mode: str | None = None) -> None:
        high = np.array([1, 1, 0.2, 0.2, 1, 1], dtype=np.float32)
        self.num_envs = count
        self.device = torch.device(device)
        self.render_mode = render_mode
        self.max_episode_steps = 32
        self.single_observation_space = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self._stream = torch.arange(count, device=self.device)
        self._state = torch.zeros(count, 6, device=self.device)
        self._way = torch.zeros(count, device=self.device)
        self._elapsed = torch.zeros(count, dtype=torch.int64, device=self.device)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Start new episodes in all worlds, or in those of `options["reset_mask"]` (bool [B]).

        Returns:
            Observation float32 [B, 6] of all worlds, and an info with `success`.
        """
        self._stream, mask = restarted(self._stream, seed, options, "toy/reach-v0")
        self._state = torch.where(mask[:, None], _start(self._stream), self._state)
        self._elapsed = self._elapsed.masked_fill(mask, 0)
        self._way = way_to_goal(self._state)
        return self._state, {"success": torch.zeros_like(mask)}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Move every fingertip one step. Returns observation, reward, terminated, truncated, info."""
        force = torch.as_tensor(actions, dtype=torch.float32, device=self.device).clamp(-1, 1)
        position, velocity, goal = self._state[:, 0:2], self._state[:, 2:4], self._state[:, 4:6]
        velocity = KEEP * velocity + GAIN * force
        moved = position + velocity
        inside = moved.clamp(-1, 1)
        velocity = torch.where(moved == inside, velocity, 0.0)
        caught = _crosses(position, inside, WALL)[:, None]
        share = _height_share(position[:, 0], inside[:, 0])[:, None]
        contact = position + share * (inside - position)
        contact = torch.stack((torch.sign(position[:, 0]) * SKIN, contact[:, 1]), 1)
        position = torch.where(caught, contact, inside)
        velocity = velocity.masked_fill(caught, 0.0)

        self._state = torch.cat((position, velocity, goal), 1)
        self._elapsed = self._elapsed + 1
        way = way_to_goal(self._state)
        near = torch.linalg.vector_norm(goal - position, dim=1) < GOAL_RADIUS
        success = near & (torch.linalg.vector_norm(velocity, dim=1) < REST_SPEED)
        reward = self._way - way + success.float()
        self._way = way
        truncated = (self._elapsed >= self.max_episode_steps) & ~success
        return self._state, reward, success, truncated, {"success": success}

    def render(self) -> tuple[np.ndarray, ...]:
        """Return one picture a world, [128, 128, 3] uint8 each."""
        return tuple(frame(state) for state in self._state.cpu().numpy())


def _start(stream: Tensor) -> Tensor:
    """Return first states [B, 6] from well-mixed numbers [B]."""
    uniform = draw(stream[:, None], torch.arange(1, 5, device=stream.device))
    state = torch.zeros(len(stream), 6, device=stream.device)
    state[:, 0] = -0.9 + 0.5 * uniform[:, 0]
    state[:, 1] = -0.6 + 1.2 * uniform[:, 1]
    state[:, 4] = 0.4 + 0.5 * uniform[:, 2]
    state[:, 5] = -0.6 + 1.2 * uniform[:, 3]
    return state


def _height_share(start: Tensor, end: Tensor) -> Tensor:
    """Return the share of the segment at which x = 0, for x of its ends [B]; anything where it is not met."""
    return start / torch.where(start == end, 1.0, start - end)


def _crosses(start: Tensor, end: Tensor, height: float) -> Tensor:
    """Return [B] bool: the segments between points [B, 2] cross x = 0 within ± height."""
    share = _height_share(start[:, 0], end[:, 0])
    meets = start[:, 1] + share * (end[:, 1] - start[:, 1])
    return (start[:, 0] * end[:, 0] < 0) & (meets.abs() < height)


def _ways_round(position: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths [B] of the ways over the wall's top and under its foot."""
    over, under = (
        torch.hypot(position[:, 0], position[:, 1] - tip) + torch.hypot(goal[:, 0], goal[:, 1] - tip)
        for tip in (WALL, -WALL)
    )
    return over, under


def way_to_goal(state: Tensor) -> Tensor:
    """Return the length [B] of the shortest way from fingertip to goal round the wall, from states [B, 6]."""
    position, goal = state[:, 0:2], state[:, 4:6]
    over, under = _ways_round(position, goal)
    straight = torch.linalg.vector_norm(goal - position, dim=1)
    return torch.where(_crosses(position, goal, WALL), torch.minimum(over, under), straight)


def expert_action(state: Tensor) -> Tensor:
    """Return the actions [B, 2] of an expert that always succeeds, from states [B, 6].

    It heads for the nearer end of the wall while that hides the goal, then for the goal, and brakes.
    """
    position, velocity, goal = state[:, 0:2], state[:, 2:4], state[:, 4:6]
    margin = 0.12
    over, under = _ways_round(position, goal)
    tip = torch.where(over <= under, WALL + margin, -WALL - margin)
    corner = torch.stack((torch.full_like(tip, 0.02), tip), 1)
    hidden = _crosses(position, goal, WALL + 0.7 * margin)
    target = torch.where(hidden[:, None], corner, goal)
    wanted = 0.4 * (target - position)
    speed = torch.linalg.vector_norm(wanted, dim=1, keepdim=True)
    cruise = torch.where(hidden[:, None], 0.17 / speed.clamp(min=1e-6), (0.17 / speed.clamp(min=1e-6)).clamp(max=1.0))
    return ((wanted * cruise - KEEP * velocity) / GAIN).clamp(-1, 1)


def frame(state: np.ndarray, size: int = 128) -> np.ndarray:
    """Draw one state ([6] float32) as a picture, [size, size, 3] uint8."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = axis[None, :], -axis[:, None]
    picture = np.full((size, size, 3), 250, dtype=np.uint8)
    picture[(np.abs(x) < 0.02) & (np.abs(y) < WALL)] = (60, 60, 70)
    for center, radius, color in (
        (state[4:6], GOAL_RADIUS, (120, 200, 120)),
        (state[0:2], 0.05, (40, 90, 220)),
    ):
        picture[(x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2] = color
    return picture


def demonstrate(episodes: int, seed: int) -> list[Episode]:
    """Return the expert's episodes from the starts of seeds `seed`, `seed + 1` and so on."""
    world = ReachEnv(count=episodes)
    seeds = list(range(seed, seed + episodes))
    state, _ = world.reset(seed=seeds)
    states: list[Tensor] = [state]
    actions: list[Tensor] = []
    rewards: list[Tensor] = []
    ended: list[Tensor] = []
    for _ in range(world.max_episode_steps):
        action = expert_action(state)
        state, reward, terminated, _, _ = world.step(action)
        states.append(state)
        actions.append(action)
        rewards.append(reward)
        ended.append(terminated)
    success = torch.stack(ended, 1)
    lengths = torch.where(success.any(1), success.int().argmax(1) + 1, world.max_episode_steps).tolist()
    return [
        Episode(
            state=torch.stack(states, 1)[row, : length + 1],
            action=torch.stack(actions, 1)[row, :length],
            reward=torch.stack(rewards, 1)[row, :length],
            success=bool(success[row].any()),
            seed=seeds[row],
        )
        for row, length in enumerate(lengths)
    ]
