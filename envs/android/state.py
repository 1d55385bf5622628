"""All of a phone that changes, as plain data: a snapshot is a copy of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from palaestra.envs.android.app import Page
from palaestra.envs.android.palette import SKY
from palaestra.envs.android.storage import SETTINGS, Database
from palaestra.envs.android.system import Notification, Popup

START = 1697384040.0
"""When phones start: 2023-10-15 15:34 UTC, AndroidWorld's moment."""


@dataclass(slots=True)
class State:
    """All of a phone that changes."""

    seed: int
    """Of its contents."""
    random: Random
    """Of what happens on it."""
    clock: float = START
    """Virtual seconds since 1970, UTC."""
    settings: dict[str, dict[str, str]] = field(default_factory=lambda: {k: dict(v) for k, v in SETTINGS.items()})
    """Namespace to key to value."""
    databases: dict[str, Database] = field(default_factory=dict)
    """Package to tables, of the apps that were looked at."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Absolute path to contents."""
    written: dict[str, float] = field(default_factory=dict)
    """When the files were written that were so since the start: path to a time of the clock."""
    files_start: dict[str, bytes] = field(default_factory=dict)
    """What they were when the task began."""
    settings_start: dict[str, dict[str, str]] = field(default_factory=dict)
    """The settings when the task began."""
    tasks: list[list[Page]] = field(default_factory=list)
    """Back stacks from back to front; the last page of the last one is seen."""
    focus: str = ""
    """The field that has the keyboard, empty where none has."""
    digits: bool = False
    """Whether the keyboard shows digits."""
    popup: Popup | None = None
    """A dialog that nobody asked for."""
    heads_up: Notification | None = None
    """Over the top of the screen."""
    heads_up_until: float = 0.0
    """When it goes, a time of the clock."""
    notifications: list[Notification] = field(default_factory=list)
    """In the shade, oldest first."""
    shade: bool = False
    """Whether it is pulled down."""
    toast: str = ""
    """What just happened."""
    toast_until: float = 0.0
    """When it goes."""
    loading_until: float = 0.0
    """Touches before this moment are lost."""
    german: bool = False
    """Whether the phone speaks German."""
    wallpaper: int = SKY
    """The colour behind the home screen's icons, a palette index."""
    walled: bool = False
    """Whether the shops have taken it for a robot's."""
    clipboard: str = ""
    """What was copied."""
    log: list[str] = field(default_factory=list)
    """logcat, the last thousand lines."""
