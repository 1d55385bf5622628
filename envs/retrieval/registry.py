"""Worlds of tools by name: our own, plug-ins' by entry point, and anybody's by `module:Class`.

A world's author names a class in the package's `pyproject.toml`:

    [project.entry-points."palaestra.conversations"]
    "me/shop-v0" = "my_shop:Shop"

A class with a method `step` is a full world (`episodes.py`); of any other, the public methods are tools (`tools.py`).
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from typing import Any

from palaestra.envs.retrieval.episodes import EpisodeWorlds, full_worlds
from palaestra.envs.retrieval.ledger import Ledger
from palaestra.envs.retrieval.tools import ToolWorlds

GROUP = "palaestra.conversations"
"""The entry-point group of plug-ins."""
_OURS: dict[str, type] = {"retrieval/ledger-v0": Ledger}


def names() -> list[str]:
    """Return the names of all worlds of tools, sorted. No plug-in is imported for it."""
    return sorted({*_OURS, *(entry.name for entry in entry_points(group=GROUP))})


def find(id: str) -> type:
    """Return the class behind a name.

    Raises:
        ValueError: For an unknown name, or one with two owners.
        ImportError: Where the package that holds it does not load.
        TypeError: What the name stands for is no class.
    """
    entries = {entry.value: entry for entry in entry_points(group=GROUP, name=id)}
    if len(entries) + (id in _OURS) > 1:
        raise ValueError(f"{id!r} has several owners: {', '.join(entries)}. Uninstall or rename one.")
    if id in _OURS:
        return _OURS[id]
    if not entries and ":" not in id:
        near = difflib.get_close_matches(id, names(), 3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"there is no world of tools {id!r}.{hint} Known: {', '.join(names())}; or 'module:Class'.")
    value = next(iter(entries), id)
    module, _, name = value.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise ImportError(f"{id!r} does not load: {value} raised {type(error).__name__}: {error}.") from error
    if not isinstance(found, type):
        raise TypeError(f"{id!r} is {found!r}: expected a class with reset, and tools or step.")
    return found


def open_worlds(id: str, **options: Any) -> EpisodeWorlds:
    """Make worlds by name; for options see `EpisodeWorlds`.

    Example:
        >>> worlds = open_worlds("retrieval/ledger-v0", live=64)
        >>> [tool["function"]["name"] for tool in worlds.schema]
        ['calculate', 'price']
    """
    kind = find(id)
    return full_worlds(kind, **options) if callable(getattr(kind, "step", None)) else ToolWorlds(kind, **options)
