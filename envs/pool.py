"""Many slow single worlds in worker processes, as `Worlds`.

Whole chunks are played inside the workers, so a worker gets one message a chunk: a few bytes that say which
rows. Actions, observations, rewards and flags stay in shared memory (`exchange.py`).

What a row does after a fault: its episode is void, its world is made anew and shows the next episode. A fault
that comes while a row owes no answer (its worker dies, or its next episode cannot be started) is reported at
its next turn, with that turn's actions unplayed. So every episode of a row is accounted for once, as an end
or as a fault, and episode e always starts from the same seed.
"""

from __future__ import annotations

import os
import selectors
import time
import warnings
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from palaestra.envs.core import Fault, Step, WorldSpec, episode_seed
from palaestra.envs.exchange import Exchange
from palaestra.envs.process import WorkerProcess, stop
from palaestra.envs.spaces import Layout, action_from_json, checked_actions
from palaestra.envs.worker import Command, Factory

_LOOK = 0.25
"""Seconds between two looks at the workers' heartbeats."""


# What a row is about. Plain numbers, because they are compared by the array.
NEW = 0  # it has not been reset yet
IDLE = 1  # it has reported, and waits for an action
PLAYING = 2  # its worker plays its chunk
STARTING = 3  # its worker makes and resets its world
DUE = 4  # its world is started at a time in `_due`
READY = 5  # it has something to report


class PoolWorlds:
    """N worlds in W worker processes; answers are the same whatever W is.

    Example:
        >>> from functools import partial
        >>> worlds = PoolWorlds(partial(gymnasium.make, "CartPole-v1"), 4, id="CartPole-v1", workers=2)
        >>> step = worlds.reset(seed=0)
        >>> worlds.send(step.rows, torch.zeros(4, 1, dtype=torch.int64))
        >>> worlds.recv().reward
        tensor([1., 1., 1., 1.])
        >>> worlds.close()
    """

    def __init__(
        self,
        factory: Factory,
        count: int,
        *,
        id: str,
        workers: int | None = None,
        chunk: int = 1,
        batch: int | None = None,
        timeout: float = 60.0,
        start_timeout: float = 300.0,
        max_failures: int = 5,
        backoff: float = 0.5,
        success: str | None = None,
    ) -> None:
        """Start the workers, and wait until the first one has made a world.

        Args:
            factory: Makes one world. Each worker process imports it by name: a function of a module, or
                `functools.partial` of one.
            count: How many rows.
            id: The name that `spec` bears.
            workers: How many processes, by default one a processor core.
            chunk: How many actions one `send` carries a row.
            batch: `recv` returns as soon as this many rows are ready. By default all that were sent, which
                makes runs repeatable.
            timeout: Seconds that one step may take, or the reset after an episode's end.
            start_timeout: Seconds that making a world may take, or its first reset.
            max_failures: A row that fails to start this many times in a row stops the pool.
            backoff: Seconds before the second attempt to start a world; doubled before each further one.
            success: The world's verdict in words. By default found by one random action in a world that is
                thrown away.

        Raises:
            TypeError: Where the factory cannot travel to another process.
            ValueError: For a size that makes no sense.
            RuntimeError: Where the first world cannot be made, with the worker's traceback.
        """
        workers = min(count, workers or len(os.sched_getaffinity(0)))
        for name, size in {"count": count, "workers": workers, "chunk": chunk, "batch": batch or count}.items():
            if size < 1 or (name == "batch" and size > count):
                raise ValueError(f"{name} is {size}, expected 1 or more, and a batch of at most count={count}.")
        self.count = count
        self._batch = batch
        self._timeouts = {Command.PLAY: timeout}
        self._start_timeout = start_timeout
        self._max_failures = max_failures
        self._backoff = backoff
        self._seed, self._group = 0, 1
        self._warned = False
        self._phase = np.full(count, NEW)
        self._alive = np.zeros(count, bool)
        self._episode = np.zeros(count, np.int64)
        self._failures = np.zeros(count, np.int64)
        self._due: dict[int, float] = {}
        self._faults: dict[int, Fault] = {}
        self._pending: dict[int, deque[Fault]] = {}
        self._next_look = 0.0
        self._owner = np.arange(count) * workers // count
        self._workers = [
            WorkerProcess(index, np.flatnonzero(self._owner == index), factory) for index in range(workers)
        ]
        self._resources = ExitStack()
        self._release = weakref.finalize(self, self._resources.close)
        self._selector = self._resources.enter_context(selectors.DefaultSelector())
        self._resources.callback(stop, self._workers)
        for worker in self._workers:
            self._start(worker)
            worker.send(Command.PROBE if worker.index == 0 and success is None else Command.DESCRIBE)
        self._describe(id, chunk, success)

    def reset(self, seed: int, group: int = 1) -> Step:
        """Start episode 0 of every row afresh, rows of a group alike. What is still being played is forgotten.

        Raises:
            ValueError: Where `count` is no multiple of `group`.
            RuntimeError: Where a world fails to start too often, with the first failure's traceback.
        """
        self._check_open()
        if group < 1 or self.count % group:
            raise ValueError(f"group is {group}, expected a divisor of count={self.count}.")
        while np.isin(self._phase, (PLAYING, STARTING)).any():
            self._pump()
        self._seed, self._group = seed, group
        self._episode[:] = 0
        self._failures[:] = 0
        self._pending.clear()
        self._faults.clear()
        for row in range(self.count):
            self._exchange.void(row)
            self._schedule(row)
        while (self._phase != READY).any():
            self._pump()
        return self._collect()

    def send(self, rows: Tensor, action: Tensor | Sequence[str]) -> None:
        """Give some rows their next chunks of actions.

        Raises:
            ValueError: For rows that are unknown, double or not waiting, and for actions that the space does
                not know (see `spaces.checked_actions`).
        """
        self._check_open()
        listed: list[int] = rows.tolist()
        if len(set(listed)) != len(listed) or (listed and not 0 <= min(listed) <= max(listed) < self.count):
            raise ValueError(f"rows are {listed}, expected different ones from 0 to {self.count - 1}.")
        index = np.array(listed, np.int64)
        waiting = self._phase[index] == IDLE
        if not waiting.all():
            row = listed[int(np.argmin(waiting))]
            raise ValueError(f"row {row} takes no action now: reset comes first, and recv after each send.")
        self._exchange.put_actions(index, checked_actions(self.spec.action, listed, action, self.spec.chunk))
        if self._pending:
            index = self._report_pending(index)
        self._phase[index] = PLAYING
        for worker in self._workers:
            mine = worker.rows if len(index) == self.count else index[self._owner[index] == worker.index]
            # Where nobody waits for all rows, each answers for itself.
            for part in (mine,) if self._batch is None else mine[:, None]:
                if part.size:
                    worker.send(Command.PLAY, part)

    def recv(self) -> Step:
        """Wait for `batch` rows, or for all to which actions were sent, and return what they report.

        Raises:
            RuntimeError: Where no actions were sent, or a world fails to start too often.
        """
        self._check_open()
        sent = int(np.count_nonzero(self._phase > IDLE))
        if not sent:
            raise RuntimeError("recv waits for rows to which actions were sent: call send first.")
        wanted = sent if self._batch is None else min(sent, self._batch)
        while np.count_nonzero(self._phase == READY) < wanted:
            self._pump()
        return self._collect()

    def close(self) -> None:
        """End the workers and free their memory. Safe to call twice."""
        self._release()

    def _check_open(self) -> None:
        if not self._release.alive:
            raise RuntimeError(f"the worlds {self.spec.id} are closed.")

    def _describe(self, id: str, chunk: int, success: str | None) -> None:
        """Learn from the first worker what worlds show, and share the memory that this needs."""
        try:
            answer = self._workers[0].describe(self._start_timeout)
        except RuntimeError as error:
            self.close()
            raise RuntimeError(f"{id} cannot start: {error}") from None
        layout, action = Layout.from_json(answer["layout"]), action_from_json(answer["action"])
        if isinstance(action, spaces.Text) and chunk > 1:
            self.close()
            raise ValueError(f"chunk is {chunk}, but {id} takes texts, one a step: expected 1.")
        self.spec = WorldSpec(
            id=id,
            action=action,
            state=layout.state,
            images=layout.images,
            text=layout.text is not None,
            chunk=chunk,
            max_steps=answer["max_steps"],
            success=answer["success"] if success is None else success,
        )
        self._shared = {key: answer[key] for key in ("layout", "action")} | {"count": self.count, "chunk": chunk}
        self._exchange = Exchange(layout, action, self.count, chunk)
        self._resources.callback(self._exchange.close)
        for worker in self._workers:
            worker.share(self._exchange, self._shared)

    def _collect(self) -> Step:
        """Take what the ready rows have to report."""
        rows = np.flatnonzero(self._phase == READY)
        self._phase[rows] = IDLE
        exchange = self._exchange
        flags = exchange.flags[rows]
        terminated, truncated, success, success_once = torch.from_numpy(flags).unbind(1)
        ended = rows[flags[:, 0] | flags[:, 1]]
        faults: tuple[Fault | None, ...] = ()
        if self._faults:
            faults = tuple(self._faults.pop(row, None) for row in rows.tolist())
        return Step(
            rows=torch.from_numpy(rows),
            observation=exchange.view.read(rows),
            rewards=torch.from_numpy(exchange.rewards[rows]),
            played=torch.from_numpy(exchange.played[rows]),
            terminated=terminated,
            truncated=truncated,
            success=success,
            success_once=success_once,
            final=exchange.final.read(ended) if ended.size else None,
            faults=faults if any(faults) else (),
        )

    def _pump(self) -> None:
        """Wait for something to happen, at most until the next look at the heartbeats, and handle it."""
        wait = _LOOK
        if self._due:
            self._start_due()
            wait = max(0.0, min([_LOOK, *(due - time.monotonic() for due in self._due.values())]))
        for key, _ in self._selector.select(wait):
            self._hear(key.data)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            self._end_hung()

    def _start_due(self) -> None:
        """Start the worlds whose time has come, and first the workers that they need."""
        now = time.monotonic()
        for worker in self._workers:
            rows = np.array([row for row in worker.rows if self._due.get(row, now + 1) <= now], np.int64)
            if not rows.size:
                continue
            if not worker.running:
                self._start(worker)
                worker.share(self._exchange, self._shared)
            self._phase[rows] = STARTING
            for row in rows.tolist():
                del self._due[row]
                self._aim(row, self._episode[row])
            worker.send(Command.START, rows)

    def _start(self, worker: WorkerProcess) -> None:
        worker.start()
        self._selector.register(worker.pipe, selectors.EVENT_READ, worker)

    def _hear(self, worker: WorkerProcess) -> None:
        """Handle one answer of a worker, or its death."""
        try:
            (command, rows), answer = worker.receive()
        except (EOFError, OSError):
            self._lose(worker)
            return
        faults = [(Fault(*record[:4]), record[4]) for record in answer.get("faults", ())]
        if command not in (Command.PLAY, Command.START):
            for fault, _ in faults:  # a world could not be made ahead of time: `START` will try again
                self._tell(fault)
            return
        for fault, begun in faults:
            if begun:
                self._exchange.void(fault.row)
        fresh = rows
        if command == Command.PLAY:
            fresh = rows[self._exchange.flags[rows, :2].any(1)]
            self._episode[fresh] += 1
        for row in fresh.tolist():
            self._aim(row, self._episode[row] + 1)
        self._phase[rows] = READY
        self._alive[rows] = True
        for fault, begun in faults:
            (self._break if begun else self._fail_start)(fault)
        self._failures[rows[self._alive[rows]]] = 0

    def _end_hung(self) -> None:
        """End the workers that have hung for too long."""
        for worker in self._workers:
            if not worker.running or not worker.sent:
                continue
            command = worker.sent[0][0]
            limit = self._timeouts.get(command, self._start_timeout)
            first = worker.rows[0]
            if worker.idle_for(int(self._exchange.beat[first])) > limit:
                row = int(self._exchange.current[first])
                self._lose(worker, Fault(row, "timeout", f"{command.name.lower()}: no answer for {limit:g} s."))

    def _lose(self, worker: WorkerProcess, hung: Fault | None = None) -> None:
        """Void the episodes of a worker that has died, or of one that is to die because a row hung."""
        self._selector.unregister(worker.pipe)
        how = worker.kill()
        if hung is not None:
            how = f"worker {worker.index} was killed because row {hung.row} hung"
        for row in worker.rows.tolist():
            fault = hung if hung is not None and hung.row == row else Fault(row, "worker", f"{how}.")
            if self._phase[row] == PLAYING:
                self._break(fault)
            elif self._phase[row] == STARTING:
                self._fail_start(fault)
            elif self._alive[row]:
                self._postpone(fault)

    def _break(self, fault: Fault) -> None:
        """Void the episode that a row was playing, and start the next one."""
        self._tell(fault)
        self._exchange.void(fault.row)
        self._faults[fault.row] = fault
        self._episode[fault.row] += 1
        self._alive[fault.row] = False
        self._schedule(fault.row)

    def _fail_start(self, fault: Fault) -> None:
        """Void an episode that could not start, and try the next one after a while."""
        row = fault.row
        self._postpone(fault)
        self._failures[row] += 1
        failures = int(self._failures[row])
        if failures >= self._max_failures:
            first = self._pending[row][-failures]
            self.close()
            raise RuntimeError(
                f"row {row} of {self.spec.id} failed to start {failures} times in a row. The first time: "
                f"{first.message}\n{first.traceback}"
            )
        # Rows that broke together come back one after the other.
        self._schedule(row, self._backoff * 2 ** (failures - 1) * (1 + row / self.count))

    def _postpone(self, fault: Fault) -> None:
        """Void an episode of which nothing is expected now: its fault is reported at the row's next turn."""
        self._tell(fault)
        self._pending.setdefault(fault.row, deque()).append(fault)
        self._episode[fault.row] += 1
        self._alive[fault.row] = False

    def _report_pending(self, index: np.ndarray) -> np.ndarray:
        """Spend the turn of rows that have a postponed fault on reporting it; return the other rows."""
        for row in [row for row in index.tolist() if row in self._pending]:
            self._exchange.void(row)
            self._faults[row] = self._pending[row].popleft()
            if not self._pending[row]:
                del self._pending[row]
            if self._alive[row]:
                self._phase[row] = READY
            else:
                self._schedule(row)
            index = index[index != row]
        return index

    def _schedule(self, row: int, delay: float = 0.0) -> None:
        self._phase[row] = DUE
        self._due[row] = time.monotonic() + delay

    def _aim(self, row: int, episode: int) -> None:
        """Say from which episode's seed the row resets next."""
        index = row // self._group + int(episode) * (self.count // self._group)
        self._exchange.seed[row] = episode_seed(self._seed, index)

    def _tell(self, fault: Fault) -> None:
        """Bring the first fault to the user; the others are in `Step.faults`."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.spec.id}: row {fault.row} broke: {fault.message} Its episode is void. Further faults "
                f"are reported in Step.faults only.\n{fault.traceback}",
                RuntimeWarning,
                stacklevel=2,
            )

