"""Any phone that adb reaches, real, emulated or ours, as one Gymnasium world of the pool.

It shows and takes what `world.PhoneEnv` does, so the same agent acts in both.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from palaestra.envs.android.actions import LONGEST, Action, ActionError, ActionText, parse
from palaestra.envs.android.adb import Adb, Program, claimed, turn
from palaestra.envs.android.device import SLOP
from palaestra.envs.android.tasks.template import Split
from palaestra.envs.android.views import TALL, WIDTH
from palaestra.envs.android.world import SECONDS, WORDS, chosen, drawn

_KEYS = {"PRESS_BACK": 4, "PRESS_HOME": 3, "PRESS_ENTER": 66}


@dataclass(frozen=True, slots=True)
class ShellTask:
    """A task on a phone that is known by its shell alone."""

    instruction: str
    """What the agent reads; where empty, what the last line of `prepare` prints."""
    prepare: Sequence[str]
    """Shell lines that make the phone ready, such as a snapshot's loading or `pm clear`."""
    check: str
    """A shell line whose status is 0 where the task is done, 1 where it is not; anything else is a fault."""


class AdbPhoneEnv(gymnasium.Env[dict[str, Any], str]):
    """`android/adb-v0`: one phone behind adb. Observation, action, reward and info are those of `PhoneEnv`, of one row.

    A lost connection is made anew, once. Faults (a phone that freezes, reboots, or is unplugged) are raised by `step`
    as RuntimeError; the pool records them, voids the episode, and makes a world anew, which boots its phone again where
    it has `boot`. `reset` tries twice. Evaluations play another start for each that a fault voided, once; training's
    rounds play the same start once more.

    >>> phone = AdbPhoneEnv("127.0.0.1:5555", templates=["open-app"])  # doctest: +SKIP
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(
        self,
        serials: str,
        tasks: Callable[[int], ShellTask] | None = None,
        templates: Sequence[str] = (),
        family: str = "all",
        level: int = 3,
        split: Split = "train",
        height: int = TALL,
        width: int = WIDTH,
        max_steps: int = 20,
        patience: float = 6.0,
        boot: str = "",
        timeout: float = 30.0,
        adb: str = "adb",
    ) -> None:
        """Take a phone that no other world has, and wait until it has booted.

        Args:
            serials: Names that `adb devices` lists, or HOST:PORT, separated by commas; the first free one is taken.
            tasks: A task for each seed. By default, on a phone that `palaestra phone` serves, those of `PhoneEnv`.
            templates: See `PhoneEnv`.
            family: See `PhoneEnv`.
            level: See `PhoneEnv`.
            split: See `PhoneEnv`.
            height: Pixels of a screen as shown; the phone's own is averaged down. To see exactly what `PhoneEnv` shows
                in this size, serve the phone less than 256 pixels wide.
            width: Pixels.
            max_steps: Actions after which an episode is cut.
            patience: Seconds to wait for two equal pictures after an action.
            boot: A command line that starts the phone and runs as long as it does, such as "emulator -avd A -read-only
                -no-window -ports {console},{port}". Worlds boot one after the other. By default it is there already.
            timeout: Seconds that the phone may take for an answer; then it counts as frozen.
            adb: The program.

        Raises:
            RuntimeError: Where no phone is free, or it does not boot.
            ValueError: For a `boot` with unknown braces.
        """
        self._kinds = chosen(templates, family, level, split)
        self._split, self._tasks, self._patience = split, tasks, patience
        self._shape, self.max_episode_steps = (height, width), max_steps
        picture = spaces.Box(0, 255, (height, width, 3), np.uint8)
        text = spaces.Text(WORDS + LONGEST)
        self.observation_space = spaces.Dict({"screen": picture, "previous": picture, "text": text})
        self.action_space = ActionText()
        serial, self._claim = claimed([name.strip() for name in serials.split(",")])
        self.adb = Adb(serial, adb, timeout)
        self._program = Program(boot, serial) if boot else None
        try:
            self._boot()
            self._native = self.adb.screen().shape[:2]
        except RuntimeError:
            self.close()
            raise

    def _boot(self) -> None:
        """Start the phone, if that is ours to do, and wait until it is there."""
        if self._program is None:
            self.adb.connect()
            return
        with turn():
            self._program.start()
            self.adb.connect()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Prepare the phone for the task of a seed, and look; where that fails, boot it again and try once more."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._task = self._tasks(seed) if self._tasks is not None else self._own(seed)
        try:
            self._prepare()
        except RuntimeError:
            self._boot()
            self._prepare()
        return self._observe(""), {"success": False}

    def _prepare(self) -> None:
        said = ""
        for line in self._task.prepare:
            code, said = self.adb.shell(line)
            if code:
                raise RuntimeError(f"the phone {self.adb.serial} was not made ready: {line!r} ended with {code}.")
        self._instruction, self._elapsed = self._task.instruction or said.strip(), 0
        self._screen = self._previous = self._look()

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do one action. Returns observation, reward, terminated, truncated, info."""
        invalid, kind, said = "", "", action
        try:
            parsed = parse(action)
            kind, said = parsed.kind, str(parsed)
            self.adb.shell(self._line(parsed))
        except ActionError as error:
            invalid = str(error)
            self.adb.shell(f"sleep {SECONDS:g}")
        code, said_of_it = self.adb.shell(self._task.check)
        if code not in (0, 1):
            line = self._task.check
            raise RuntimeError(f"the phone {self.adb.serial} lost its task: {line!r} ended with {code}: {said_of_it}")
        success = code == 0
        self._previous, self._screen = self._screen, self._look()
        self._elapsed += 1
        ended = success or kind.startswith("STATUS_")
        cut = self._elapsed >= self.max_episode_steps and not ended
        return self._observe(said[:LONGEST]), float(success), ended, cut, {"success": success, "invalid": invalid}

    def close(self) -> None:
        """Leave the phone to others, and end it where it was started here."""
        self.adb.close()
        if self._program is not None:
            self._program.stop()
        self._claim.close()

    def _own(self, seed: int) -> ShellTask:
        name = drawn(self._kinds, seed).name
        return ShellTask("", [f"palaestra start {name} {seed} {self._split}"], "palaestra success")

    def _line(self, action: Action) -> str:
        """Return the shell line that does an action."""
        height, width = self._native
        if action.kind == "DUAL_POINT":
            (y, x), (to_y, to_x) = action.touch, action.lift
            if hypot((to_x - x) * WIDTH, (to_y - y) * TALL) < SLOP / 2:
                return f"input tap {x * width} {y * height}"
            return f"input swipe {x * width} {y * height} {to_x * width} {to_y * height} 300"
        if action.kind == "TYPE":
            return f"input text {shlex.quote(action.text.replace(' ', '%s'))}"
        return f"input keyevent {_KEYS[action.kind]}" if action.kind in _KEYS else f"sleep {SECONDS:g}"

    def _look(self) -> np.ndarray:
        """Return the screen as soon as two pictures in a row are equal, or patience is at its end."""
        deadline = time.monotonic() + self._patience
        before = self.adb.screen()
        while True:
            now = self.adb.screen()
            if np.array_equal(now, before) or time.monotonic() > deadline:
                return averaged(now, *self._shape)
            before = now

    def _observe(self, last: str) -> dict[str, Any]:
        return {"screen": self._screen, "previous": self._previous, "text": f"{self._instruction}\n{last}"}


def averaged(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a picture, [H, W, 3] uint8, in another size by the means of the blocks that become one pixel."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    if picture.shape[0] < height or picture.shape[1] < width:
        enlarged: np.ndarray = picture[rows[:, None], columns]
        return enlarged
    sums = np.add.reduceat(np.add.reduceat(picture.astype(np.uint32), rows, 0), columns, 1)
    sizes = np.diff(rows, append=picture.shape[0])[:, None] * np.diff(columns, append=picture.shape[1])
    means: np.ndarray = (sums + sizes[..., None] // 2) // sizes[..., None]
    return means.astype(np.uint8)
