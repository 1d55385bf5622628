"""VRAG's actions: `<search> query </search>`, `<bbox>[x1, y1, x2, y2]</bbox>` and `<answer> … </answer>`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

LONGEST_QUERY = 2000
"""Characters of a query."""
CLOSINGS = ("</search>", "</bbox>", "</answer>")
"""A turn ends with the first of these."""

_ACTION = re.compile(r"<(search|bbox|answer)>((?:(?!<(?:search|bbox|answer)>).)*?)</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Act:
    """A well-formed action."""

    kind: Literal["search", "bbox", "answer"]
    text: str = ""
    """The query or the answer."""
    box: tuple[float, float, float, float] | None = None
    """The box, in pixels of the image on top."""


def parse(text: str) -> Act | str:
    """Return the first action in what an agent said, or why there is none, in a few words.

    A box is four numbers, with or without brackets and commas. Thinking is not required, as in VRAG's parser.
    """
    thought = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    match = _ACTION.search(thought)
    if match is None:
        return "no complete <search>, <bbox> or <answer>"
    kind, body = match.group(1), match.group(2).strip()
    if kind == "search":
        if not body:
            return "the query is empty"
        if len(body) > LONGEST_QUERY:
            return f"the query has {len(body)} characters, {LONGEST_QUERY} are allowed"
        return Act("search", body)
    if kind == "answer":
        return Act("answer", body) if body else "the answer is empty"
    return _box(body)


def _box(body: str) -> Act | str:
    """Read four numbers."""
    if len(body) > 200:
        return "a box is four numbers"
    inner = body[1:-1] if body.startswith("[") and body.endswith("]") else body
    parts = inner.replace(",", " ").split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return "a box is four numbers"
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        return "a box is four numbers"
    x1, y1, x2, y2 = numbers
    if min(numbers) < 0:
        return "a box has no negative numbers"
    if x2 <= x1 or y2 <= y1:
        return "a box is x1, y1, x2, y2 with x1 < x2 and y1 < y2"
    return Act("bbox", box=(x1, y1, x2, y2))
