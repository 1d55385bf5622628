"""Actions as DigiRL writes them, as text or as four numbers, and what they do to a phone.

Text: `Action Decision: "action_type": "DUAL_POINT", "touch_point": "[0.5000, 0.2500]", "lift_point":
"[0.5000, 0.2500]", "typed_text": ""`, points as shares of the screen, y first. An `Action Plan: … ;` may stand
before it. Numbers: (move, y, x, word), see `from_numbers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import hypot, isfinite
from random import Random
from typing import Any

import numpy as np
from gymnasium import spaces

from palaestra.envs.android import touch
from palaestra.envs.android.device import SLOP, Device
from palaestra.envs.android.views import TALL, WIDTH

KINDS = (
    "DUAL_POINT", "TYPE", "PRESS_BACK", "PRESS_HOME", "PRESS_ENTER", "STATUS_TASK_COMPLETE", "STATUS_TASK_IMPOSSIBLE",
    "WAIT",
)  # fmt: skip
"""What an action may be. DigiRL's TASK_IMPOSSIBLE is read too."""
MOVES = (
    "tap", "swipe up", "swipe down", "swipe left", "swipe right", "type", "back", "home", "enter", "complete",
    "impossible", "wait",
)  # fmt: skip
"""What the first of an action's four numbers means. A swipe is named by the finger's direction."""
SWIPE = 0.35
"""How far a swipe by numbers goes, as a share of the screen."""
LONGEST = 600
"""Letters of an action's text that are remembered."""
MOST = 20_000
"""Letters of a text that may be sent: agents also say what is no action, at length."""
_NOWHERE = (-1.0, -1.0)
_BUTTONS = {"back": "PRESS_BACK", "home": "PRESS_HOME", "enter": "PRESS_ENTER", "complete": "STATUS_TASK_COMPLETE",
            "impossible": "STATUS_TASK_IMPOSSIBLE", "wait": "WAIT"}  # fmt: skip
_STRING = r'"((?:[^"\\]|\\.)*)"'


class ActionError(ValueError):
    """A text or numbers that say no action. Says what was wrong."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that an agent does."""

    kind: str
    """Of `KINDS`."""
    touch: tuple[float, float] = _NOWHERE
    """Where the finger goes down: y and x in [0, 1]; (-1, -1) where there is no finger."""
    lift: tuple[float, float] = _NOWHERE
    """Where it goes up."""
    text: str = ""
    """What is typed."""

    def __str__(self) -> str:
        """Return the action as DigiRL writes it, which `parse` reads."""
        points = [f'"[{y:.4f}, {x:.4f}]"' if y >= 0 else '"[-1.0, -1.0]"' for y, x in (self.touch, self.lift)]
        return (
            f'Action Decision: "action_type": "{self.kind}", "touch_point": {points[0]}, "lift_point": {points[1]}, '
            f'"typed_text": {json.dumps(self.text, ensure_ascii=False)}'
        )


def tap_at(y: float, x: float) -> Action:
    """Return a tap at shares of the screen."""
    return Action("DUAL_POINT", (y, x), (y, x))


def parse(text: str) -> Action:
    """Return the action that a text says.

    Raises:
        ActionError: Where it says none, with what is missing or wrong in it.
    """
    decision = text.rpartition("Action Decision:")[2]
    fields: dict[str, str] = dict(re.findall(rf'"(\w+)"\s*:\s*{_STRING}', decision))
    kind = fields.get("action_type")
    if kind is None:
        raise ActionError(f'no "action_type" in {text[:80]!r}: expected "action_type": "DUAL_POINT", … or another.')
    kind = "STATUS_TASK_IMPOSSIBLE" if kind == "TASK_IMPOSSIBLE" else kind
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ActionError(f"action_type is {kind!r}.{hint} Choose of {', '.join(KINDS)}.")
    if kind == "DUAL_POINT":
        return Action(kind, _point(fields, "touch_point"), _point(fields, "lift_point"))
    if kind == "TYPE":
        if "typed_text" not in fields:
            raise ActionError('TYPE needs "typed_text": "…".')
        try:
            return Action(kind, text=json.loads(f'"{fields["typed_text"]}"', strict=False))
        except json.JSONDecodeError as error:
            raise ActionError(f"typed_text {fields['typed_text']!r} is no JSON string: {error}.") from error
    return Action(kind)


def _point(fields: dict[str, str], name: str) -> tuple[float, float]:
    numbers = re.fullmatch(r"\s*\[\s*([^,\s\]]+)\s*,\s*([^,\s\]]+)\s*\]\s*", fields.get(name, ""))
    try:
        y, x = (float(number) for number in numbers.groups()) if numbers else (float("nan"), 0.0)
    except ValueError:
        y = x = float("nan")
    if not (isfinite(y) and isfinite(x)):
        raise ActionError(f'{name} is {fields.get(name)!r}: expected "[y, x]" such as "[0.5000, 0.2500]".')
    return y, x


def from_numbers(numbers: Sequence[float], words: Sequence[str]) -> Action:
    """Return the action of four numbers: a move (an index of `MOVES`), y, x in [0, 1], and a word.

    The word is an index of `words`, the quoted phrases of the instruction; only "type" looks at it, and only taps and
    swipes look at y and x.

    Raises:
        ActionError: For a move or a word that there is none of.
    """
    move, y, x, word = numbers
    if not 0 <= move < len(MOVES):
        raise ActionError(f"the move is {move:g}, expected 0 to {len(MOVES) - 1}: {', '.join(MOVES)}.")
    name = MOVES[int(move)]
    if name == "tap":
        return tap_at(y, x)
    if name.startswith("swipe"):
        down, right = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}[name.split()[1]]
        return Action("DUAL_POINT", (y, x), (y + SWIPE * down, x + SWIPE * right))
    if name == "type":
        if not 0 <= word < len(words):
            raise ActionError(f"the word is {word:g}, but the instruction quotes {len(words)} phrases: {list(words)}.")
        return Action("TYPE", text=words[int(word)])
    return Action(_BUTTONS[name])


def to_numbers(action: Action, words: Sequence[str]) -> tuple[float, float, float, float]:
    """Return the four numbers of an action; a swipe keeps its direction alone.

    Raises:
        ActionError: For typed text that the instruction does not quote.
    """
    if action.kind == "TYPE":
        if action.text not in words:
            raise ActionError(f"{action.text!r} is not quoted by the instruction, which quotes {list(words)}.")
        return float(MOVES.index("type")), 0.0, 0.0, float(words.index(action.text))
    if action.kind != "DUAL_POINT":
        name = next(name for name, kind in _BUTTONS.items() if kind == action.kind)
        return float(MOVES.index(name)), 0.0, 0.0, 0.0
    (y, x), (to_y, to_x) = action.touch, action.lift
    down, right = (to_y - y) * TALL, (to_x - x) * WIDTH
    name = "tap"
    if hypot(down, right) >= SLOP / 2:
        vertical, across = ("down" if down > 0 else "up"), ("right" if right > 0 else "left")
        name = f"swipe {vertical if abs(down) >= abs(right) else across}"
    return float(MOVES.index(name)), y, x, 0.0


def quoted(instruction: str) -> list[str]:
    """Return the phrases that stand between double quotes, in order."""
    return re.findall(r'"([^"]*)"', instruction)


def perform(device: Device, action: Action) -> bool:
    """Do an action on a phone. Returns whether it met anything; the verdicts and `WAIT` do nothing."""
    if action.kind == "DUAL_POINT":
        (y, x), (to_y, to_x) = action.touch, action.lift
        return touch.swipe(device, x * WIDTH, y * TALL, to_x * WIDTH, to_y * TALL)
    if action.kind == "TYPE":
        return touch.type_text(device, action.text)
    if action.kind == "PRESS_BACK":
        return touch.back(device)
    if action.kind == "PRESS_HOME":
        return touch.home(device)
    return action.kind == "PRESS_ENTER" and touch.enter(device)


class ActionText(spaces.Text):
    """Texts of up to 20,000 letters, any of which may be sent; those that are sampled say random actions."""

    def __init__(self) -> None:
        super().__init__(MOST, min_length=0)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return a random action's text."""
        return str(random_action(Random(int(self.np_random.integers(2**31)))))


def numbers_space() -> spaces.Box:
    """Return the space of actions as four numbers."""
    return spaces.Box(np.zeros(4, np.float32), np.array([len(MOVES) - 1, 1, 1, 7], np.float32))


def random_action(random: Random, words: Sequence[str] = ()) -> Action:
    """Return a random action: mostly taps and swipes, never a verdict."""
    name = random.choice(("tap",) * 8 + MOVES[1:9])
    if name == "type" and not words:
        name = "tap"
    word = random.randrange(len(words)) if words else 0
    return from_numbers((MOVES.index(name), random.random(), random.random(), word), words)
