"""How unruly a phone is, by presets: "calm", "wild", and "drift(t)" whose world changes with time t."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Noise:
    """Chances, each of 0 to 1, of what may disturb an agent."""

    popup: float = 0.0
    """A dialog when a screen opens."""
    loading: float = 0.0
    """A screen that opens a step late; touches meanwhile are lost."""
    heads_up: float = 0.0
    """A notification over the top of the screen, a step."""
    crash: float = 0.0
    """An app that falls back to the home screen, a step."""
    dark: float = 0.0
    """A phone in its dark theme."""
    shuffle: float = 0.0
    """Icons and settings in another order."""
    wallpaper: float = 0.0
    """Another colour behind the icons."""
    german: float = 0.0
    """A phone that is set to German."""
    autocorrect: float = 0.0
    """A keyboard that takes one of the words typed for another, a text."""
    captcha: float = 0.0
    """A shop that will not believe that the agent is no robot, a page that opens: the episode cannot be won."""
    layout: int = 0
    """Version of the shop sites' layouts and of the orders of icons and settings, the same on all phones."""


def ordered(noise: Noise, seed: int, what: str, entries: Sequence[T]) -> list[T]:
    """Return icons or settings in the order in which a phone shows them.

    Args:
        noise: Its preset.
        seed: The phone's.
        what: Which list it is.
        entries: In the order in which a new phone shows them.
    """
    found = list(entries)
    for version in range(1, noise.layout + 1):
        one, two = Random(f"{what} of version {version}").sample(range(len(found)), 2)
        found[one], found[two] = found[two], found[one]
    if noise.shuffle:
        Random(f"{seed}/{what}").shuffle(found)
    return found


CALM = Noise()
"""Nothing disturbs."""
WILD = Noise(
    popup=0.12, loading=0.15, heads_up=0.04, crash=0.004, dark=0.2, shuffle=1.0, wallpaper=0.5, german=0.15,
    autocorrect=0.05, captcha=0.002,
)
"""A phone as it is met."""


def noise_named(preset: str) -> Noise:
    """Return a preset.

    `drift(t)`, t a number from 0: with each whole t the sites' layouts move on and two more icons, and two more groups
    of settings, change places on all phones; popups get more frequent. A policy frozen at t = 0 decays, and one that
    goes on learning has something to learn.

    Raises:
        ValueError: For an unknown one.
    """
    if preset == "calm":
        return CALM
    if preset == "wild":
        return WILD
    drift = re.fullmatch(r"drift\((\d+(?:\.\d+)?)\)", preset)
    if drift is None:
        raise ValueError(f"there is no preset {preset!r}. Choose 'calm', 'wild' or 'drift(T)' such as 'drift(2)'.")
    time = float(drift[1])
    later = min(1.0, time / 10)
    return Noise(
        popup=0.05 + 0.25 * later,
        loading=0.1 + 0.1 * later,
        heads_up=0.02 + 0.04 * later,
        layout=int(time),
    )
