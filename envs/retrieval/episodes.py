"""Many episodes of worlds that are written for one: in lock step, on three clocks, in this process or apart.

The full interface for an author is a class with `reset(**row)`, which returns what the agent reads first, and
`step(action)`, which returns what it reads next or a `Reply` that ends the episode; either may be asynchronous, and a
message is a text, a picture [H, W, C] uint8, or a `Turn` with both. `ValueError` and `LookupError` refuse an action:
the agent reads why and goes on. Any other exception is the world's own failure, and voids the episode.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from palaestra.envs.retrieval.core import Outcome, Record, Reply, Turn

if TYPE_CHECKING:
    from palaestra.envs.retrieval.isolation import Limits


class Episode(Protocol):
    """One conversation at a time; begun again and again."""

    async def begin(self, row: Mapping[str, Any]) -> Turn:
        """Begin an episode and return what the world says first."""
        ...

    async def act(self, action: str) -> Reply:
        """Carry out an action, and return what came of it."""
        ...

    async def pay(self, answer: str | None) -> float | None:
        """Return what the world pays for an episode that ends without an answer; None where it pays nothing."""
        ...


class JudgeError(Exception):
    """A reward that breaks; what the agent answered is kept."""

    def __init__(self, message: str, answer: str | None = None) -> None:
        super().__init__(message, answer)
        self.message, self.answer = message, answer


@dataclass(frozen=True)
class Clocks:
    """How long things may take, in seconds. Whatever takes longer is the environment's failure."""

    call: float = 30.0
    """One action. In this process only asynchronous worlds can be interrupted."""
    boot: float = 60.0
    """Making a world and resetting it."""
    episode: float = 600.0
    """An episode: one that takes longer ends at its next action."""


class FullEpisode:
    """One episode of a class with `reset` and `step`; an `Episode`."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """Make the world.

        Raises:
            TypeError: It lacks `reset` or `step`.
        """
        self._world = make()
        for name in ("reset", "step"):
            if not callable(getattr(self._world, name, None)):
                kind = type(self._world).__name__
                raise TypeError(f"{kind} has no {name}: a world has reset(**row) and step(action).")

    async def begin(self, row: Mapping[str, Any]) -> Turn:
        """See `Episode.begin`."""
        return as_turn(await awaited(self._world.reset(**row)))

    async def act(self, action: str) -> Reply:
        """See `Episode.act`."""
        said = await awaited(self._world.step(action))
        return said if isinstance(said, Reply) else Reply(as_turn(said))

    async def pay(self, answer: str | None) -> float | None:
        """A world of this kind pays with the reply that ends an episode, and 0 where the agent never came to that."""
        return 0.0


class EpisodeWorlds:
    """N episodes as `Conversations`."""

    def __init__(
        self,
        make: Callable[[], Episode],
        turns: int = 8,
        clocks: Clocks | None = None,
        live: int | None = None,
        limits: Limits | None = None,
        row: inspect.Signature | None = None,
    ) -> None:
        """Take what makes an episode; none is made yet.

        Args:
            make: Makes one, for each row.
            turns: Actions that are carried out; one more turn may follow, of which only an answer counts.
            clocks: How long things may take.
            live: How many episodes may be in progress at once; None for any number.
            limits: If given, each row is a process of its own, held to these.
            row: Of the class's `reset`, where it is known: tasks that do not fit it are refused at once.

        Raises:
            ValueError: A number makes no sense.
        """
        clocks = Clocks() if clocks is None else clocks
        if turns < 1 or (live is not None and live < 1) or min(clocks.call, clocks.boot, clocks.episode) <= 0:
            raise ValueError(f"turns is {turns}, live {live}, clocks {clocks}: all must be positive.")
        if limits is not None:
            from palaestra.envs.retrieval.isolation import IsolatedEpisode

            make = partial(IsolatedEpisode, make, limits)
        self.live, self._make, self._turns, self._clocks = live, make, turns, clocks
        self._row = row
        self._worlds: list[Episode | None] = []
        self._records: list[Record] = []
        self._began: list[float] = []

    @property
    def records(self) -> list[Record]:
        """The episodes so far, one a row."""
        return self._records

    def reset(self, tasks: Sequence[Mapping[str, Any]]) -> list[Turn]:
        """Start an episode a task: a row of named values that the class's `reset` takes.

        A world that cannot be made or reset in time has an episode that ends with the agent's first action.

        Raises:
            TypeError: A task has not the values that `reset` takes: the program's fault, not the world's.
        """
        if self._row is not None:
            for task in tasks:
                self._row.bind(None, **task)
        self._worlds += [None] * (len(tasks) - len(self._worlds))
        self._records, self._began = [Record(task) for task in tasks], [time.monotonic()] * len(tasks)
        turns = _together([self._boot(row) for row in range(len(tasks))])
        return [replace(turn, anchor=(str(task), 0)) for turn, task in zip(turns, tasks, strict=True)]

    def step(self, rows: Sequence[int], actions: Sequence[str]) -> list[Reply]:
        """Carry out one action in each of some rows; what is asynchronous in them runs side by side."""
        replies = _together([self._one(row, action) for row, action in zip(rows, actions, strict=True)])
        for row, reply in zip(rows, replies, strict=True):
            record = self._records[row]
            record.invalid += reply.turn is not None and reply.turn.invalid
            record.outcome, record.error = reply.outcome, reply.error
            record.answer, record.reward = reply.answer, reply.reward
        return replies

    def close(self) -> None:
        """Free what the worlds hold."""
        for world in self._worlds:
            self._drop(world)
        self._worlds = []

    async def _boot(self, row: int) -> Turn:
        try:
            async with asyncio.timeout(self._clocks.boot):
                world = self._worlds[row]
                if world is None:
                    world = self._worlds[row] = self._make()
                turn = await world.begin(self._records[row].task)
            self._began[row] = time.monotonic()
            return turn
        except Exception as error:  # whatever a world raises on the way up is its own failure
            self._records[row].error = f"the world did not start: {_named(error)}"
            self._forget(row)
            return Turn()

    async def _one(self, row: int, action: str) -> Reply:
        record, world = self._records[row], self._worlds[row]
        if record.outcome is not None:
            raise ValueError(f"row {row} was told {action[:40]!r}, but its episode is over ({record.outcome}).")
        record.actions.append(action)
        if world is None:
            return Reply(None, "environment", record.error)
        if time.monotonic() - self._began[row] > self._clocks.episode:
            return self._broken(row, f"the episode took more than {self._clocks.episode:g} s")
        last = len(record.actions) > self._turns
        anchor = (str(record.task), *record.actions)
        try:
            async with asyncio.timeout(self._clocks.call):
                reply = await world.act(action)
            if last and reply.turn is not None:
                return await self._out_of_turns(world)
            return replace(reply, turn=replace(reply.turn, anchor=anchor)) if reply.turn else reply
        except JudgeError as error:
            return Reply(None, "judge", error.message, error.answer)
        except (ValueError, LookupError) as error:
            if last:
                return await self._out_of_turns(world)
            return Reply(Turn(f"Invalid: {error}", anchor=anchor, invalid=True))
        except Exception as error:  # anything else that a world raises is its own failure, not the agent's
            return self._broken(row, _named(error))

    async def _out_of_turns(self, world: Episode) -> Reply:
        outcome: Outcome = "turns"
        try:
            return Reply(None, outcome, reward=await world.pay(None))
        except JudgeError as error:
            return Reply(None, "judge", error.message)

    def _broken(self, row: int, error: str) -> Reply:
        """Void an episode; its world may be in any state, so another will be made."""
        self._forget(row)
        return Reply(None, "environment", error)

    def _forget(self, row: int) -> None:
        self._drop(self._worlds[row])
        self._worlds[row] = None

    @staticmethod
    def _drop(world: Episode | None) -> None:
        close = getattr(world, "close", None)
        if close is not None:
            close()


def full_worlds(make: Callable[[], Any], **options: Any) -> EpisodeWorlds:
    """Return worlds of a class with `reset` and `step`; for options see `EpisodeWorlds`."""
    row = inspect.signature(make.reset) if isinstance(make, type) and hasattr(make, "reset") else None
    return EpisodeWorlds(partial(FullEpisode, make), row=row, **options)


async def awaited(value: Any) -> Any:
    """Return a value, waited for where it is to come."""
    return await value if inspect.isawaitable(value) else value


def as_turn(said: Any) -> Turn:
    """Return what a world said as a turn: a text, a picture, or a turn itself."""
    if isinstance(said, Turn):
        return said
    return Turn(images=(said,)) if isinstance(said, Tensor) else Turn(str(said))


def _together(waiting: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return what coroutines return, run side by side."""

    async def gathered() -> list[Any]:
        return list(await asyncio.gather(*waiting))

    return asyncio.run(gathered())


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
