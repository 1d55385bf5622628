"""Scripted experts for PushCube, PickCube and StackCube, and the demonstrations that they make.

An expert is a pure function from state vectors [B, S] to actions [B, 4] of the control mode `pd_ee_delta_pos`
(move the tool by up to 10 cm along x, y and z; open or close the gripper). It remembers nothing: which stage it
is in follows from where things are. So it recovers from disturbances, its demonstrations can be imitated by a
policy that sees one state at a time, and it can label states that a policy visited.

This control mode serves all three tasks and has half the numbers of joint control: they map onto what the state
shows, the positions of tool, cube and goal.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from palaestra.envs.core import episode_seed
from palaestra.envs.episode import Episode
from palaestra.envs.manipulation.maniskill import ManiSkillEnv, ObservationKind, RewardKind, env_factory

CONTROL = "pd_ee_delta_pos"
"""The control mode whose actions the experts give."""

Expert = Callable[[Tensor], Tensor]

_REACH = 0.1
"""Metres that an action of 1 asks for."""
_RESPONSE = 0.75
"""Part of what was asked for that the arm does within one control step."""
_FASTEST = 0.7
"""Largest action: near 1, ManiSkill's inverse kinematics often find no answer and the arm stays where it is."""
_OPEN, _CLOSED = 1.0, -1.0


def push_cube(state: Tensor) -> Tensor:
    """Return actions [B, 4] that push the cube along x onto the target, for PushCube's state [B, 35].

    Go behind the cube above it, come down, push.
    """
    tool, goal, cube = state[:, 18:21], state[:, 25:28], state[:, 28:31]
    behind, beside = tool[:, 0] - cube[:, 0], (tool[:, 1] - cube[:, 1]).abs()
    start = torch.stack((cube[:, 0] - 0.07, cube[:, 1], torch.full_like(behind, 0.02)), 1)
    above = start.clone()
    above[:, 2] = 0.1
    target = goal.clone()
    target[:, 2] = 0.02
    on_line = (beside < 0.015) & (behind < -0.02)
    pushing = on_line & (tool[:, 2] < 0.04)
    coming_down = on_line & (behind > -0.12)
    aim = _choose((pushing, target), (coming_down, start), otherwise=above)
    return _action(tool, aim, closed=torch.ones_like(pushing))


def pick_cube(state: Tensor) -> Tensor:
    """Return actions [B, 4] that lift the cube to the goal and hold it, for PickCube's state [B, 42]."""
    held = state[:, 18] > 0.5
    tool, goal, cube = state[:, 19:22], state[:, 26:29], state[:, 29:32]
    grasping = _over(tool, cube) & ((tool[:, 2] - cube[:, 2]) < 0.012)
    aim = _choose((held, tool + goal - cube), otherwise=_approach(tool, cube))
    return _action(tool, aim, closed=held | grasping)


def stack_cube(state: Tensor) -> Tensor:
    """Return actions [B, 4] that put the red cube on the green one and let go, for StackCube's state [B, 48]."""
    fingers = state[:, 7]
    tool, red, green = state[:, 18:21], state[:, 25:28], state[:, 32:35]
    place = green.clone()
    place[:, 2] += 0.04
    over_green = _distance(red[:, :2], place[:, :2]) < 0.015
    stacked = over_green & ((red[:, 2] - place[:, 2]).abs() < 0.004)
    near = _distance(tool, red) < 0.02
    grasping = _over(tool, red) & ((tool[:, 2] - red[:, 2]) < 0.012)
    held = near & (fingers < 0.032)
    high = place.clone()
    high[:, 2] += 0.03
    lifted = red[:, 2] > place[:, 2] + 0.012
    up = red.clone()
    up[:, 2] = high[:, 2]
    carry = _choose((over_green, place), (lifted, high), otherwise=up)
    aim = _choose((stacked, tool), (held, tool + carry - red), otherwise=_approach(tool, red))
    return _action(tool, aim, closed=(held | grasping) & ~stacked)


EXPERTS: Mapping[str, Expert] = MappingProxyType(
    {"PushCube-v1": push_cube, "PickCube-v1": pick_cube, "StackCube-v1": stack_cube}
)
"""The expert of each task."""


def demonstrate(
    task: str,
    episodes: int,
    *,
    seed: int,
    noise: float = 0.0,
    observation: ObservationKind = "state",
    reward: RewardKind = "normalized_dense",
    image_size: int = 128,
) -> list[Episode]:
    """Return successful episodes of a task's expert, in `pd_ee_delta_pos`.

    Attempt i starts from `episode_seed(seed, i)`; attempts that fail are left out and further ones made.

    Args:
        task: One of `EXPERTS`.
        episodes: How many to return.
        seed: Which starts and which noise.
        noise: Standard deviation of the Gaussian noise added to the moves (not to the gripper) before they are
            played. Actions are recorded as played, so that noise makes demonstrations both broader in the states
            they visit and less exact.
        observation: What the episodes hold. The expert sees the whole state in any case.
        reward: Which of the task's rewards they hold.
        image_size: Height and width of the pictures, where there are any.

    Raises:
        ValueError: Where the task has no expert, or a number makes no sense.
        RuntimeError: Where fewer than one attempt in five succeeds.
    """
    expert = _expert(task)
    if episodes < 1 or not noise >= 0:
        raise ValueError(f"episodes is {episodes} and noise {noise}: expected at least 1, and 0 or more.")
    env = env_factory(task, control=CONTROL, observation=observation, reward=reward, image_size=image_size)()
    # Physics do not depend on what is shown: a twin that plays the same actions shows the expert the state.
    twin = None if observation == "state" else env_factory(task, control=CONTROL, reward="sparse")()
    done: list[Episode] = []
    attempt = 0
    while len(done) < episodes:
        if attempt >= 5 * episodes + 20:
            raise RuntimeError(
                f"the expert of {task} succeeded in {len(done)} of {attempt} attempts with noise={noise}: lower it."
            )
        episode = _attempt(env, twin, expert, episode_seed(seed, attempt), noise)
        if episode.success:
            done.append(episode)
        attempt += 1
    for world in (env, twin):
        if world is not None:
            world.close()
    return done


def _expert(task: str) -> Expert:
    if task not in EXPERTS:
        near = difflib.get_close_matches(task, EXPERTS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"no expert for {task!r}: there is one for {', '.join(EXPERTS)}.{hint}")
    return EXPERTS[task]


def _attempt(env: ManiSkillEnv, twin: ManiSkillEnv | None, expert: Expert, seed: int, noise: float) -> Episode:
    """Return one episode of the expert, successful or not."""
    generator = np.random.default_rng(seed)
    views, actions, rewards = [env.reset(seed=seed)[0]], [], []
    state = views[0] if twin is None else twin.reset(seed=seed)[0]
    ended = success = False
    while not ended:
        action = expert(torch.from_numpy(state)[None])[0].numpy()
        action[:3] = np.clip(action[:3] + noise * generator.standard_normal(3), -1, 1)
        view, reward, terminated, truncated, info = env.step(action)
        state = view if twin is None else twin.step(action)[0]
        views.append(view)
        actions.append(action)
        rewards.append(reward)
        ended, success = terminated or truncated, info["success"]
    pictures = [] if twin is None else [name for name in views[0] if name != "state"]
    return Episode(
        action=torch.from_numpy(np.stack(actions)),
        reward=torch.tensor(rewards, dtype=torch.float32),
        success=success,
        seed=seed,
        text=env.instruction,
        state=torch.from_numpy(np.stack([view if twin is None else view["state"] for view in views])),
        images={name: torch.from_numpy(np.stack([view[name] for view in views])) for name in pictures},
    )


def _over(tool: Tensor, cube: Tensor) -> Tensor:
    """Return whether the tool is above the cube, closely enough to come down [B]."""
    return _distance(tool[:, :2], cube[:, :2]) < 0.012


def _distance(here: Tensor, there: Tensor) -> Tensor:
    """Return distances [B] between points [B, N]."""
    distance: Tensor = torch.linalg.vector_norm(here - there, dim=1)
    return distance


def _approach(tool: Tensor, cube: Tensor) -> Tensor:
    """Return where to go to have the cube between the fingers [B, 3]: above it first."""
    above = cube.clone()
    above[:, 2] += 0.06
    return _choose((_over(tool, cube), cube), otherwise=above)


def _choose(*cases: tuple[Tensor, Tensor], otherwise: Tensor) -> Tensor:
    """Return the aim [B, 3] of the first case that holds."""
    aim = otherwise
    for condition, value in reversed(cases):
        aim = torch.where(condition[:, None], value, aim)
    return aim


def _action(tool: Tensor, aim: Tensor, closed: Tensor) -> Tensor:
    """Return the action [B, 4] that moves the tool to a place within a step, if it is near enough."""
    move: Tensor = (aim - tool) / (_REACH * _RESPONSE)
    longest: Tensor = move.abs().amax(1, keepdim=True).clamp(min=_FASTEST)
    gripper = torch.where(closed, _CLOSED, _OPEN)[:, None]
    return torch.cat((move * (_FASTEST / longest), gripper), 1)
