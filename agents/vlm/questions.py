"""Rendered pictures with questions and short answers: what a tiny model can learn to see in minutes.

A picture has 2 x 2 places. Each may hold an object: a shape in a colour. Every combination of shape, colour and place
belongs to one split: no training picture shows a combination of the held-out split, and what a held-out question asks
about is always such a combination. Within a split every answer to a question is equally likely, so a model that does
not look is right in `blind_rate` of all cases and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray

from palaestra.agents.vlm.core import Message, Picture

Split = Literal["train", "held-out"]
Family = Literal["describe", "colour", "shape", "place", "count", "side"]

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 210, 220),
    "white": (245, 245, 245),
}
NAMES = tuple(COLOURS)
PLACES = ("upper left", "upper right", "lower left", "lower right")
ANSWERS: dict[Family, tuple[str, ...]] = {
    "colour": NAMES,
    "shape": SHAPES,
    "place": PLACES,
    "count": ("1", "2", "3", "4"),
    "side": ("left", "right"),
}
"""The answers that a family's questions have; a description is not one of a few."""
FAMILIES: tuple[Family, ...] = ("describe", *ANSWERS)
SIDES = (32, 64, 96, 128, 192, 256)
"""Longer sides of the pictures, in pixels."""
FORMATS = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0))
"""Height and width of the pictures, in longer sides."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object in a picture."""

    shape: int
    """Index into `SHAPES`."""
    colour: int
    """Index into `NAMES`."""
    place: int
    """Index into `PLACES`."""

    @property
    def held_out(self) -> bool:
        """Whether the combination is of the held-out split: one place for each shape and colour."""
        return (self.shape + self.colour + self.place) % len(PLACES) == 0


@dataclass(frozen=True, slots=True)
class Question:
    """One picture, a question about it, and its answer."""

    picture: Picture
    question: str
    answer: str
    family: Family
    things: tuple[Thing, ...]
    """What the picture shows; the first is what is asked about."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt: the picture, then the question."""
        return (Message("user", (self.picture, self.question)),)


Draft: TypeAlias = tuple[str, str, list[Thing]]
"""A question, its answer, and what the picture shows."""


class Questions(Sequence[Question]):
    """`total` questions, each drawn when it is read, from nothing but the seed, the split and its index."""

    def __init__(self, total: int, split: Split, *, seed: int = 0, families: Sequence[Family] = FAMILIES) -> None:
        unknown = [family for family in families if family not in FAMILIES]
        if unknown or not families:
            raise ValueError(f"unknown family {unknown[:1]} of questions: choose from {', '.join(FAMILIES)}.")
        self.total, self.split, self.seed, self.families = total, split, seed, tuple(families)

    def __len__(self) -> int:
        return self.total

    @overload
    def __getitem__(self, index: int) -> Question: ...

    @overload
    def __getitem__(self, index: slice) -> list[Question]: ...

    def __getitem__(self, index: int | slice) -> Question | list[Question]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self.total))]
        if not -self.total <= index < self.total:
            raise IndexError(f"question {index} of {self.total}.")
        index %= self.total
        held_out = self.split == "held-out"
        generator = np.random.default_rng((self.seed, held_out, index))
        family = self.families[index % len(self.families)]
        question, answer, things = _MAKERS[family](generator, _target(generator, held_out))
        return Question(render(things, generator), question, answer, family, tuple(things))


def blind_rate(family: Family) -> float:
    """Return the share of a family's questions that the best model without eyes answers rightly."""
    if family == "describe":  # the likeliest picture has one object, which is one of those held out
        return 1 / len(PLACES) / (len(SHAPES) * len(NAMES))
    return 1 / len(ANSWERS[family])


def shuffled(questions: Sequence[Question], seed: int = 0) -> list[Question]:
    """Return the questions with the pictures of others: a control, on which no model can beat `blind_rate`."""
    # A random cycle through all of them: nobody keeps their own.
    order = np.random.default_rng(seed).permutation(len(questions))
    donor = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [replace(question, picture=questions[donor[index]].picture) for index, question in enumerate(questions)]


def render(things: Sequence[Thing], generator: np.random.Generator) -> Picture:
    """Draw objects on a dark background, in one of 18 sizes, with jitter of place, size and colour."""
    side = SIDES[generator.integers(len(SIDES))]
    height, width = (round(side * share) for share in FORMATS[generator.integers(len(FORMATS))])
    palette = np.array([(30, 30, 30), *(COLOURS[NAMES[thing.colour]] for thing in things)])
    palette[0] += generator.integers(-30, 31, 3)
    palette[1:] += generator.integers(-15, 16, (len(things), 3))
    canvas = np.zeros((height, width), np.intp)
    for number, thing in enumerate(things, start=1):
        row, column = divmod(thing.place, 2)
        y0, y1 = row * height // 2, (row + 1) * height // 2
        x0, x1 = column * width // 2, (column + 1) * width // 2
        radius = generator.uniform(0.75, 0.9)
        y, x = generator.uniform(radius - 1, 1 - radius, 2)
        v = (((np.arange(y1 - y0, dtype=np.float32) + 0.5) * 2 / (y1 - y0) - 1 - y) / radius)[:, None]
        u = (((np.arange(x1 - x0, dtype=np.float32) + 0.5) * 2 / (x1 - x0) - 1 - x) / radius)[None]
        canvas[y0:y1, x0:x1] = number * _inside(thing.shape, u, v)
    return Picture(torch.from_numpy(palette.clip(0, 255).astype(np.uint8).take(canvas, axis=0)))


def _inside(shape: int, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which points are in a shape of radius 1; v points down."""
    name = SHAPES[shape]
    if name == "circle":
        return u**2 + v**2 < 1
    if name == "square":
        return np.maximum(abs(u), abs(v)) < 0.85
    if name == "triangle":
        return (abs(u) < (v + 1) / 2) & (v < 0.9)
    return (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1)


def _target(generator: np.random.Generator, held_out: bool) -> Thing:
    """Draw a combination of the split: shape and colour are uniform, and independent."""
    while True:
        thing = Thing(*(int(generator.integers(n)) for n in (len(SHAPES), len(NAMES), len(PLACES))))
        if thing.held_out == held_out:
            return thing


def _fill(
    generator: np.random.Generator, things: list[Thing], total: int, allowed: Callable[[Thing], bool]
) -> list[Thing]:
    """Add objects at free places up to a total; they are training combinations in held-out pictures too."""
    while len(things) < total:
        thing = _target(generator, held_out=False)
        if allowed(thing) and all(thing.place != other.place for other in things):
            things.append(thing)
    return things


def _upto(generator: np.random.Generator, fewest: int = 1) -> int:
    """Draw how many objects a picture has."""
    return int(generator.integers(fewest, len(PLACES) + 1))


def _describe(generator: np.random.Generator, target: Thing) -> Draft:
    """Ask for all that there is: a long answer, from which a model learns to look much sooner than from short ones."""
    things = _fill(generator, [target], _upto(generator), lambda other: True)
    seen = {thing.place: f"{NAMES[thing.colour]} {SHAPES[thing.shape]}" for thing in things}
    return "What is in the picture?", ", ".join(seen.get(place, "nothing") for place in range(len(PLACES))), things


def _colour(generator: np.random.Generator, target: Thing) -> Draft:
    things = _fill(generator, [target], _upto(generator), lambda other: True)
    return f"What colour is the object in the {PLACES[target.place]}?", NAMES[target.colour], things


def _shape(generator: np.random.Generator, target: Thing) -> Draft:
    things = _fill(generator, [target], _upto(generator), lambda other: True)
    return f"What shape is the object in the {PLACES[target.place]}?", SHAPES[target.shape], things


def _place(generator: np.random.Generator, target: Thing) -> Draft:
    things = _fill(generator, [target], _upto(generator), lambda other: other.colour != target.colour)
    return f"Where is the {NAMES[target.colour]} object?", PLACES[target.place], things


def _count(generator: np.random.Generator, target: Thing) -> Draft:
    """Count one colour among others: the count is drawn first, the others fill some of what is left."""
    count = _upto(generator)
    things = _fill(generator, [target], count, lambda other: other.colour == target.colour)
    things = _fill(generator, things, _upto(generator, count), lambda other: other.colour != target.colour)
    return f"How many {NAMES[target.colour]} objects are there?", str(count), things


def _side(generator: np.random.Generator, target: Thing) -> Draft:
    def beside(other: Thing) -> bool:
        return other.colour != target.colour and other.place % 2 != target.place % 2

    things = _fill(generator, [target], 2, beside)
    first, second = (NAMES[thing.colour] for thing in things)
    return f"Is the {first} object left or right of the {second} object?", ANSWERS["side"][target.place % 2], things


_MAKERS: dict[Family, Callable[[np.random.Generator, Thing], Draft]] = {
    "describe": _describe,
    "colour": _colour,
    "shape": _shape,
    "place": _place,
    "count": _count,
    "side": _side,
}
