"""Engines: what answers a batch of asks, by kind.

A package adds a kind by naming a function that takes a path and options and returns an `Engine`:

    [project.entry-points."palaestra.engines"]
    my_runtime = "my_package:open_engine"
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import update_wrapper
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeAlias

from palaestra.agents.vlm.core import Engine

GROUP = "palaestra.engines"
"""The entry-point group of plug-ins."""

Opener: TypeAlias = Callable[..., Engine]


def open_engine(kind: str, path: str, *, also: Mapping[str, Opener] | None = None, **options: Any) -> Engine:
    """Open an engine; its packages are imported only now.

    Args:
        kind: One of `transformers`, `open_clip`, `openai`, `echo`, those in `also`, or a plug-in's.
        path: Where its weights are: a folder; for `openai` a server's address.
        also: Further kinds, such as those that need more than this layer knows.
        options: The engine's own.

    Raises:
        ValueError: No such kind or option, with the nearest.
        WeightsError: The weights cannot be read.
    """
    return find_opener(kind, options, also)(path, **options)


def find_opener(kind: str, options: Collection[str], also: Mapping[str, Opener] | None = None) -> Opener:
    """Return what opens engines of a kind, without opening any.

    Raises:
        ValueError: No such kind, or it has no option of one of these names.
    """
    plugins = {entry.name: entry for entry in entry_points(group=GROUP)}
    more = also or {}
    if kind in more:
        opener = more[kind]
    elif kind in _OPENERS:
        opener = _OPENERS[kind]()
    elif kind in plugins:
        opener = plugins[kind].load()
    else:
        raise ValueError(f"no engine is of kind {kind!r}. {_nearest(kind, [*_OPENERS, *more, *plugins])}")
    known = list(inspect.signature(opener).parameters)[1:]
    for name in options:
        if name not in known:
            raise ValueError(f"the {kind} engine has no option {name!r}. {_nearest(name, known)}")
    return opener


def _nearest(wrong: str, right: list[str]) -> str:
    near = difflib.get_close_matches(wrong, right, 1)
    return f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(right) or 'none'}."


def _echo() -> Opener:
    from palaestra.agents.vlm.engines.echo import EchoEngine

    def open_echo(path: str, delay: float = 0.0, version: str = "echo") -> Engine:
        engine = EchoEngine(delay, version)
        return engine.load(Path(path)) if path else engine

    return open_echo


def _open_clip() -> Opener:
    from palaestra.agents.vlm.engines.clip import ClipEngine

    return _at_path(ClipEngine)


def _at_path(engine: Callable[..., Engine]) -> Opener:
    """Return what opens an engine that wants a `Path`, with the engine's own options."""

    def opener(path: str, **options: Any) -> Engine:
        paths = {name: Path(options[name]) for name in ("adapter", "processor") if options.get(name) is not None}
        return engine(Path(path), **options | paths)

    return update_wrapper(opener, engine)


def _openai() -> Opener:
    from palaestra.agents.vlm.engines.openai_engine import OpenAIEngine

    return OpenAIEngine


def _transformers() -> Opener:
    from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine

    return _at_path(TransformersEngine)


_OPENERS: dict[str, Callable[[], Opener]] = {
    "transformers": _transformers,
    "open_clip": _open_clip,
    "openai": _openai,
    "echo": _echo,
}
