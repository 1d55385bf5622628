"""Reads JSON that may be anything, field by field; what is wrong is named together with what would be right."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection
from typing import Any

from palaestra.agents.vlm.core import AskError


class FieldError(AskError):
    """One field of a request is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field!r} {problem}")
        self.field = field
        """Which, such as `messages[0].content`."""


def parse(data: bytes | str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        AskError: It is not one. NaN and Infinity are not JSON.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = _decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise AskError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AskError(f"the body should be a JSON object, but is {kind(value)}.")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode  # made once: `json.loads` with options makes one a call


def kind(value: object) -> str:
    """Return what JSON calls a value's type, with its article."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    names |= {int: "an integer", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def known(body: dict[str, Any], names: Collection[str], where: str = "") -> None:
    """Refuse fields that nothing reads: a misspelled option would be silently lost.

    Raises:
        FieldError: With the nearest name.
    """
    for name in body.keys() - names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(names))}."
        raise FieldError(where + name[:80], f"is no field that is read here. {hint}")


def text(body: dict[str, Any], name: str, default: str | None = None, where: str = "") -> str:
    """Return a string field.

    Raises:
        FieldError: It is missing without a default, or no string.
    """
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise FieldError(where + name, f"should be a string, but is {kind(value)}.")
    return value


def number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """Return a number field within bounds.

    Raises:
        FieldError: It is no number, or outside.
    """
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(name, f"should be a number, but is {kind(value)}.")
    if not low <= value <= high or not math.isfinite(value):
        raise FieldError(name, f"is {str(value)[:40]}, outside {low:g} … {high:g}.")
    return float(value)


def integer(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    """Return an integer field within bounds. JSON knows no integers: 2.0 is one.

    Raises:
        FieldError: It is no integer, or outside.
    """
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(name, f"should be an integer, but is {kind(value)}.")
    if not low <= value <= high:
        raise FieldError(name, f"is {str(value)[:40]}, outside {low} … {high}.")
    return value


def boolean(body: dict[str, Any], name: str, where: str = "") -> bool:
    """Return a boolean field, false where it is missing.

    Raises:
        FieldError: It is no boolean.
    """
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise FieldError(where + name, f"should be true or false, but is {kind(value)}.")
    return value


def mapping(body: dict[str, Any], name: str, where: str = "") -> dict[str, Any]:
    """Return an object field, empty where it is missing.

    Raises:
        FieldError: It is no object.
    """
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FieldError(where + name, f"should be an object, but is {kind(value)}.")
    return value


def texts(body: dict[str, Any], name: str, most: int) -> tuple[str, ...]:
    """Return a field of strings, each not empty; one string alone is a list of one.

    Raises:
        FieldError: It is something else, or longer than `most`.
    """
    value = body.get(name)
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise FieldError(name, "should be a string or a list of strings, none of them empty.")
    if len(items) > most:
        raise FieldError(name, f"holds {len(items)} strings; at most {most} are read.")
    return tuple(items)
