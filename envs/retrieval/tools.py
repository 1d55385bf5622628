"""A world of tools from a plain class: its public methods are the tools, hints and docstrings their description.

    class Shop:
        '''Answer questions about prices.'''

        def reset(self, question: str, answer: str) -> str:
            self.answer = answer
            return question

        def price(self, item: str) -> str:
            '''Return the price of an item.'''
            return str(PRICES[item])

        def reward(self, answer: str | None) -> float:
            return float(answer == self.answer)

    worlds = ToolWorlds(Shop)

An agent calls a tool as `<price>apple</price>`, or with several arguments as `<name>{"a": 1, "b": 2}</name>`, and ends
the episode with `<answer>…</answer>`. A tool that raises ValueError or LookupError refuses the call: the agent reads
why and goes on. Any other exception is the world's own failure, and voids the episode.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

from palaestra.envs.retrieval.core import Reply, Turn
from palaestra.envs.retrieval.episodes import (
    Clocks,
    EpisodeWorlds,
    JudgeError,
    as_turn,
    awaited,
)
from palaestra.envs.retrieval.isolation import Limits

RESERVED = frozenset({"reset", "reward", "answer", "think"})
"""Names that are no tools."""
_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


class CallError(ValueError):
    """A call that does not fit its tool: the agent is told why."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A public method, described."""

    name: str
    description: str
    kinds: Mapping[str, type]
    """Parameter to its type: str, int, float, bool, list or dict."""
    required: tuple[str, ...]

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as chat templates take it, in OpenAI's form."""
        properties = {name: {"type": _KINDS[kind]} for name, kind in self.kinds.items()}
        parameters = {"type": "object", "properties": properties, "required": list(self.required)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def arguments(self, body: str) -> dict[str, Any]:
        """Read the arguments of a call: a JSON object, or the text of the only parameter.

        Raises:
            CallError: They do not fit the parameters.
        """
        body = body.strip()
        if body.startswith("{") and list(self.kinds.values()) != [dict]:
            try:
                given = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise CallError(f"the arguments of {self.name} are no JSON: {error}") from None
        elif len(self.kinds) == 1:
            (parameter,) = self.kinds
            given = {parameter: _read(body, self.kinds[parameter], f"{self.name}'s {parameter}")}
        elif body:
            raise CallError(f"{self.name} takes a JSON object with {', '.join(self.kinds) or 'nothing in it'}")
        else:
            given = {}
        if wrong := sorted(given.keys() - self.kinds.keys()) + [name for name in self.required if name not in given]:
            raise CallError(f"{self.name} takes {', '.join(self.kinds) or 'nothing'}: see {wrong[0]!r}")
        return {name: _fit(value, self.kinds[name], f"{self.name}'s {name}") for name, value in given.items()}


def tools_of(kind: type) -> dict[str, Tool]:
    """Return the tools of a class by name.

    Raises:
        TypeError: There is none, a parameter has no hint or one that cannot be described, or `reset` is missing.
    """
    if not callable(getattr(kind, "reset", None)):
        raise TypeError(f"{kind.__name__} has no reset(**row): it begins an episode and returns the first message.")
    found = {}
    for name, method in inspect.getmembers(kind, callable):
        if name.startswith("_") or name in RESERVED:
            continue
        hints = get_type_hints(method)
        parameters = list(inspect.signature(method).parameters.values())[1:]
        for parameter in parameters:
            hint = hints.get(parameter.name)
            if hint not in _KINDS and getattr(hint, "__origin__", None) not in _KINDS:
                raise TypeError(
                    f"{kind.__name__}.{name}: parameter {parameter.name!r} has the hint {hint!r}; a tool's parameters "
                    f"are {', '.join(one.__name__ for one in _KINDS)}."
                )
        kinds = {one.name: getattr(hints[one.name], "__origin__", None) or hints[one.name] for one in parameters}
        required = tuple(one.name for one in parameters if one.default is inspect.Parameter.empty)
        found[name] = Tool(name, inspect.getdoc(method) or "", kinds, required)
    if not found:
        raise TypeError(f"{kind.__name__} has no public method besides reset and reward: there is no tool.")
    return found


class ToolEpisode:
    """One episode of a plain class; an `Episode`."""

    def __init__(self, make: type) -> None:
        """Make the world."""
        self.tools = tools_of(make)
        self._world: Any = make()
        self._pattern = re.compile(rf"<({'|'.join((*self.tools, 'answer'))})>(.*?)</\1>", re.DOTALL)

    async def begin(self, row: Mapping[str, Any]) -> Turn:
        """Begin with a row of named values that the class's `reset` takes."""
        return as_turn(await awaited(self._world.reset(**row)))

    async def act(self, action: str) -> Reply:
        """Carry out the first call in what an agent said; thoughts are none."""
        match = self._pattern.search(re.sub(r"<think>.*?</think>", "", action, flags=re.DOTALL))
        if match is None:
            raise CallError(f"call a tool ({', '.join(self.tools)}) or answer")
        if match.group(1) == "answer":
            answer = match.group(2).strip()
            return Reply(None, "answered", answer=answer, reward=await self.pay(answer))
        tool = self.tools[match.group(1)]
        return Reply(as_turn(await awaited(getattr(self._world, tool.name)(**tool.arguments(match.group(2))))))

    async def pay(self, answer: str | None) -> float | None:
        """Return what the class pays for an episode; None where it pays nothing.

        Raises:
            JudgeError: Its `reward` breaks.
        """
        reward = getattr(self._world, "reward", None)
        if reward is None:
            return None
        try:
            return float(await awaited(reward(answer)))
        except Exception as error:  # a reward that breaks is a judge that breaks: no reward of 0
            raise JudgeError(f"{type(error).__name__}: {error}", answer) from error


class ToolWorlds(EpisodeWorlds):
    """Conversations in which a plain class's methods are called."""

    def __init__(
        self,
        make: type,
        turns: int = 8,
        clocks: Clocks | None = None,
        live: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Take a class, of which one instance is made a row; see `EpisodeWorlds` for the rest."""
        self.tools = tools_of(make)
        super().__init__(
            partial(ToolEpisode, make), turns, clocks, live, limits, inspect.signature(make.reset)  # type: ignore[attr-defined]
        )

    @property
    def schema(self) -> list[dict[str, Any]]:
        """The tools as chat templates take them."""
        return [tool.schema for tool in self.tools.values()]


def _read(text: str, kind: type, name: str) -> Any:
    """Read a text as a value of a type."""
    if kind is str:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise CallError(f"{name} is a {kind.__name__}, got {text[:40]!r}") from None


def _fit(value: Any, kind: type, name: str) -> Any:
    """Return a value if it is of a type; whole numbers are numbers, truth values are not."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise CallError(f"{name} is a {kind.__name__}, got {str(value)[:40]!r}")
    return value
