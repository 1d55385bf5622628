"""What a task is: an instruction with parameters, a phone prepared for it, and checks on the phone's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Literal, get_args

from palaestra.envs.android.actions import Action
from palaestra.envs.android.device import Device
from palaestra.envs.android.oracle import Hand

Split = Literal["train", "reworded", "test"]
"""Tasks to learn from; the same in words that they are never told in; and tasks with other parameters."""
SPLITS: tuple[Split, ...] = get_args(Split)
Params = dict[str, Any]
"""What fills an instruction's braces, and whatever else its checks need."""
Draw = Callable[[Random, Split], Params]
Goal = Callable[[Device, Params], bool]
Oracle = Callable[[Hand, Params], Action | None]
Prepare = Callable[[Device, Params], object]

IGNORED = ("/history/", "/cookies/", "/read", "system/show_touches", "system/pointer_location")
"""Changes that are nobody's damage."""


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of task."""

    name: str
    """Short, unique."""
    instruction: str
    """With parameters in braces; what is to be typed stands in double quotes."""
    draw: Draw
    """Draws parameters of a split."""
    goal: Goal
    """Whether the phone is as the instruction wants it; what else changed is looked at apart."""
    oracle: Oracle
    """The next action on the way to the goal, from any state; None where it does not know one."""
    prepare: Prepare = lambda device, params: None
    """Makes the phone such that there is something to do."""
    touches: Sequence[str] = ()
    """Beginnings of the changes (see `Device.changes`) that belong to the task; all others are damage."""
    most: int = 1
    """How many such changes belong to it."""
    level: int = 1
    """1 to 3: up to 3, up to 6, or more actions of the oracle."""
    family: Literal["general", "web-shop"] = "general"
    """DigiRL's two sets of tasks."""
    held_out: bool = False
    """Whether it is seen in the test split alone."""
    wordings: Sequence[str] = ()
    """Other instructions that mean the same."""


@dataclass(slots=True)
class Task:
    """One instruction on one phone."""

    template: Template
    """Its kind."""
    params: Params
    """Its parameters."""
    wording: str = ""
    """One of its template's; empty for the first."""

    @property
    def instruction(self) -> str:
        """The words that the agent reads."""
        return (self.wording or self.template.instruction).format(**self.params)

    def damage(self, device: Device) -> list[str]:
        """Return the changes that do not belong to the task."""
        changes = [change for change in device.changes() if not any(part in change for part in IGNORED)]
        mine = [change for change in changes if change.startswith(tuple(self.template.touches) or "\0")]
        others = [change for change in changes if change not in mine]
        return others + mine[self.template.most :]

    def success(self, device: Device) -> bool:
        """Whether the goal is reached and nothing else was changed."""
        return self.template.goal(device, self.params) and not self.damage(device)


def choice(random: Random, options: Sequence[Any], split: Split, salt: str = "") -> Any:
    """Return one of the options that belong to a split; every fourth, after a fixed shuffle, is for tests."""
    return options[random.choice(_share(len(options), split, salt))]


@lru_cache(maxsize=256)
def _share(count: int, split: Split, salt: str) -> list[int]:
    """Return the indices that belong to a split."""
    order = list(range(count))
    Random(f"split {salt}").shuffle(order)
    return [index for place, index in enumerate(order) if (place % 4 == 3) == (split == "test")]


def worded(template: Template, params: Params, random: Random, split: Split) -> str:
    """Return a wording; of each task, training leaves one of them to the split "reworded"."""
    ways = (template.instruction, *template.wordings)
    if split == "test" or len(ways) == 1:
        return random.choice(ways)
    kept = Random(f"kept {template.instruction.format(**params)}").choice(ways)
    return kept if split == "reworded" else random.choice([way for way in ways if way != kept])


def start(device: Device, template: Template, seed: int, split: Split) -> Task:
    """Reset a phone to a seed, draw a task of a template and prepare the phone for it."""
    device.reset(seed)
    random = Random(f"{seed}/{template.name}/{split}")
    params = template.draw(random, split)
    task = Task(template, params, worded(template, params, random, split))
    template.prepare(device, task.params)
    device.settle()
    device.changed()
    return task
