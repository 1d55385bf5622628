"""ManiSkill's tasks as plain Gymnasium worlds: one world an object on a CPU, all in one object on a GPU.

A CPU factory goes to the process pool, a vectorised env to the lock-step adapter. ManiSkill itself is imported
when the first world is made.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from palaestra.envs.manipulation import vulkan

if TYPE_CHECKING:
    from palaestra.envs.manipulation.batched import ManiSkillVectorEnv

ObservationKind = Literal["state", "rgb", "rgbd"]
RewardKind = Literal["sparse", "dense", "normalized_dense"]

TASKS: Mapping[str, str] = MappingProxyType(
    {
        "LiftPegUpright-v1": "lift the peg upright",
        "PegInsertionSide-v1": "insert the peg into the hole in the side of the box",
        "PickCube-v1": "pick up the cube and hold it at the goal",
        "PickCubeSO100-v1": "pick up the cube and hold it at the goal",
        "PlaceSphere-v1": "place the sphere into the bin",
        "PlugCharger-v1": "plug the charger into the receptacle",
        "PokeCube-v1": "poke the cube with the peg",
        "PullCube-v1": "pull the cube onto the target",
        "PullCubeTool-v1": "pull the cube closer with the tool",
        "PushCube-v1": "push the cube onto the target",
        "PushT-v1": "push the T onto its outline",
        "RollBall-v1": "roll the ball to the goal",
        "StackCube-v1": "stack the red cube on the green cube",
        "StackPyramid-v1": "build a pyramid of the three cubes",
        "TwoRobotPickCube-v1": "pick up the cube, hand it over and hold it at the goal",
        "TwoRobotStackCube-v1": "stack the cubes on the target with both arms",
    }
)
"""The tabletop tasks that need no download, by id, with their instructions."""

NEED_VULKAN = frozenset({"PushT-v1"})
"""Tasks that cannot be built without a Vulkan device even when they show no pictures."""


@dataclass(frozen=True)
class ManiSkillFactory:
    """How to make one world; call it to make one. Small, comparable and picklable."""

    task: str
    """ManiSkill's id, one of `TASKS` or any other that it has registered."""
    observation: ObservationKind = "state"
    """`state`: one vector with everything. `rgb`: pictures by camera, and under `state` what the robot itself
    knows. `rgbd`: also `<camera>_depth`, see `depth_metres`."""
    control: str | None = None
    """One of the robot's control modes, such as `pd_ee_delta_pos` or `pd_joint_delta_pos`; by default its first."""
    reward: RewardKind = "normalized_dense"
    """`sparse` is 1 at success."""
    max_steps: int | None = None
    """The time limit in steps, by default the task's own."""
    stop_at_success: bool = True
    """Whether success ends the episode, as ManiSkill has it."""
    render_mode: Literal["rgb_array"] | None = None
    """With `rgb_array`, `render()` returns a picture [H, W, 3] uint8 of any world."""
    image_size: int = 128
    """Height and width of the observed pictures in pixels."""
    frame_size: int = 256
    """Height and width of what `render()` returns."""

    def __call__(self) -> ManiSkillEnv:
        """Return a new world."""
        return ManiSkillEnv(self)


def env_factory(task: str, **options: Any) -> ManiSkillFactory:
    """Return a picklable factory of one world of a task, checked as far as can be without building it.

    Args:
        task: One of `TASKS`, or any other id that ManiSkill has registered.
        options: The other fields of `ManiSkillFactory`.

    Raises:
        ValueError: Where no task has that name, or a size or kind makes no sense.
        RuntimeError: Where it needs pictures and no device can draw them.
    """
    factory = ManiSkillFactory(task, **options)
    if task not in TASKS:
        registered(task)
    for name in ("max_steps", "image_size", "frame_size"):
        value = getattr(factory, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1.")
    if factory.observation not in ("state", "rgb", "rgbd"):
        raise ValueError(f"observation is {factory.observation!r}, expected 'state', 'rgb' or 'rgbd'.")
    renderer_for(factory)
    return factory


def vector_env(task: str, count: int, device: str, **options: Any) -> ManiSkillVectorEnv:
    """Return so many worlds of a task in one simulation on a GPU (one world also on a CPU), on torch.

    Args:
        task: One of `TASKS`, or any other id that ManiSkill has registered.
        count: How many worlds.
        device: `cuda`, `cuda:1`, …
        options: The other fields of `ManiSkillFactory`.

    Raises:
        ValueError, RuntimeError: As `env_factory` does.
    """
    from palaestra.envs.manipulation.batched import ManiSkillVectorEnv

    return ManiSkillVectorEnv(env_factory(task, **options), count, device)


def depth_metres(picture: Any) -> Any:
    """Return the depth in metres [..., H, W] of a `<camera>_depth` picture [..., H, W, 2] (NumPy or torch).

    Such a picture holds whole millimetres without loss: 256 times the first channel plus the second. Zero is
    beyond the camera's range.
    """
    return (picture[..., 0] * 256.0 + picture[..., 1]) / 1000.0


class ManiSkillEnv(gymnasium.Env[Any, np.ndarray]):
    """One ManiSkill world on the CPU that speaks NumPy.

    Two-armed tasks take both arms' actions in one vector, in the order of ManiSkill's dictionary.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own form)

    def __init__(self, factory: ManiSkillFactory) -> None:
        spec = registered(factory.task)
        self._factory = factory
        self._renderer = renderer_for(factory)
        self.render_mode = factory.render_mode
        self.simulator = build(factory, spec, self._renderer)
        """ManiSkill's own environment, on torch and in batches of one."""
        self._quicken()
        self.spec = EnvSpec(factory.task, max_episode_steps=factory.max_steps or spec.max_episode_steps)
        self.instruction = TASKS.get(factory.task, "")
        """What the task asks for, in words."""
        self._limit = self.spec.max_episode_steps
        self._steps = 0
        self._arms = arms_of(self.simulator.single_action_space)
        self.action_space = flat(self.simulator.single_action_space)
        self.observation_space = space_of(self._show(self.simulator._init_raw_obs))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the same seed starts the same one, whatever was played before.

        Returns:
            The first view, and an `info` with the verdict `success` where the task has one.
        """
        super().reset(seed=seed)
        self._steps = 0
        self.simulator.scene.forget_contacts()
        # A task that builds a new scene at times must not start to draw then.
        building = vulkan.rendering_on(self._renderer) if self.simulator.reconfiguration_freq else nullcontext()
        with torch.inference_mode(), building:
            observation, info = self.simulator.reset(seed=seed, options=options)
        if info["reconfigure"]:
            self._quicken()
        return self._show(observation), _verdict(info)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play one action [A] in [-1, 1] (clipped) for one control step, 0.05 s.

        Raises:
            ValueError: Where the action has another shape or is not finite.
        """
        action = np.asarray(action, np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action is {action.tolist()}, expected {self.action_space.shape} finite numbers.")
        with torch.inference_mode():
            observation, reward, terminated, _, info = self.simulator.step(command(action[None], self._arms))
        self._steps += 1
        truncated = self._limit is not None and self._steps >= self._limit
        ended = bool(terminated) and self._factory.stop_at_success
        return self._show(observation), float(reward), ended, truncated, _verdict(info)

    def render(self) -> np.ndarray:
        """Return a picture [H, W, 3] uint8 of the world from outside.

        Raises:
            RuntimeError: Where the world was not made with `render_mode="rgb_array"`.
        """
        if self.render_mode is None:
            raise RuntimeError(f"{self._factory.task} was made without pictures: pass render_mode='rgb_array'.")
        picture: np.ndarray = self.simulator.render_rgb_array()[0].cpu().numpy()
        return picture

    def close(self) -> None:
        """Free the simulation. Safe to call twice."""
        if self.simulator.scene is not None:
            self.simulator.close()

    def _quicken(self) -> None:
        from palaestra.envs.manipulation.quick import quicken

        quicken(self.simulator)

    def _show(self, observation: Any) -> Any:
        """Return ManiSkill's observation as this world's view, without the batch dimension."""
        shown = view(observation, self._factory.observation)
        if isinstance(shown, dict):
            return {name: part[0].numpy() for name, part in shown.items()}
        return shown[0].numpy()


def registered(task: str) -> Any:
    """Return ManiSkill's own specification of a task.

    Raises:
        ValueError: Where it has none of that name, with the nearest ones.
    """
    import mani_skill.envs  # noqa: F401  (registers the tasks)
    from mani_skill.utils.registration import REGISTERED_ENVS

    if task not in REGISTERED_ENVS:
        near = difflib.get_close_matches(task, REGISTERED_ENVS, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known tabletop tasks: {', '.join(TASKS)}."
        raise ValueError(f"ManiSkill has no task {task!r}. {hint}")
    return REGISTERED_ENVS[task]


def renderer_for(factory: ManiSkillFactory) -> vulkan.Renderer | None:
    """Return the device that a world draws on, None where it draws nothing.

    Raises:
        RuntimeError: Where it must draw and no device can.
    """
    wanted = factory.observation != "state" or factory.render_mode is not None or factory.task in NEED_VULKAN
    if not wanted:
        return None
    renderer = vulkan.find_renderer()
    if renderer is None:
        reason = "builds its scene with it" if factory.task in NEED_VULKAN else "is to show pictures"
        raise RuntimeError(f"{factory.task} {reason}, but no Vulkan device renders here. {vulkan.FIX}")
    return renderer


def build(factory: ManiSkillFactory, spec: Any, renderer: vulkan.Renderer | None, **options: Any) -> Any:
    """Return ManiSkill's own environment, unwrapped.

    Raises:
        ValueError: Where the task has no such reward, or its robot no such control mode.
        FileNotFoundError: Where its models have to be downloaded first.
    """
    rewards = spec.cls.SUPPORTED_REWARD_MODES
    if factory.reward not in rewards:
        raise ValueError(
            f"{factory.task} has no reward {factory.reward!r}: choose one of {', '.join(sorted(rewards))}."
        )
    modes = {"state": "state", "rgb": "rgb", "rgbd": "rgb+depth"}
    arguments: dict[str, Any] = {
        "obs_mode": modes[factory.observation],
        "reward_mode": factory.reward,
        "control_mode": factory.control,
        "render_mode": factory.render_mode,
        "sensor_configs": {"width": factory.image_size, "height": factory.image_size},
        "human_render_camera_configs": {"width": factory.frame_size, "height": factory.frame_size},
        **options,
    }
    try:
        with vulkan.rendering_on(renderer), _no_questions(factory.task):
            return spec.make(**arguments)
    except AssertionError as error:  # how ManiSkill refuses a control mode
        if "not in supported modes" not in str(error):
            raise
        raise ValueError(f"{factory.task}: control mode {error}.") from error


@contextmanager
def _no_questions(task: str) -> Iterator[None]:
    """Turn ManiSkill's question whether to download something, which a worker cannot answer, into an error."""
    from mani_skill.utils import download_asset

    def refuse(question: str) -> bool:
        raise FileNotFoundError(
            f"{task} needs models that are not on this machine: {question.split('. ')[0]}. Get them with "
            f"`python -m mani_skill.utils.download_asset {task}`, or let ManiSkill do it: "
            "`export MS_SKIP_ASSET_DOWNLOAD_PROMPT=1`."
        )

    with vulkan.replaced() as replace:
        if os.environ.get("MS_SKIP_ASSET_DOWNLOAD_PROMPT") != "1":
            replace(download_asset, "prompt_yes_no", refuse)
        yield


def _verdict(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"success": bool(info["success"])} if "success" in info else {}


def view(observation: Any, kind: ObservationKind) -> Tensor | dict[str, Tensor]:
    """Return what B worlds show of ManiSkill's own observation, as `ManiSkillFactory.observation` describes it."""
    if kind == "state":
        state: Tensor = observation
        return state
    from mani_skill.utils import common

    known = {key: observation[key] for key in ("agent", "extra")}
    shown = {"state": common.flatten_state_dict(known, use_torch=True).float()}
    for camera, textures in observation["sensor_data"].items():
        shown[camera] = textures["rgb"]
        if kind == "rgbd":
            shown[f"{camera}_depth"] = two_bytes(textures["depth"])
    return shown


def two_bytes(depth: Tensor) -> Tensor:
    """Return millimetres [..., 1] int16 as [..., 2] uint8, high byte first: the inverse of `depth_metres`."""
    return torch.cat((depth >> 8, depth & 255), -1).to(torch.uint8)


def command(action: Any, arms: dict[str, slice] | None) -> Any:
    """Return actions [B, A] as ManiSkill takes them: a dictionary by arm where there are several."""
    if arms is None:
        return action
    return {name: action[:, part] for name, part in arms.items()}


def arms_of(space: spaces.Space[Any]) -> dict[str, slice] | None:
    """Return where each arm's part of a joint action lies, None where there is one arm."""
    if not isinstance(space, spaces.Dict):
        return None
    arms, start = {}, 0
    for name, part in space.spaces.items():
        width = part.shape[0] if part.shape else 1
        arms[name] = slice(start, start + width)
        start += width
    return arms


def flat(space: spaces.Space[Any]) -> spaces.Box:
    """Return an action space as one `Box`."""
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    boxes = [part for part in parts if isinstance(part, spaces.Box)]
    return spaces.Box(
        np.concatenate([box.low for box in boxes]), np.concatenate([box.high for box in boxes]), dtype=np.float32
    )


def space_of(shown: Any) -> spaces.Space[Any]:
    """Return the space of one world's view (NumPy)."""
    if isinstance(shown, Mapping):
        return spaces.Dict({name: space_of(part) for name, part in shown.items()})
    if shown.dtype == np.uint8:
        return spaces.Box(0, 255, shown.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shown.shape, np.float32)
