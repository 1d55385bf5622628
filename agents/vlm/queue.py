"""Who is next: asks in order of urgency, and which of them share a batch. No threads and no locks in here."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from heapq import merge
from itertools import islice
from typing import Generic, Protocol, TypeAlias, TypeVar

from palaestra.agents.vlm.core import Ask, Engine, Reply

AGE = 1.0
"""An ask of priority p ranks as if it had come p · AGE seconds earlier, so whatever waits overtakes in the end."""
PRIORITIES = range(-10, 11)
"""The priorities there are. Higher is more urgent."""
WINDOW = 4
"""Companions for the most urgent ask are sought among so many batches' worth of the next most urgent."""

Promise: TypeAlias = "Future[Reply] | asyncio.Future[Reply]"


class Waiter:
    """One caller's ask: everything but the model's turn, which it may share with others."""

    __slots__ = (
        "__weakref__", "arrived", "ask", "deadline", "future", "gone", "hear", "heard", "job", "key", "loop",
        "priority", "rank", "size", "waiting",
    )

    def __init__(
        self,
        ask: Ask,
        key: str | None,
        size: int,
        priority: int,
        future: Promise,
        loop: asyncio.AbstractEventLoop | None,
        hear: Callable[[str], None] | None = None,
    ) -> None:
        self.ask, self.key, self.size, self.priority, self.future, self.loop = ask, key, size, priority, future, loop
        self.arrived = 0.0
        self.rank = 0.0
        self.deadline: float | None = None
        self.job: Job | None = None
        """Whose turn it shares in the queue; None while it waits for room, and from when it cannot be taken back."""
        self.waiting = True
        """Whether it can still be taken back: neither dropped nor with the model."""
        self.gone = False
        """Whether its caller left while it was with the model."""
        self.hear = hear
        """Is called in its loop with each piece of the answer's text as it is made; None where nobody listens."""
        self.heard = 0
        """How many characters of the text it has been told."""

    def claim(self) -> bool:
        """Make it too late to take the ask back, and return whether it had not been."""
        self.waiting, self.job = False, None  # which also leaves no cycle behind: those are freed in a long pause
        return self.future.set_running_or_notify_cancel() if isinstance(self.future, Future) else True

    def arrive(self, now: float, deadline: float | None) -> None:
        """Note when it came, and so when it is late and how it ranks."""
        self.arrived = now
        self.rank = now - AGE * self.priority
        self.deadline = None if deadline is None else now + deadline


class Job:
    """One turn of the model, for all the callers who asked the same."""

    __slots__ = ("arrived", "ask", "begun", "engine", "key", "priority", "rank", "said", "size", "waiters")

    def __init__(self, first: Waiter) -> None:
        self.ask, self.key, self.size = first.ask, first.key, first.size
        self.priority, self.rank, self.arrived = first.priority, first.rank, first.arrived
        self.waiters = [first]
        self.engine: Engine | None = None
        """Which engine is at it; None while it is queued."""
        self.begun = 0
        """How many waited when the engine began. Later ones still count as queued."""
        self.said = ""
        """The text of the answer so far, where somebody listens."""


class Ranked(Protocol):
    """What can stand in a line."""

    priority: int
    rank: float


T = TypeVar("T", bound=Ranked)


class Line(Generic[T]):
    """A queue in order of rank, from which anything can be taken in constant time.

    One first-in-first-out line a priority suffices: ranks rise within each of them, since they are times of arrival
    less a constant.
    """

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[T, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: T) -> None:
        """Let an item join at the end of its level."""
        level = self._levels.get(item.priority)
        if level is None:
            level = self._levels[item.priority] = OrderedDict()
        level[item] = None
        self._count += 1

    def remove(self, item: T) -> None:
        """Take an item out; it must be in."""
        level = self._levels[item.priority]
        del level[item]
        if not level:
            del self._levels[item.priority]
        self._count -= 1

    def __iter__(self) -> Iterator[T]:
        """Go through the items, the most urgent first."""
        if len(self._levels) == 1:
            return iter(next(iter(self._levels.values())))
        return merge(*self._levels.values(), key=lambda item: item.rank)

    def first(self, count: int) -> list[T]:
        """Return the most urgent items in order, `count` of them if there are."""
        return list(islice(self, count))


def pick(line: Line[Job], most: int, max_padding: float) -> list[Job]:
    """Return the next batch: the most urgent job, and up to `most` - 1 companions, of like size by choice.

    The padding share of the batch is at most `max_padding`. The most urgent always leads, so a job of odd size waits
    for no more batches than there are jobs ahead of it. Nothing is taken out of the line.
    """
    urgent = line.first(most)
    if not urgent:
        return []
    sizes = [job.size for job in urgent]
    if min(sizes) == max(sizes) or (len(urgent) == len(line) and padding(sizes) <= max_padding):
        return urgent
    lead, others = urgent[0], sorted(line.first(WINDOW * most), key=lambda job: job.size)
    left = right = others.index(lead)
    total, below, above = lead.size, True, True
    while right - left + 1 < most:
        below, above = below and left > 0, above and right < len(others) - 1
        if not (below or above):
            break
        down = not above or (below and lead.size - others[left - 1].size < others[right + 1].size - lead.size)
        size = others[left - 1 if down else right + 1].size
        widest = others[right].size if down else size
        if 1 - (total + size) / ((right - left + 2) * widest) > max_padding:
            below, above = below and not down, above and down
            continue
        total += size
        left, right = (left - 1, right) if down else (left, right + 1)
    return others[left : right + 1]


def padding(sizes: Sequence[int]) -> float:
    """Return which share of a batch's room pads the short asks to the longest."""
    return 1 - sum(sizes) / (len(sizes) * max(sizes))
