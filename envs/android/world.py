"""N phones in one process, as a `VectorEnv`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from palaestra.envs.android.actions import (
    LONGEST,
    Action,
    ActionError,
    ActionText,
    from_numbers,
    numbers_space,
    parse,
    perform,
    quoted,
)
from palaestra.envs.android.device import Device
from palaestra.envs.android.noise import noise_named
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.tasks import TEMPLATES
from palaestra.envs.android.tasks.template import SPLITS, Split, Task, Template, start
from palaestra.envs.android.views import TALL, WIDTH

SECONDS = 2.0
"""Virtual seconds that an action takes."""
WORDS = 250
"""Letters of an instruction at most."""

Observation = dict[str, Any]


class PhoneEnv(VectorEnv[Observation, Any, np.ndarray]):
    """`android/phone-v0`: N simulated phones, each with an instruction to follow.

    Observation: a dictionary of
        screen     uint8 [N, H, W, 3], what the phone shows now
        previous   uint8 [N, H, W, 3], what it showed before the last action; at the start the same as `screen`
        text       N strings: the instruction, a line break, and the last action's text (empty at the start)
    Action: with `actions="text"` N strings in DigiRL's format, with `actions="numbers"` float32 [N, 4]: move, y, x,
        word; see `palaestra.envs.android.actions`. What says no action does nothing, and is told in the info.
    Reward: float32 [N], 1 where the task is done by this action, else 0.
    Termination: on success, and where the agent says that it is done or that it cannot be.
    Truncation: after `max_steps` actions.
    Info: `success` bool [N]; `template`, N strings; `invalid`, N strings, what was wrong with an action or empty.
    Seeding: `reset(seed=[...])` takes one seed a phone. The task, the phone's contents and all that happens on it are
        functions of its seed and the actions. `reset(options={"reset_mask": mask})` resets some phones.
        Without seeds each phone goes on to the next seed of its own stream.

    Ended phones are not reset by `step` (`AutoresetMode.DISABLED`); stepped on regardless, they go on.

    >>> phones = PhoneEnv(count=2, templates=["open-app"])
    >>> observation, info = phones.reset(seed=[1, 2])
    >>> observation["screen"].shape
    (2, 128, 64, 3)
    >>> observation, reward, terminated, truncated, info = phones.step(phones.expert())
    >>> reward.tolist()
    [1.0, 1.0]
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.DISABLED,
        "render_modes": ["rgb_array"],
        "render_fps": 2,
    }

    def __init__(
        self,
        count: int = 1,
        templates: Sequence[str] = (),
        family: Literal["all", "general", "web-shop"] = "all",
        level: int = 3,
        split: Split = "train",
        preset: str = "calm",
        actions: Literal["text", "numbers"] = "text",
        height: int = TALL,
        width: int = WIDTH,
        max_steps: int = 20,
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        """Make the phones.

        Args:
            count: N.
            templates: Which tasks, names of `palaestra.envs.android.tasks.TEMPLATES`; by default all of the family.
            family: Which set of tasks.
            level: The most difficult tasks, 1 to 3.
            split: "train"; "reworded", the same tasks in wordings that training never uses for them, of templates with
                several; or "test": other parameters, and some templates that training never sees.
            preset: "calm", "wild" or "drift(T)"; see `palaestra.envs.android.noise`.
            actions: As texts or as numbers.
            height: Pixels of a screen.
            width: Pixels of a screen; from 256 on letters, icons and corners are smooth, below that coarse.
            max_steps: Actions after which an episode is cut.
            render_mode: "rgb_array" where `render` is wanted.

        Raises:
            ValueError: For an unknown name, or a choice that leaves no task.
        """
        _check(family, level, split, actions, height, width, max_steps)
        self.num_envs = count
        self.render_mode = render_mode
        self.templates = chosen(templates, family, level, split)
        self.split: Split = split
        self.max_episode_steps = max_steps
        self.devices = [Device(0, noise_named(preset)) for _ in range(count)]
        self.tasks = [Task(self.templates[0], {}) for _ in range(count)]
        self._hands = [Hand(device) for device in self.devices]
        self._numbers = actions == "numbers"
        self._seeds = [0] * count
        self._elapsed = np.zeros(count, np.int64)
        self._last = [""] * count
        self._instructions = [""] * count
        self._words: list[list[str]] = [[] for _ in range(count)]
        self._screen = np.zeros((count, height, width, 3), np.uint8)
        self._previous = np.zeros_like(self._screen)
        self._shown = [-1] * count
        picture = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.single_observation_space = spaces.Dict(
            {"screen": picture, "previous": picture, "text": spaces.Text(WORDS + LONGEST)}
        )
        self.single_action_space = numbers_space() if self._numbers else ActionText()
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start new episodes on all phones, or on those of `options["reset_mask"]` (bool [N]).

        Returns:
            The observation of all phones, and an info with `success` and `template`.
        """
        seeds = _seeds(seed, self._seeds)
        mask = np.ones(self.num_envs, bool)
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], bool)
        for row in np.flatnonzero(mask).tolist():
            self._seeds[row] = seeds[row]
            self.tasks[row] = start(self.devices[row], drawn(self.templates, seeds[row]), seeds[row], self.split)
            self._instructions[row] = self.tasks[row].instruction
            self._words[row] = quoted(self._instructions[row])
            self._last[row] = ""
            self.devices[row].render(self._screen[row])
            self._shown[row] = self.devices[row].version
            self._previous[row] = self._screen[row]
        self._elapsed[mask] = 0
        return self._observe(), {"success": np.zeros(self.num_envs, bool), "template": self._names()}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Do one action on every phone. Returns observation, reward, terminated, truncated, info."""
        success = np.zeros(self.num_envs, bool)
        given_up = np.zeros(self.num_envs, bool)
        invalid = [""] * self.num_envs
        np.copyto(self._previous, self._screen)
        for row, said in enumerate(actions):
            device = self.devices[row]
            try:
                action = from_numbers(said.tolist(), self._words[row]) if self._numbers else parse(said)
                perform(device, action)
                given_up[row] = action.kind in ("STATUS_TASK_COMPLETE", "STATUS_TASK_IMPOSSIBLE")
                self._last[row] = str(action)[:LONGEST]
            except ActionError as error:
                invalid[row] = str(error)
                self._last[row] = str(error)[:LONGEST] if self._numbers else str(said)[:LONGEST]
            device.tick(SECONDS)
            success[row] = self.tasks[row].success(device)
            if device.version != self._shown[row]:
                device.render(self._screen[row])
                self._shown[row] = device.version
        self._elapsed += 1
        terminated = success | given_up
        truncated = (self._elapsed >= self.max_episode_steps) & ~terminated
        info = {"success": success, "template": self._names(), "invalid": invalid}
        return self._observe(), success.astype(np.float32), terminated, truncated, info

    def expert(self) -> list[str]:
        """Return the next action of a scripted expert on every phone, as text, from wherever it is.

        It sees the phone's state. On an ended episode's phone, and where it is at its wits' end, it waits.
        """
        found = [task.template.oracle(hand, task.params) for task, hand in zip(self.tasks, self._hands, strict=True)]
        return [str(action or Action("WAIT")) for action in found]

    def stray(self, random: Random) -> list[str]:
        """Return a tap on any of the things that can be touched, on every phone, as text: where demonstrators err."""
        return [str(hand.stray(random)) for hand in self._hands]

    def kind(self, seed: int) -> str:
        """Return the name of the template whose task a seed sets."""
        return drawn(self.templates, seed).name

    def render(self) -> tuple[np.ndarray, ...]:
        """Return one picture a phone, [H, W, 3] uint8 each."""
        return tuple(self._screen.copy())

    def _observe(self) -> Observation:
        text = tuple(f"{goal}\n{last}" for goal, last in zip(self._instructions, self._last, strict=True))
        return {"screen": self._screen, "previous": self._previous, "text": text}

    def _names(self) -> list[str]:
        return [task.template.name for task in self.tasks]


def _check(family: str, level: int, split: str, actions: str, height: int, width: int, max_steps: int) -> None:
    for name, value, known in (
        ("family", family, ("all", "general", "web-shop")), ("split", split, SPLITS),
        ("actions", actions, ("text", "numbers")), ("level", level, (1, 2, 3)),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"android: {name} is {value!r}, expected one of {', '.join(map(repr, known))}.")
    for name, size in (("height", height), ("width", width), ("max_steps", max_steps)):
        if size < 1:
            raise ValueError(f"android: {name} is {size}, expected at least 1.")


def _seeds(seed: int | Sequence[int] | None, before: Sequence[int]) -> list[int]:
    """Return one seed a phone."""
    if seed is None:
        return [(1_103_515_245 * (last + row) + 12_345) % 2**31 for row, last in enumerate(before)]
    if isinstance(seed, int):
        return list(range(seed, seed + len(before)))
    if len(seed) != len(before):
        raise ValueError(f"android: reset(seed=[...]) takes one seed a phone, {len(before)}; got {len(seed)}.")
    return [int(number) for number in seed]


def drawn(templates: Sequence[Template], seed: int) -> Template:
    """Return the template of a seed's episode."""
    return Random(f"{seed}/template").choice(templates)


def chosen(names: Sequence[str], family: str, level: int, split: Split) -> list[Template]:
    """Return the templates that an agent is given.

    Raises:
        ValueError: For an unknown name, or where none is left.
    """
    for name in names:
        if name not in TEMPLATES:
            near = get_close_matches(name, TEMPLATES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"android: there is no template {name!r}.{hint} There are {', '.join(TEMPLATES)}.")
    chosen = [TEMPLATES[name] for name in names] or [
        template
        for template in TEMPLATES.values()
        if family in ("all", template.family) and template.level <= level
    ]
    chosen = [template for template in chosen if split == "test" or not template.held_out]
    if split == "reworded":
        chosen = [template for template in chosen if template.wordings]
    if not chosen:
        raise ValueError(
            f"android: no template is left for split={split!r}: {list(names)} are held out for tests or have one "
            "wording alone. Use split='test'."
        )
    return chosen


LADDER = ("open-app", "open-settings", "turn", "slide", "font-size", "timeout", "shop-go")
"""One to four actions, told apart by icons, colours and places: for agents too small to read or copy words."""
WORLDS: dict[str, Callable[..., PhoneEnv]] = {
    "android/phone-v0": PhoneEnv,
    "android/general-v0": partial(PhoneEnv, family="general"),
    "android/web-shop-v0": partial(PhoneEnv, family="web-shop"),
    "android/ladder-v0": partial(PhoneEnv, templates=LADDER),
}
"""By id: all tasks, one of DigiRL's two sets, or a few for small agents."""
