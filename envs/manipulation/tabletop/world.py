"""Thousands of tables at once, as one `VectorEnv` in torch."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from palaestra.envs.episode import Episode
from palaestra.envs.manipulation.tabletop.catalogue import (
    LONGEST,
    OBJECTS,
    SCENES,
    SPLITS,
    TASKS,
    Split,
    Task,
    instruction,
)
from palaestra.envs.manipulation.tabletop.expert import expert_action
from palaestra.envs.manipulation.tabletop.painter import CAMERAS, Painter
from palaestra.envs.manipulation.tabletop.scene import TOP, start, step
from palaestra.envs.streams import restarted

Shown = dict[str, Any]
"""What B tables show: "overhead" and "side" [B, P, P, 3] uint8, "state" [B, 5] float32, "text" B strings."""
STEPS: dict[Task, int] = {"pick-place": 40, "push": 48, "sort": 80, "drawer": 32}
"""The time limit of each task."""
SHOWN = 192
"""Least side of a picture for people."""


class TabletopEnv(VectorEnv[Shown, Tensor, Tensor]):
    """`tabletop/*-v0`: B tables with objects and receptacles, two cameras, and an instruction each.

    Observation: "overhead" and "side", uint8 [B, P, P, 3]: parallel projections from above and from the front;
        "state", float32 [B, 5]: the tool's x and y in [-1, 1] and height in [0, 0.6], whether the fingers are shut and
        whether they hold something; "text": the instruction. Where things are is seen in the pictures alone.
    Action: float32 [B, 4] in [-1, 1]: the tool's move, 0.2 a step at most along an axis, and the fingers (positive
        shuts). Values beyond the box are clipped, and the tool stops at the box [-1, 1]² × [0, 0.6].
    Reward: float32 [B], the decrease of the way that things and tool have to go (`Table.way`), plus 1 on success.
    Termination: bool [B], on success: every object that the instruction is about lies where it belongs, let go of.
    Truncation: bool [B], after `STEPS`.
    Info: `success`, bool [B].
    Seeding: `reset(seed=[...])` takes one seed a world; an episode is a function of its seed and of the actions, the
        same at every count. `reset(options={"reset_mask": mask})` resets some worlds. Without seeds each world goes on
        to the next start of its own stream.

    Ended worlds are not reset by `step` (`AutoresetMode.DISABLED`); stepped on regardless, they move on. Pictures are
    overwritten by the next step: keep a copy.

    >>> world = TabletopEnv(count=3)
    >>> observation, info = world.reset(seed=[1, 2, 3])
    >>> observation, reward, terminated, truncated, info = world.step(world.expert())
    >>> observation["overhead"].shape
    torch.Size([3, 64, 64, 3])
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.DISABLED,
        "render_modes": ["rgb_array"],
        "render_fps": 5,
    }

    def __init__(
        self,
        count: int = 1,
        device: str = "cpu",
        task: Task = "pick-place",
        split: Split = "train",
        objects: int = 3,
        receptacles: int = 2,
        kinds: int = 16,
        scenes: int = 16,
        pixels: int = 64,
        render_mode: str | None = None,
    ) -> None:
        """Prepare the worlds; none has started yet.

        Args:
            count: B.
            device: Where all is computed.
            task: "pick-place", "push", "sort" or "drawer".
            split: What is unseen in training: "train" for nothing, or "object", "receptacle", "wording", "texture"
                (and light), "start" (the tool's pose).
            objects: On a table.
            receptacles: On a table; a drawer's has none.
            kinds: Of objects, and of receptacles, that training draws from, of 12 and 13 at most.
            scenes: That training draws from, of 12 at most.
            pixels: A picture's side, 32 to 224.
            render_mode: "rgb_array" where `render` is wanted.

        Raises:
            ValueError: For a name or a number that makes no sense.
        """
        _check("task", task, TASKS)
        _check("split", split, SPLITS)
        _check_sizes(task, objects, receptacles, kinds, scenes, pixels)
        self.num_envs, self.device, self.render_mode = count, torch.device(device), render_mode
        self.task, self.max_episode_steps = task, STEPS[task]
        self._start = partial(
            start, task=task, split=split, objects=objects, receptacles=receptacles, kinds=kinds, scenes=scenes
        )
        self.single_observation_space = _shows(pixels)
        self.single_action_space = spaces.Box(-1, 1, (4,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self._painters = [Painter(camera, pixels, self.device) for camera in CAMERAS]
        self._stream = torch.arange(count, device=self.device)
        self._elapsed = torch.zeros(count, dtype=torch.int64, device=self.device)
        self.table = self._start(self._stream)
        """Where everything is: what experts see."""
        self._way = self.table.way()
        self._text = [""] * count
        self._fixed = [painter.fixed(self.table, task == "drawer") for painter in self._painters]
        self._pictures = self._paint()

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Shown, dict[str, Any]]:
        """Start new episodes in all worlds, or in those of `options["reset_mask"]` (bool [B]).

        Returns:
            What all worlds show, and an info with `success`.
        """
        self._stream, mask = restarted(self._stream, seed, options, "tabletop")
        self.table = self._start(self._stream).where(mask, self.table)
        self._elapsed = self._elapsed.masked_fill(mask, 0)
        self._way = self.table.way()
        rows = mask.nonzero().flatten()
        begun = self.table[rows]
        for painter, fixed, pictures in zip(self._painters, self._fixed, self._pictures, strict=True):
            still = painter.fixed(begun, self.task == "drawer")
            fixed.index_copy_(0, rows, still)
            pictures.index_copy_(0, rows, painter.paint(begun, still))
        self._say(rows)
        return self._shown(), {"success": torch.zeros_like(mask)}

    def step(self, actions: Tensor) -> tuple[Shown, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Move every gripper one step. Returns observation, reward, terminated, truncated, info."""
        action = torch.as_tensor(actions, dtype=torch.float32, device=self.device).clamp(-1, 1)
        self.table = step(self.table, action, self.task)
        self._elapsed = self._elapsed + 1
        success = self.table.placed().all(1)
        way = self.table.way()
        reward = self._way - way + success.float()
        self._way = way
        truncated = (self._elapsed >= self.max_episode_steps) & ~success
        self._pictures = self._paint()
        return self._shown(), reward, success, truncated, {"success": success}

    def expert(self) -> Tensor:
        """Return the scripted expert's actions [B, 4]."""
        return expert_action(self.table, self.task)

    def render(self) -> tuple[np.ndarray, ...]:
        """Return one picture a world for people, both cameras side by side, [Q, 2 Q, 3] uint8 each, Q at least 192."""
        painters = [Painter(camera, max(self._painters[0].pixels, SHOWN), self.device) for camera in CAMERAS]
        drawer = self.task == "drawer"
        pictures = [painter.paint(self.table, painter.fixed(self.table, drawer)) for painter in painters]
        return tuple(torch.cat(pictures, 2).cpu().numpy())

    def _paint(self) -> list[Tensor]:
        """Return every camera's pictures of all worlds."""
        return [painter.paint(self.table, fixed) for painter, fixed in zip(self._painters, self._fixed, strict=True)]

    def _say(self, rows: Tensor) -> None:
        """Put the instructions of worlds that start into words."""
        table = self.table
        opens = table.goals[:, 0, 1] < table.objects[:, 0, 1]
        columns = (rows, table.wording[rows], table.wanted[rows].sum(1), table.kinds[rows],
                   table.receptacle_kinds[rows], opens[rows])  # fmt: skip
        for row, wording, wanted, kinds, receptacles, opening in zip(*(c.tolist() for c in columns), strict=True):
            self._text[row] = instruction(self.task, wording, kinds[:wanted], receptacles[:wanted], opening)

    def _shown(self) -> Shown:
        table = self.table
        numbers = torch.stack([table.closed, table.held >= 0], 1).float()
        pictures = {camera.name: picture for camera, picture in zip(CAMERAS, self._pictures, strict=True)}
        return {**pictures, "state": torch.cat([table.tool, numbers], 1), "text": tuple(self._text)}


def _shows(pixels: int) -> spaces.Dict:
    """Return the space of what one table shows."""
    picture = spaces.Box(0, 255, (pixels, pixels, 3), np.uint8)
    low, high = np.array([-1, -1, 0, 0, 0], np.float32), np.array([1, 1, TOP, 1, 1], np.float32)
    numbers, text = spaces.Box(low, high), spaces.Text(LONGEST, charset="abcdefghijklmnopqrstuvwxyz ,:")
    return spaces.Dict({camera.name: picture for camera in CAMERAS} | {"state": numbers, "text": text})


def _check_sizes(task: Task, objects: int, receptacles: int, kinds: int, scenes: int, pixels: int) -> None:
    """Raise ValueError for a size that makes no sense."""
    fewest = 2 if task == "sort" else 1
    for name, value, low, high in (
        ("objects", objects, fewest, 6),
        ("receptacles", receptacles, fewest, 4),
        ("kinds", kinds, 1, len(OBJECTS)),
        ("scenes", scenes, 1, len(SCENES)),
        ("pixels", pixels, 32, 224),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; with task={task!r} it goes from {low} to {high}.")
    if kinds < max(objects, receptacles):
        raise ValueError(f"kinds is {kinds}, but {objects} objects and {receptacles} receptacles differ: raise it.")


def _check(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        near = difflib.get_close_matches(value, valid, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"tabletop: {name} is {value!r}; it is one of {', '.join(valid)}.{hint}")


def demonstrate(episodes: int, seed: int, noise: float = 0.0, **options: Any) -> list[Episode]:
    """Return the expert's successful episodes from the starts of seeds `seed`, `seed + 1` and so on.

    Args:
        episodes: How many; failed attempts are left out and further ones made.
        seed: Of the first start.
        noise: Standard deviation of the Gaussian noise added to the moves before they are played; actions are recorded
            as played.
        options: Of `TabletopEnv`.

    Raises:
        RuntimeError: The expert fails too often with so much noise.
    """
    done: list[Episode] = []
    for attempt in range(4):
        done += _attempts(episodes, seed + attempt * episodes, noise, options)
        if len(done) >= episodes:
            return done[:episodes]
    raise RuntimeError(f"the expert succeeded in {len(done)} of {4 * episodes} attempts with noise={noise}: lower it.")


def _attempts(count: int, seed: int, noise: float, options: dict[str, Any]) -> list[Episode]:
    """Return the successful ones of `count` episodes."""
    world = TabletopEnv(count=count, **options)
    generator = torch.Generator().manual_seed(seed)
    view, _ = world.reset(seed=seed)
    text = view["text"]
    views, actions, rewards, ends = [view], [], [], []
    for _ in range(world.max_episode_steps):
        action = world.expert().cpu()
        action[:, :3] += noise * torch.randn(count, 3, generator=generator)
        action = action.clamp(-1, 1)
        view, reward, success, _, _ = world.step(action)
        views.append(view)
        actions.append(action)
        rewards.append(reward.cpu())
        ends.append(success.cpu())
    ended = torch.stack(ends, 1)
    stacks = {name: torch.stack([view[name].cpu() for view in views], 1) for name in views[0] if name != "text"}
    played, paid = torch.stack(actions, 1), torch.stack(rewards, 1)
    return [
        Episode(
            action=played[row, :length], reward=paid[row, :length], success=True, seed=seed + row, text=text[row],
            state=stacks["state"][row, : length + 1],
            images={camera.name: stacks[camera.name][row, : length + 1] for camera in CAMERAS},
        )
        for row, length in ((row, int(ended[row].int().argmax()) + 1) for row in range(count) if ended[row].any())
    ]  # fmt: skip


WORLDS = {
    f"tabletop/{task}-v0": partial(TabletopEnv, task=task) for task in TASKS
}
"""The worlds by name."""
