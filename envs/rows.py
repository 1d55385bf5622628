"""The books of a pool's rows: what each is about, which episode it is in, and which faults it has had.

After a fault a row's episode is void, and its world is made anew and shows the next episode. A fault that comes
while the row owes no answer (its worker dies, or its next episode cannot start) is reported at its next turn,
with that turn's actions unplayed. So every episode of a row is accounted for once, as an end or as a fault, and
episode e always starts from the same seed.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from palaestra.envs.core import Fault, episode_seed
from palaestra.envs.exchange import Exchange

# What a row is about. Plain numbers, because they are compared by the array.
NEW = 0  # it has not been reset yet
IDLE = 1  # it has reported, and waits for an action
PLAYING = 2  # its worker plays its chunk
STARTING = 3  # its worker makes and resets its world
DUE = 4  # its world is to be started at a time in `due`
READY = 5  # it has something to report


class Rows:
    """The state of N rows between their agent and their workers."""

    def __init__(self, exchange: Exchange, count: int, backoff: float) -> None:
        """Begin with rows that have not been reset.

        Args:
            exchange: Where they report, and where their next seeds stand.
            count: How many rows.
            backoff: Seconds before a second attempt to start a world; doubled before each further one.
        """
        self.phase = np.full(count, NEW)
        self.due: dict[int, float] = {}
        """When rows that are `DUE` are to be started, by `time.monotonic`."""
        self.alive = np.zeros(count, bool)
        """Whether a row's world is in an episode."""
        self._exchange = exchange
        self._count = count
        self._backoff = backoff
        self._seed, self._group = 0, 1
        self._episode = np.zeros(count, np.int64)
        self._failures = np.zeros(count, np.int64)
        self._faults: dict[int, Fault] = {}
        self._pending: dict[int, deque[Fault]] = {}

    def restart(self, seed: int, group: int) -> None:
        """Forget everything and have every row start its episode 0."""
        self._seed, self._group = seed, group
        self._episode[:] = 0
        self._failures[:] = 0
        self._faults.clear()
        self._pending.clear()
        for row in range(self._count):
            self._exchange.void(row)
            self._schedule(row)

    def start_due(self, rows: np.ndarray) -> np.ndarray:
        """Return those of some rows whose time to start has come, and count them as starting."""
        now = time.monotonic()
        index = np.array([row for row in rows.tolist() if self.due.get(row, now + 1) <= now], np.int64)
        self.phase[index] = STARTING
        for row in index.tolist():
            del self.due[row]
            self._aim(row, self._episode[row])
        return index

    def start(self, rows: np.ndarray) -> None:
        """Note that rows show the first view of their episode."""
        self._failures[rows] = 0
        self.alive[rows] = True
        self._finish(rows, rows)

    def play(self, rows: np.ndarray) -> None:
        """Note that rows have played a chunk, and perhaps begun their next episode."""
        ended = rows[self._exchange.flags[rows, :2].any(1)]
        self._episode[ended] += 1
        self._finish(rows, ended)

    def void(self, fault: Fault) -> None:
        """End the episode that a row was playing by a fault, and start its next one."""
        row = fault.row
        self._exchange.void(row)
        self._faults[row] = fault
        self._episode[row] += 1
        self.alive[row] = False
        self._schedule(row)

    def lose(self, fault: Fault) -> None:
        """End an episode of which no answer is owed by a fault, to be reported at the row's next turn."""
        self._pending.setdefault(fault.row, deque()).append(fault)
        self._episode[fault.row] += 1
        self.alive[fault.row] = False

    def fail_start(self, fault: Fault) -> tuple[int, Fault]:
        """Give up an episode that could not start, and try the next one after a while.

        Returns:
            How often in a row this row has failed to start, and how it did the first time.
        """
        row = fault.row
        self.lose(fault)
        self._failures[row] += 1
        failures = int(self._failures[row])
        # Rows that broke together come back one after the other.
        self._schedule(row, self._backoff * 2 ** (failures - 1) * (1 + row / self._count))
        return failures, self._pending[row][-failures]

    def report_lost(self, index: np.ndarray) -> np.ndarray:
        """Spend the turn of rows that have lost an episode on reporting that; return the other rows."""
        for row in [row for row in index.tolist() if row in self._pending]:
            self._exchange.void(row)
            self._faults[row] = self._pending[row].popleft()
            if not self._pending[row]:
                del self._pending[row]
            if self.alive[row]:
                self.phase[row] = READY
            else:
                self._schedule(row)
            index = index[index != row]
        return index

    def collect(self) -> tuple[np.ndarray, tuple[Fault | None, ...]]:
        """Return the rows that are ready, and what `Step.faults` says of them; they become idle."""
        rows = np.flatnonzero(self.phase == READY)
        self.phase[rows] = IDLE
        if not self._faults:
            return rows, ()
        faults = tuple(self._faults.pop(row, None) for row in rows.tolist())
        return rows, faults if any(faults) else ()

    def _finish(self, rows: np.ndarray, fresh: np.ndarray) -> None:
        self.phase[rows] = READY
        for row in fresh.tolist():
            self._aim(row, self._episode[row] + 1)

    def _schedule(self, row: int, delay: float = 0.0) -> None:
        self.phase[row] = DUE
        self.due[row] = time.monotonic() + delay

    def _aim(self, row: int, episode: int) -> None:
        """Say from which episode's seed the row's world resets next."""
        index = row // self._group + int(episode) * (self._count // self._group)
        self._exchange.seed[row] = episode_seed(self._seed, index)
