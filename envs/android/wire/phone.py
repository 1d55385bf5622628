"""A phone that is served: a device in pixels instead of dp, and the paths of its files."""

from __future__ import annotations

import copy
import posixpath
import sqlite3
import time
from collections import deque
from math import hypot

import numpy as np

from palaestra.envs.android import touch
from palaestra.envs.android.apps import LAUNCHER
from palaestra.envs.android.device import SLOP, Device
from palaestra.envs.android.state import START, State
from palaestra.envs.android.storage import Database
from palaestra.envs.android.tasks.template import Task
from palaestra.envs.android.views import TALL, WIDTH

SECONDS = 2.0
"""Virtual seconds that an input takes, as in `world.PhoneEnv`."""
QUICK = 200.0
"""Milliseconds; a swipe that takes less scrolls further than its way, by as much as it is quicker,"""
FLUNG = 3.0
"""at most so many times."""
BOOT = 1.0
"""Seconds that a reboot takes."""
MOST_BYTES = 64 * 2**20
"""The most that all files together may hold."""
MOST_FILES = 10_000
"""The most files and folders."""
MOST_SNAPSHOTS = 100
"""The most that are kept at once."""
_ROOT = "/storage/emulated/0"
_ALIASES = ("/sdcard", "/mnt/sdcard", "/storage/self/primary", "/data/media/0")


class FullError(OSError):
    """No space is left on the phone."""


class Phone:
    """A device behind a screen of so many pixels."""

    def __init__(self, device: Device, width: int = 1080, height: int = 2160) -> None:
        self.device = device
        self.size = (width, height)
        self.task: Task | None = None
        self.snapshots: dict[str, tuple[State, Task | None]] = {}
        self.inputs: deque[str] = deque(maxlen=64)
        """What was done to it lately, for people who watch."""
        self.touches = 0
        """How many gestures there were."""
        self.touched = ((0.0, 0.0), (0.0, 0.0))
        """Where the last one began and ended, x and y as shares of the screen."""
        self._booted = 0.0
        self._down: tuple[float, float, bool] | None = None
        self._last = (0.0, 0.0)

    @property
    def booted(self) -> bool:
        """Whether it is up; after a `reboot` not for a second."""
        return time.monotonic() >= self._booted

    def reboot(self) -> None:
        """Start anew, with what is stored: no app runs, nothing is on the clipboard, and no task is remembered."""
        self._booted = time.monotonic() + BOOT
        state = self.device.state
        state.tasks[:] = [stack for stack in state.tasks if stack[0].package == LAUNCHER]
        state.notifications, state.popup, state.heads_up, state.clipboard = [], None, None, ""
        state.log.clear()
        self.task = None
        self.device.home()

    # The screen.

    def picture(self) -> np.ndarray:
        """Return the screen, [height, width, 3] uint8."""
        return self.device.screen(self.size[1], self.size[0])

    def dp(self, x: float, y: float) -> tuple[float, float]:
        """Return a point in dp from one in pixels."""
        return x * WIDTH / self.size[0], y * TALL / self.size[1]

    def pixels(self, x: float, y: float) -> tuple[int, int]:
        """Return a point in pixels from one in dp."""
        return round(x * self.size[0] / WIDTH), round(y * self.size[1] / TALL)

    def tap(self, x: float, y: float) -> None:
        """Tap a pixel."""
        self._note(f"tap {x:.0f} {y:.0f}", (x, y), (x, y))
        touch.tap(self.device, *self.dp(x, y))
        self.device.tick(SECONDS)

    def swipe(self, x: float, y: float, to_x: float, to_y: float, milliseconds: float = 300) -> None:
        """Move a finger over pixels; half a second at one place is a long press, and a quick finger flings."""
        start, end = self.dp(x, y), self.dp(to_x, to_y)
        still = hypot(end[0] - start[0], end[1] - start[1]) < SLOP / 2
        what = "swipe" if not still else "hold" if milliseconds >= 500 else "tap"
        self._note(f"{what} {x:.0f} {y:.0f}" + ("" if still else f" {to_x:.0f} {to_y:.0f}"), (x, y), (to_x, to_y))
        if what == "hold":
            touch.long_press(self.device, *start)
        else:
            touch.swipe(self.device, *start, *end, fling=min(FLUNG, max(1.0, QUICK / max(1.0, milliseconds))))
        self.device.tick(SECONDS)

    def _note(self, what: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.inputs.append(what)
        self.touches += 1
        width, height = self.size
        self.touched = (start[0] / width, start[1] / height), (end[0] / width, end[1] / height)

    def finger(self, x: float, y: float, down: bool) -> None:
        """Put a raw finger down, move or lift it; the whole way is one gesture, done when it lifts."""
        if down:
            self._down = self._down or (x, y, True)
            self._last = (x, y)
        elif self._down is not None:
            (start_x, start_y, _), (end_x, end_y) = self._down, self._last
            self._down = None
            self.swipe(start_x, start_y, end_x, end_y)

    def key(self, name: str) -> bool:
        """Press a key by its name, such as "BACK"; returns whether the phone has such a key."""
        known = {"BACK": touch.back, "ESCAPE": touch.back, "HOME": touch.home, "ENTER": touch.enter,
                 "NUMPAD_ENTER": touch.enter, "DEL": touch.erase, "COPY": touch.copy, "PASTE": touch.paste}  # fmt: skip
        if name not in known:
            return False
        self.inputs.append(f"key {name}")
        known[name](self.device)
        self.device.tick(SECONDS)
        return True

    def text(self, text: str) -> None:
        """Type into the field that has the keyboard."""
        self.inputs.append(f"type {text[:80]!r}")
        touch.type_text(self.device, text)
        self.device.tick(SECONDS)

    # Snapshots: copies of all that the phone is, its random state included.

    def save(self, name: str) -> None:
        """Keep the phone as it is under a name.

        Raises:
            LookupError: Where there are too many already.
        """
        if len(self.snapshots) >= MOST_SNAPSHOTS and name not in self.snapshots:
            raise LookupError(f"{MOST_SNAPSHOTS} snapshots are kept already")
        self.snapshots[name] = self.device.snapshot(), copy.deepcopy(self.task)

    def load(self, name: str) -> None:
        """Make the phone, and the task that it is at, what they were.

        Raises:
            LookupError: Where there is no such snapshot.
        """
        state, task = self._snapshot(name)
        self.device.restore(state)
        self.task = copy.deepcopy(task)

    def forget(self, name: str) -> None:
        """Drop a snapshot.

        Raises:
            LookupError: Where there is none.
        """
        self._snapshot(name)
        del self.snapshots[name]

    def _snapshot(self, name: str) -> tuple[State, Task | None]:
        if name not in self.snapshots:
            raise LookupError(f"there is no snapshot {name!r}, only {', '.join(self.snapshots) or 'none'}")
        return self.snapshots[name]

    # Files: the shared storage, and databases as SQLite files.

    def path(self, path: str) -> str:
        """Return a path in its one true form; ".." leads nowhere but inside the phone."""
        whole = posixpath.normpath(posixpath.join("/", path))
        whole = "/" + whole.lstrip("/")
        for alias in _ALIASES:
            if whole == alias or whole.startswith(alias + "/"):
                return _ROOT + whole[len(alias) :]
        return whole

    def _databases(self) -> dict[str, str]:
        return {app.database: package for package, app in self.device.apps.items() if app.database}

    def paths(self) -> list[str]:
        """Return all files and (with a slash at the end) folders that are written down as such."""
        return [*self.device.files, *self._databases()]

    def is_folder(self, path: str) -> bool:
        """Whether a path is a folder, said so or because something lies in it."""
        start = self.path(path).rstrip("/") + "/"
        return start == "/" or any(known.startswith(start) for known in self.paths())

    def is_file(self, path: str) -> bool:
        """Whether a path is a file."""
        path = self.path(path)
        return path in self.device.files or path in self._databases()

    def entries(self, path: str) -> list[str]:
        """Return the names in a folder, sorted."""
        start = self.path(path).rstrip("/") + "/"
        return sorted({known[len(start) :].split("/")[0] for known in self.paths() if known.startswith(start)} - {""})

    def read(self, path: str) -> bytes:
        """Return a file's contents.

        Raises:
            FileNotFoundError: Where there is none.
        """
        path = self.path(path)
        package = self._databases().get(path)
        if package is not None:
            return self.device.database(package).file()
        if path not in self.device.files:
            raise FileNotFoundError(path)
        return self.device.files[path]

    def write(self, path: str, data: bytes) -> None:
        """Write a file; a database's tables become those of the SQLite file that is written.

        Raises:
            FullError: Where the phone has no room for it.
            IsADirectoryError: Where a folder has that name.
        """
        path = self.path(path)
        package = self._databases().get(path)
        if package is not None:
            load(self.device.database(package), data)
            self.device.changed()
        elif self.is_folder(path):
            raise IsADirectoryError(path)
        else:
            self._check_room(path, len(data))
            self.device.write(path, data)

    def _check_room(self, path: str, size: int) -> None:
        files = self.device.files
        if sum(map(len, files.values())) + size > MOST_BYTES:
            raise FullError(f"no space left on device: {path} has {size} bytes")
        if path not in files and len(files) >= MOST_FILES:
            raise FullError(f"no space left on device: there are {MOST_FILES} files already")

    def written(self, path: str) -> float:
        """Return when a file was last written, in seconds since 1970."""
        return self.device.state.written.get(self.path(path), START)

    def make_folder(self, path: str) -> None:
        """Make a folder.

        Raises:
            FullError: Where the phone has no room for it.
        """
        self._check_room(path, 0)
        self.device.write(self.path(path).rstrip("/") + "/", b"")

    def remove(self, path: str) -> int:
        """Remove a file, or a folder with all that is in it, and return how many went."""
        path = self.path(path)
        gone = [known for known in self.device.files if known == path or known.startswith(path.rstrip("/") + "/")]
        for known in gone:
            del self.device.files[known]
        self.device.changed()
        return len(gone)


def load(database: Database, data: bytes) -> None:
    """Take tables from the bytes of an SQLite file; what is none, or lacks a table, changes nothing.

    Raises:
        sqlite3.Error: Where it is no such file.
    """
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(data)
        database.take(connection)
    finally:
        connection.close()
