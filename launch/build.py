"""Dataclasses from JSON: what is unknown, misspelt or of another type is refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints


def read_json(path: Path) -> Any:
    """Return what a run's JSON file holds."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: a run's folder holds a config.json.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None


def build(kind: Any, value: Any, name: str) -> Any:
    """Return `value` from JSON as an instance of the annotated type."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {value!r}; expected an object with the fields of {kind.__name__}.")
        hints = get_type_hints(kind)
        for key in value:
            if key not in hints:
                near = difflib.get_close_matches(key, hints, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{name} has the unknown key {key!r}.{hint} Known: {', '.join(hints)}.")
        return kind(**{key: build(hints[key], entry, f"{name}.{key}") for key, entry in value.items()})
    origin = get_origin(kind)
    if origin is tuple:
        parts = get_args(kind)
        return tuple(build(parts[0], entry, name) for entry in value)
    if origin is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(kind)))}.")
        return value
    if origin is dict:
        return {key: build(get_args(kind)[1], entry, f"{name}.{key}") for key, entry in value.items()}
    allowed = get_args(kind) if origin in (types.UnionType, typing.Union) else (kind,)
    accepted = tuple(allowed) + ((int,) if float in allowed else ())
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in allowed):
        raise ValueError(f"{name} is {value!r}; expected {kind}.")
    return value
