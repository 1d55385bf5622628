"""One phone: what is open on it, what it shows, and how time passes. All simulated, on a virtual clock.

Everything that changes lies in its `State`. Views are made from the state when somebody looks, and thrown away when it
changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from palaestra.envs.android import fine, keyboard, language, system
from palaestra.envs.android.app import App, Page
from palaestra.envs.android.apps import APPS, LAUNCHER
from palaestra.envs.android.draw import Placed, arrange, colored, paint
from palaestra.envs.android.noise import CALM, Noise
from palaestra.envs.android.palette import DARK, LIGHT, SKY, WALLPAPERS
from palaestra.envs.android.state import State
from palaestra.envs.android.storage import Database, Row
from palaestra.envs.android.views import TALL, WIDTH

FILLERS = ("com.google.android.documentsui", "net.gsantner.markor")
"""The packages that fill the shared storage."""
SLOP = 8.0
"""dp that a finger may move in a tap. Android's own; on this small screen a fifteenth of its height."""


class Device:
    """A phone.

    Example:
        >>> phone = Device(seed=0)
        >>> phone.open("com.android.settings")
        >>> phone.screen().shape
        (128, 64, 3)
    """

    def __init__(self, seed: int = 0, noise: Noise = CALM) -> None:
        self.apps: dict[str, App] = APPS
        self.noise = noise
        self.canvas = np.zeros((TALL, WIDTH), np.uint8)
        self.version = 0
        """One more with each change of what is shown."""
        self._painted = -1
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Become the fresh phone of a seed, on its home screen."""
        self.state = State(seed, Random(f"{seed}/events"))
        if self.state.random.random() < self.noise.dark:
            self.state.settings["secure"]["ui_night_mode"] = "2"
        look = self.seeded("look")
        self.state.german = look.random() < self.noise.german
        self.state.wallpaper = look.choice(WALLPAPERS) if look.random() < self.noise.wallpaper else SKY
        self.state.tasks = [[Page(LAUNCHER, self.apps[LAUNCHER].main)]]
        self.settle()
        self.changed()

    def snapshot(self) -> State:
        """Return a copy of all that the phone is, its random state included."""
        return copy.deepcopy(self.state)

    def restore(self, state: State) -> None:
        """Become what a snapshot was."""
        self.state = copy.deepcopy(state)
        self.changed()

    def changed(self) -> None:
        """Forget what was shown: the state changed."""
        self._placed: list[Placed] | None = None
        self.version += 1

    def settle(self) -> None:
        """Take what the phone holds now for what `changes` compares with."""
        state = self.state
        state.settings_start = {namespace: dict(values) for namespace, values in state.settings.items()}
        state.files_start = dict(state.files)
        for database in state.databases.values():
            database.settle()

    def changes(self) -> list[str]:
        """Return what differs from the last `settle`: "global/wifi_on", "package/table/7", "file:/path"."""
        state = self.state
        found = [
            f"{namespace}/{key}"
            for namespace, values in state.settings.items()
            for key in values.keys() | state.settings_start[namespace].keys()
            if values.get(key) != state.settings_start[namespace].get(key)
        ]
        for package, database in state.databases.items():
            found += [f"{package}/{table}/{key}" for table, key, _, _ in database.changes()]
        paths = state.files.keys() | state.files_start.keys()
        found += [f"file:{path}" for path in paths if state.files.get(path) != state.files_start.get(path)]
        return sorted(found)

    # What apps ask for.

    @property
    def page(self) -> Page:
        """What is seen."""
        return self.state.tasks[-1][-1]

    @property
    def place_name(self) -> str:
        """The app's title and the screen that is seen, such as "Clock/alarms"."""
        return f"{self.apps[self.page.package].title}/{self.page.screen}"

    def database(self, package: str) -> Database:
        """Return an app's tables, filled at the first look."""
        known = self.state.databases.get(package)
        if known is None:
            app = self.apps[package]
            known = self.state.databases[package] = Database(app.schema, app.key)
            if app.fill is not None:
                app.fill(self, self.seeded(package))
            known.settle()
        return known

    @property
    def files(self) -> dict[str, bytes]:
        """Absolute path to contents; a path that ends with a slash is a folder. Filled at the first look."""
        for package in FILLERS:
            if package not in self.state.databases:
                self.database(package)
                self.state.files_start = dict(self.state.files)
        return self.state.files

    def table(self, package: str, name: str) -> dict[int, Row]:
        """Return one table of an app."""
        return self.database(package)[name]

    def seeded(self, what: str) -> Random:
        """Return the random numbers that belong to a name and this phone's seed."""
        return Random(f"{self.state.seed}/{what}")

    def setting(self, namespace: str, key: str) -> str:
        """Return a setting, empty where there is none."""
        return self.state.settings[namespace].get(key, "")

    def set(self, namespace: str, key: str, value: str) -> None:
        """Change a setting; airplane mode turns the radios off, as on Android."""
        self.state.settings[namespace][key] = value
        if (namespace, key, value) == ("global", "airplane_mode_on", "1"):
            self.state.settings["global"].update(wifi_on="0", bluetooth_on="0")
        self.changed()

    def toggler(self, namespace: str, key: str, on: str = "1", off: str = "0") -> Callable[[], None]:
        """Return a function that turns a setting over."""
        return lambda: self.set(namespace, key, off if self.setting(namespace, key) == on else on)

    def write(self, path: str, data: bytes) -> None:
        """Write a file, and keep when."""
        self.files[path] = data
        self.state.written[path] = self.state.clock
        self.changed()

    def copy(self, text: str) -> None:
        """Put a text on the clipboard."""
        self.state.clipboard = text
        self.toast("Copied")

    def toast(self, text: str) -> None:
        """Say what happened, for 3 s."""
        self.state.toast, self.state.toast_until = text, self.state.clock + 3

    def log(self, tag: str, message: str) -> None:
        """Add a line to logcat."""
        self.state.log.append(f" {self.state.clock:.3f}  1000  1000 I {tag}: {message}")
        del self.state.log[:-1000]

    def notify(self, note: system.Notification, show: bool = False) -> None:
        """Put a notification into the shade, and for 4 s over the screen where `show` says so."""
        self.state.notifications.append(note)
        if show:
            self.state.heads_up, self.state.heads_up_until = note, self.state.clock + 4
        self.changed()

    # Moving about: the activity manager.

    def open(self, package: str, screen: str = "", **args: Any) -> None:
        """Bring an app to the front, or a new page of it where a screen is named."""
        tasks = self.state.tasks
        stack = next((stack for stack in tasks if stack[0].package == package), None)
        if stack is None:
            stack = [Page(package, screen or self.apps[package].main, args)]
        else:
            tasks.remove(stack)
            if screen:
                stack.append(Page(package, screen, args))
        tasks.append(stack)
        self.log("ActivityTaskManager", f"Displayed {self.activity}")
        self._left()
        self._disturb()

    def push(self, screen: str, **args: Any) -> None:
        """Open another screen of the app that is seen."""
        stack = self.state.tasks[-1]
        stack.append(Page(stack[-1].package, screen, args))
        self._left()
        self._disturb()

    def replace(self, screen: str, **args: Any) -> None:
        """Open another screen in place of the one that is seen."""
        stack = self.state.tasks[-1]
        stack[-1] = Page(stack[-1].package, screen, args)
        self._left()

    def finish(self) -> None:
        """Close the page that is seen; after an app's last one the home screen is seen."""
        stack = self.state.tasks[-1]
        if stack[0].package == LAUNCHER and len(stack) == 1:
            stack[0].state.clear()
        else:
            stack.pop()
            if not stack:
                self.state.tasks.pop()
                self.home()
        self._left()

    def home(self) -> None:
        """Go to the home screen; what was open stays so behind it."""
        tasks = self.state.tasks
        stack = next(stack for stack in tasks if stack[0].package == LAUNCHER)
        tasks.remove(stack)
        tasks.append([Page(LAUNCHER, self.apps[LAUNCHER].main)])
        self._left()

    def stop(self, package: str) -> None:
        """End an app."""
        self.state.tasks = [stack for stack in self.state.tasks if stack[0].package != package]
        if not self.state.tasks or all(stack[0].package != LAUNCHER for stack in self.state.tasks):
            self.state.tasks.insert(0, [Page(LAUNCHER, self.apps[LAUNCHER].main)])
        self._left()

    @property
    def activity(self) -> str:
        """What is in front, as package/class."""
        page = self.page
        return f"{page.package}/{self.apps[page.package].activities[page.screen]}"

    def _left(self) -> None:
        self.state.focus, self.state.digits, self.state.shade = "", False, False
        self.changed()

    def _disturb(self) -> None:
        """Let the system get in the way of a screen that opens."""
        if self.noise is CALM:
            return
        random, noise = self.state.random, self.noise
        if random.random() < noise.loading:
            self.state.loading_until = self.state.clock + 2
        if random.random() < noise.popup:
            kind = random.choice(sorted(system.POPUPS))
            self.state.popup = system.Popup(kind, random.random() < 0.5, random.randrange(20, 80))

    def answer(self, yes: bool) -> None:
        """Close the popup by one of its answers."""
        shown = self.state.popup
        self.state.popup = None
        if yes and shown is not None and shown.kind in system.LEADS_AWAY:
            self.home()
        self.changed()

    def opener(self, note: system.Notification) -> Callable[[], None]:
        """Return a function that opens the app that a notification is of."""

        def tap() -> None:
            self.state.heads_up = None
            self.open(note.package)

        return tap

    def clear_notifications(self) -> None:
        """Empty the shade."""
        self.state.notifications = []
        self.changed()

    # What is seen.

    def look(self) -> list[Placed]:
        """Return all that is on the screen, from back to front."""
        if self._placed is None:
            page, state = self.page, self.state
            screen = self.apps[page.package].screens[page.screen](self, page)
            bottom = keyboard.TOP if state.focus else TALL
            placed, most = arrange(screen, page.scroll, bottom)
            if page.scroll > most:
                page.scroll = most
                placed, most = arrange(screen, most, bottom)
            self.shown, self._most = screen, most
            if state.loading_until > state.clock:
                placed = []
                system.spinner(placed)
            else:
                system.toast(self, placed)
            if not state.shade:
                system.heads_up(self, placed)
            system.status_bar(self, placed)
            system.shade(self, placed)
            system.popup(self, placed)
            if state.german:
                language.translate(placed)
            self._placed = placed
        return self._placed

    @property
    def typing(self) -> bool:
        """Whether the keyboard is up and can be reached."""
        state = self.state
        return bool(state.focus) and state.popup is None and not state.shade and state.loading_until <= state.clock

    def render(self, out: np.ndarray) -> None:
        """Draw the screen in colour into `out`, [H, W, 3] uint8 of any size; from `fine.LEAST` pixels on smoothly."""
        palette = DARK if self.setting("secure", "ui_night_mode") == "2" else LIGHT
        if out.shape[1] >= fine.LEAST:
            placed = self.look()
            keys = keyboard.keys(self.state.digits) if self.typing else ()
            fine.paint(out, self.shown.fill, [*placed, *keys], palette)
            return
        if self._painted != self.version:
            placed = self.look()
            self.canvas.fill(self.shown.fill)
            paint(self.canvas, placed)
            if self.typing:
                self.canvas[keyboard.TOP :] = keyboard.picture(self.state.digits)
            self._painted = self.version
        colored(self.canvas, palette, out)

    def screen(self, height: int = TALL, width: int = WIDTH) -> np.ndarray:
        """Return a picture of the screen, [height, width, 3] uint8."""
        out = np.empty((height, width, 3), np.uint8)
        self.render(out)
        return out

    def tick(self, seconds: float) -> None:
        """Let time pass, and with it toasts, loading and what the preset has in store."""
        state, minute = self.state, int(self.state.clock // 60)
        before, state.clock = state.clock, state.clock + seconds
        if before < state.loading_until <= state.clock or int(state.clock // 60) != minute:
            self.changed()
        if state.toast and state.clock >= state.toast_until:
            state.toast = ""
            self.changed()
        if state.heads_up is not None and state.clock >= state.heads_up_until:
            state.heads_up = None
            self.changed()
        if self.noise is not CALM:
            if state.random.random() < self.noise.heads_up:
                self.notify(system.Notification("com.simplemobiletools.smsmessenger", "News", "Sale!"), show=True)
            if state.random.random() < self.noise.crash:
                self.stop(self.page.package)
                self.home()
