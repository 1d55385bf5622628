"""What an app is: a package with named screens, tables, and a way to fill them. One file of `apps/` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from palaestra.envs.android.palette import BLUE
from palaestra.envs.android.views import Screen, View, edit

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device


@dataclass(slots=True)
class Page:
    """One screen on the back stack: an activity and what it remembers. Plain data, so that it can be copied."""

    package: str
    """Whose."""
    screen: str
    """Which of the app's screens."""
    args: dict[str, Any] = field(default_factory=dict)
    """What it was opened with."""
    texts: dict[str, str] = field(default_factory=dict)
    """What stands in its fields."""
    state: dict[str, Any] = field(default_factory=dict)
    """Whatever else it remembers."""
    scroll: int = 0
    """dp that its body is scrolled up."""


Show = Callable[["Device", Page], Screen]
"""Makes what a page shows, from the phone's state alone."""
Fill = Callable[["Device", Random], None]
"""Fills an app's tables (and files) at the phone's first look at them."""


@dataclass(slots=True)
class App:
    """A package. Its screens are functions, each under the decorator `screen`."""

    package: str
    """Android's name of it."""
    title: str
    """As the launcher shows it."""
    icon: str
    """Of `icons.ICONS`."""
    color: int = BLUE
    """Of its icon and title bars, a palette index."""
    schema: dict[str, str] = field(default_factory=dict)
    """The columns of its tables; see `storage.Database`."""
    database: str = ""
    """The path of its database on the phone."""
    fill: Fill | None = None
    """Fills its tables."""
    screens: dict[str, Show] = field(default_factory=dict)
    """By name; the first is shown when it is launched."""
    activities: dict[str, str] = field(default_factory=dict)
    """Screen to the class of its activity."""
    submits: dict[str, Callable[[Device, Page, str], object]] = field(default_factory=dict)
    """Screen to what the enter key does there, told in which field."""
    key: str = "_id"
    """What its tables call a row's id."""

    @property
    def main(self) -> str:
        """The first screen."""
        return next(iter(self.screens))

    def screen(self, activity: str) -> Callable[[Show], Show]:
        """Return a decorator that makes a function the screen of its name, in an activity."""

        def add(show: Show) -> Show:
            self.screens[show.__name__] = show
            self.activities[show.__name__] = activity
            return show

        return add

    def screen_of(self, activity: str) -> str | None:
        """Return the screen that an activity starts with (".Main" is short for "package.Main"), None if unknown."""
        wanted = self.package + activity if activity.startswith(".") else activity
        return next((name for name, known in self.activities.items() if known == wanted), None)


def field_of(device: Device, page: Page, key: str, hint: str, start: str = "") -> View:
    """Return a field that edits one of a page's texts, which begins with `start`; a cross at its end empties it."""
    value = page.texts.setdefault(key, start)
    return edit(key, value, hint, device.state.focus == key, lambda: page.texts.update({key: ""}))
