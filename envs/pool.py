"""Many slow single worlds in worker processes, as `Worlds`.

Whole chunks are played inside the workers, so a worker gets one message a chunk: a few bytes that say which
rows. Actions, observations, rewards and flags stay in shared memory (`exchange.py`).

What happens to rows whose worlds break stands in `rows.py`.
"""

from __future__ import annotations

import os
import selectors
import time
import warnings
import weakref
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from palaestra.envs.core import Fault, Step, WorldSpec
from palaestra.envs.exchange import Exchange
from palaestra.envs.process import WorkerProcess, stop
from palaestra.envs.rows import IDLE, PLAYING, READY, STARTING, Rows
from palaestra.envs.spaces import Layout, action_from_json, checked_actions
from palaestra.envs.worker import Command, Factory

_LOOK = 0.25
"""Seconds between two looks at the workers' heartbeats."""


class PoolWorlds:
    """N worlds in W worker processes; answers are the same whatever W is.

    Example:
        >>> from functools import partial
        >>> import gymnasium
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
            factory: Makes one world. Workers import it by name: a module's function, or `functools.partial` of one.
            count: How many rows.
            id: The name that `spec` bears.
            workers: How many processes, by default one a core.
            chunk: How many actions one `send` carries a row.
            batch: `recv` returns as soon as this many rows are ready. By default all that were sent, which
                makes runs repeatable.
            timeout: Seconds that one step may take, or the reset after an episode's end.
            start_timeout: Seconds that making a world may take, or its first reset.
            max_failures: A row that fails to start this many times in a row stops the pool.
            backoff: Seconds before the second attempt to start a world; doubled before each further one.
            success: The verdict in words. By default found by one random action in a world that is thrown away.

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
        self._warned = False
        self._next_look = 0.0
        self._owner = np.arange(count) * workers // count
        held = [np.flatnonzero(self._owner == index) for index in range(workers)]
        self._workers = [WorkerProcess(index, rows, factory) for index, rows in enumerate(held)]
        self._resources = ExitStack()
        self._release = weakref.finalize(self, self._resources.close)
        self._selector = self._resources.enter_context(selectors.DefaultSelector())
        self._resources.callback(stop, self._workers)
        for worker in self._workers:
            self._start(worker)
            worker.send(Command.PROBE if worker.index == 0 and success is None else Command.DESCRIBE)
        self._describe(id, chunk, success)
        self._rows = Rows(self._exchange, count, backoff)

    def reset(self, seed: int, group: int = 1) -> Step:
        """Start episode 0 of every row afresh, rows of a group alike. What is still being played is forgotten.

        Raises:
            ValueError: Where `count` is no multiple of `group`.
            RuntimeError: Where a world fails to start too often, with the first failure's traceback.
        """
        self._check_open()
        if group < 1 or self.count % group:
            raise ValueError(f"group is {group}, expected a divisor of count={self.count}.")
        while np.isin(self._rows.phase, (PLAYING, STARTING)).any():
            self._pump()
        self._rows.restart(seed, group)
        while (self._rows.phase != READY).any():
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
        waiting = self._rows.phase[index] == IDLE
        if not waiting.all():
            row = listed[int(np.argmin(waiting))]
            raise ValueError(f"row {row} takes no action now: reset comes first, and recv after each send.")
        self._exchange.put_actions(index, checked_actions(self.spec.action, listed, action, self.spec.chunk))
        index = self._rows.report_lost(index)
        self._rows.phase[index] = PLAYING
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
        sent = int(np.count_nonzero(self._rows.phase > IDLE))
        if not sent:
            raise RuntimeError("recv waits for rows to which actions were sent: call send first.")
        wanted = sent if self._batch is None else min(sent, self._batch)
        while np.count_nonzero(self._rows.phase == READY) < wanted:
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
        rows, faults = self._rows.collect()
        exchange = self._exchange
        flags = exchange.flags[rows]
        terminated, truncated, success, success_once = torch.from_numpy(flags).unbind(1)
        ended = rows[flags[:, 0] | flags[:, 1]]
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
            faults=faults,
        )

    def _pump(self) -> None:
        """Wait for something to happen, at most until the next look at the heartbeats, and handle it."""
        wait = _LOOK
        if self._rows.due:
            self._start_due()
            wait = max(0.0, min([_LOOK, *(due - time.monotonic() for due in self._rows.due.values())]))
        for key, _ in self._selector.select(wait):
            self._hear(key.data)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            self._end_hung()

    def _start_due(self) -> None:
        """Start the worlds whose time has come, and first the workers that they need."""
        for worker in self._workers:
            rows = self._rows.start_due(worker.rows)
            if not rows.size:
                continue
            if not worker.running:
                self._start(worker)
                worker.share(self._exchange, self._shared)
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
        for fault, _ in faults:
            self._tell(fault)
        if command not in (Command.PLAY, Command.START):
            return  # where a world could not be made ahead of time, `START` will try again
        for fault, begun in faults:
            if begun:
                self._exchange.void(fault.row)
        if command == Command.PLAY:
            self._rows.play(rows)
        else:
            self._rows.start(np.setdiff1d(rows, [fault.row for fault, _ in faults]))
        for fault, begun in faults:
            (self._rows.void if begun else self._fail_start)(fault)

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
            if self._rows.phase[row] == PLAYING:
                self._tell(fault)
                self._rows.void(fault)
            elif self._rows.phase[row] == STARTING:
                self._tell(fault)
                self._fail_start(fault)
            elif self._rows.alive[row]:
                self._tell(fault)
                self._rows.lose(fault)

    def _fail_start(self, fault: Fault) -> None:
        failures, first = self._rows.fail_start(fault)
        if failures >= self._max_failures:
            self.close()
            raise RuntimeError(
                f"row {fault.row} of {self.spec.id} failed to start {failures} times in a row. The first time: "
                f"{first.message}\n{first.traceback}"
            )

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
