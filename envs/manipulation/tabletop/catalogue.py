"""What a table may hold, what may be asked for, and which of it is kept from training.

16 objects × 17 receptacles × 16 scenes are 4,352 combinations, as in π_RL's ManiSkill benchmark (arXiv 2510.25889).
The last quarter of each is held out; every shape, colour and pattern of it is also seen in training, in other
combinations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal["pick-place", "push", "sort", "drawer"]
"""Put an object on a receptacle; push it there with closed fingers; put two each on its own; open or close a drawer."""
Split = Literal["train", "object", "receptacle", "wording", "texture", "start"]
"""What an episode holds that training does not: nothing, or things of one kind (`texture` changes the light too)."""
TASKS: tuple[Task, ...] = get_args(Task)
SPLITS: tuple[Split, ...] = get_args(Split)

COLOURS = {
    "red": (214, 48, 49), "green": (46, 160, 67), "blue": (40, 90, 220), "yellow": (240, 200, 40),
    "purple": (140, 70, 180), "orange": (240, 130, 40), "pink": (240, 140, 180), "white": (245, 245, 245),
    "black": (40, 40, 44), "brown": (120, 72, 40), "gray": (150, 150, 156),
}  # fmt: skip
"""Names of colours, and their red, green and blue."""
OBJECT_SHAPES = ("cube", "ball", "wedge", "cross")
RECEPTACLE_SHAPES = ("plate", "tray", "mat")
HANDLE = 16
"""The kind of a drawer's handle, beyond the objects."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing: its look and its name."""

    shape: int
    """Which of its family's shapes."""
    colour: tuple[int, int, int]
    """Red, green, blue."""
    name: str
    """As instructions call it."""


def _kinds(count: int, shapes: tuple[str, ...], colours: tuple[str, ...]) -> tuple[Kind, ...]:
    """Return combinations in which neighbours differ in both shape and colour."""
    found = []
    for index in range(count):
        colour = colours[index % len(colours)]
        shape = (index + index // len(colours)) % len(shapes)
        found.append(Kind(shape, COLOURS[colour], f"{colour} {shapes[shape]}"))
    return tuple(found)


OBJECTS = (
    *_kinds(16, OBJECT_SHAPES, ("red", "green", "blue", "yellow")),
    Kind(0, COLOURS["gray"], "handle"),
)
RECEPTACLES = _kinds(17, RECEPTACLE_SHAPES, ("white", "purple", "orange", "black", "pink", "brown"))
TABLES = ((196, 164, 120), (120, 140, 150), (170, 110, 80), (150, 170, 130))
"""Colours of the table's top."""
PATTERNS = ("plain", "stripes", "checks", "bands")
SCENES = tuple((index % 4, (index + index // 4) % 4) for index in range(16))
"""(pattern, colour of the table)."""
HELD_OUT = 4
"""Kinds of objects, receptacles and scenes that no training episode holds: the last ones."""

WORDINGS: dict[Task, tuple[str, ...]] = {
    "pick-place": (
        "put the {0} on the {1}", "place the {0} on the {1}", "pick up the {0} and put it on the {1}",
        "move the {0} to the {1}", "the {0} goes on the {1}", "set the {0} down on the {1}",
        "please bring the {0} over to the {1}", "on the {1} there should be the {0}",
    ),
    "push": (
        "push the {0} to the {1}", "slide the {0} onto the {1}", "shove the {0} to the {1}",
        "push the {0} until it is on the {1}", "without lifting it, move the {0} to the {1}",
        "use the fingers to push the {0} to the {1}",
        "nudge the {0} over to the {1}", "to the {1}, slide the {0}",
    ),
    "sort": (
        "put the {0} on the {1} and the {2} on the {3}", "place the {0} on the {1} and the {2} on the {3}",
        "the {0} goes on the {1}, the {2} on the {3}", "sort: {0} on the {1}, {2} on the {3}",
        "move the {0} to the {1} and the {2} to the {3}", "set the {0} on the {1}, then the {2} on the {3}",
        "please bring the {0} to the {1} and the {2} to the {3}", "on the {1} the {0}, on the {3} the {2}",
    ),
    "drawer": (
        "{4} the drawer", "please {4} the drawer", "{4} it by the handle", "use the handle to {4} the drawer",
        "the drawer should be {4}ed", "{4} the drawer all the way",
        "would you {4} that drawer", "grab the handle and {4} it",
    ),
}  # fmt: skip
"""Ways to ask, the last two of each held out. {0} and {2} are objects, {1} and {3} receptacles, {4} open or close."""
HELD_OUT_WORDINGS = 2
LONGEST = 120
"""Characters of an instruction."""


def instruction(task: Task, wording: int, objects: list[int], receptacles: list[int], opens: bool) -> str:
    """Return what an episode asks for.

    Args:
        task: Which task.
        wording: Which of its wordings.
        objects: Kinds of the objects to move, at least one (sort: two).
        receptacles: Kinds of the receptacles they belong on, as many.
        opens: Whether the drawer is to be opened.
    """
    things = [
        kind.name
        for pair in zip(objects, receptacles, strict=False)
        for kind in (OBJECTS[pair[0]], RECEPTACLES[pair[1]])
    ]
    things += [""] * (4 - len(things))
    text = WORDINGS[task][wording].format(*things[:4], "open" if opens else "close")
    return text.replace("closeed", "closed").replace("opened", "open")
