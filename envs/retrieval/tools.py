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

import asyncio
import inspect
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from torch import Tensor

from palaestra.envs.retrieval.core import Record, Reply, Turn

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


class ToolWorlds:
    """Conversations in which a plain class's methods are called."""

    def __init__(
        self, make: type, turns: int = 8, *, call_seconds: float = 30.0, episode_seconds: float = 600.0
    ) -> None:
        """Take a class, of which one instance is made a row.

        Args:
            make: The class.
            turns: Calls that are carried out; one more turn may follow, of which only an answer counts.
            call_seconds: An asynchronous tool that takes longer breaks its episode; others cannot be interrupted.
            episode_seconds: An episode that takes longer breaks at its next call.
        """
        self.tools = tools_of(make)
        self._make, self._turns, self._call, self._episode = make, turns, call_seconds, episode_seconds
        self._pattern = re.compile(rf"<({'|'.join((*self.tools, 'answer'))})>(.*?)</\1>", re.DOTALL)
        self._worlds: list[Any] = []
        self._records: list[Record] = []
        self._began = 0.0

    @property
    def records(self) -> list[Record]:
        """The episodes so far, one a row."""
        return self._records

    @property
    def schema(self) -> list[dict[str, Any]]:
        """The tools as chat templates take them."""
        return [tool.schema for tool in self.tools.values()]

    def reset(self, tasks: Sequence[Mapping[str, Any]]) -> list[Turn]:
        """Start an episode a task: a row of named values that the class's `reset` takes."""
        while len(self._worlds) < len(tasks):
            self._worlds.append(self._make())
        self._records, self._began = [Record(task) for task in tasks], time.monotonic()
        turns = [world.reset(**task) for world, task in zip(self._worlds, tasks, strict=False)]
        return [_turn(said, (str(task), 0)) for said, task in zip(turns, tasks, strict=True)]

    def step(self, rows: Sequence[int], actions: Sequence[str]) -> list[Reply]:
        """Carry out one call in each of some rows; asynchronous tools run side by side."""

        async def together() -> list[Reply]:
            return list(await asyncio.gather(*map(self._one, rows, actions)))

        return asyncio.run(together())

    async def _one(self, row: int, action: str) -> Reply:
        record = self._records[row]
        record.actions.append(action)
        match = self._pattern.search(re.sub(r"<think>.*?</think>", "", action, flags=re.DOTALL))
        if match is not None and match.group(1) == "answer":
            record.answer = match.group(2).strip()
            return self._ended(row, "answered")
        if len(record.actions) > self._turns:
            return self._ended(row, "turns")
        anchor = (str(record.task), *record.actions)
        try:
            if match is None:
                raise CallError(f"call a tool ({', '.join(self.tools)}) or answer")
            if time.monotonic() - self._began > self._episode:
                raise TimeoutError(f"the episode took more than {self._episode:g} s")
            tool = self.tools[match.group(1)]
            said = getattr(self._worlds[row], tool.name)(**tool.arguments(match.group(2)))
            if inspect.isawaitable(said):
                said = await asyncio.wait_for(said, self._call)
            return Reply(_turn(said, anchor))
        except (ValueError, LookupError) as error:
            record.invalid += 1
            return Reply(Turn(f"Invalid: {error}", anchor=anchor, invalid=True))
        except Exception as error:  # anything else that a tool raises is the world's failure, not the agent's
            record.error = f"{type(error).__name__}: {error}"
            record.outcome = "environment"
            return Reply(None, "environment", record.error)

    def _ended(self, row: int, outcome: Any) -> Reply:
        record = self._records[row]
        record.outcome = outcome
        pay: Callable[[str | None], float] | None = getattr(self._worlds[row], "reward", None)
        if pay is not None:
            try:
                record.reward = float(pay(record.answer))
            except Exception as error:  # a reward that breaks is a judge that breaks: no reward of 0
                record.outcome, record.error = "judge", f"{type(error).__name__}: {error}"
        return Reply(None, record.outcome, record.error)


def _turn(said: Any, anchor: Any) -> Turn:
    """Return what a tool gave as a turn: a text, a picture, or a turn itself."""
    if isinstance(said, Turn):
        return said
    return Turn(images=(said,), anchor=anchor) if isinstance(said, Tensor) else Turn(str(said), anchor=anchor)


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
