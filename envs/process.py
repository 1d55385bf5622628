"""A worker process, as its pool sees it: started, told, heard, watched, killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from palaestra.envs.exchange import Exchange
from palaestra.envs.worker import DONE, Command, Factory, serve

# Workers are forked from a server that has imported what every worker needs: 0.05 s each instead of seconds.
_CONTEXT = multiprocessing.get_context("forkserver")

Message = tuple[Command, np.ndarray]
"""What was asked, and of which rows."""

_NONE = np.zeros(0, np.int64)


class WorkerProcess:
    """One worker, and the messages that it has not answered yet."""

    def __init__(self, index: int, rows: np.ndarray, factory: Factory) -> None:
        """Describe a worker that will hold some rows.

        Raises:
            TypeError: Where the factory cannot travel to another process.
        """
        try:
            reduction.ForkingPickler.dumps(factory)
        except Exception as error:
            raise TypeError(
                f"the factory {factory!r} cannot travel to a worker process ({error}). Pass a function or "
                "class that can be imported by its name, or a functools.partial of one: no lambda, no inner "
                "function."
            ) from error
        self.index = index
        self.rows = rows
        self.factory = factory
        self.sent: deque[Message] = deque()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._beat = 0
        self._since = 0.0

    @property
    def running(self) -> bool:
        """Whether the process was started and not stopped by us. It may have died by itself."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The process's number, None where it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def pipe(self) -> Connection:
        """Our end of the pipe."""
        assert self._pipe is not None
        return self._pipe

    def start(self) -> None:
        """Start the process."""
        _CONTEXT.set_forkserver_preload(["palaestra.envs.worker"])
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=serve,
            args=(theirs, self.factory, self.rows.tolist()),
            name=f"worlds-{self.index}",
            daemon=True,
        )
        self._process.start()
        theirs.close()

    def describe(self, timeout: float) -> dict[str, Any]:
        """Wait for the worker's first answer: what its worlds show and take.

        Raises:
            RuntimeError: Where it made none within `timeout` seconds, with its traceback.
        """
        if not self.pipe.poll(timeout):
            raise RuntimeError(f"no world was made within {timeout:g} s.")
        try:
            answer = self.receive()[1]
        except (EOFError, OSError):
            raise RuntimeError(
                f"{self.kill()} while it made a world. What it printed may say why; a script that makes worlds needs "
                "its `if __name__ == '__main__':`."
            ) from None
        for fault in answer.get("faults", ()):
            raise RuntimeError("\n".join(fault[2:4]))
        return answer

    def share(self, exchange: Exchange, description: dict[str, Any]) -> None:
        """Have the worker map the exchange that `description` describes."""
        assert exchange.owned is not None
        self.send(Command.MAP, body=json.dumps(description).encode())
        with suppress(OSError):  # as in `send`
            reduction.send_handle(self.pipe, exchange.owned.fileno(), self.pid)

    def send(self, command: Command, rows: np.ndarray = _NONE, body: bytes = b"") -> None:
        """Tell the worker what to do, and with which rows ([N] int64), and expect one answer."""
        if not self.sent:
            self._since = time.monotonic()
        self.sent.append((command, rows))
        with suppress(OSError):  # a worker that has died is noticed by its end of the pipe, in `receive`
            self.pipe.send_bytes(bytes((command,)) + rows.tobytes() + body)

    def receive(self) -> tuple[Message, dict[str, Any]]:
        """Return the oldest message and its answer, empty where all went well.

        Raises:
            EOFError, OSError: Where the worker died.
        """
        reply = self.pipe.recv_bytes()
        self._since = time.monotonic()
        return self.sent.popleft(), {} if reply == DONE else json.loads(reply)

    def idle_for(self, beat: int) -> float:
        """Return for how many seconds the worker has given no sign of life; `beat` is its heartbeat."""
        now = time.monotonic()
        if beat != self._beat or not self.sent:
            self._beat, self._since = beat, now
        return now - self._since

    def kill(self) -> str:
        """End the process, and all that it has started, and say how it ended."""
        process = self._process
        assert process is not None and process.pid is not None
        self.pipe.close()
        process.join(0.1)  # how it ended by itself, if it did
        with suppress(ProcessLookupError):  # it leads no group yet, or has died and left nobody
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        code = process.exitcode or 0
        number = process.pid
        process.close()
        self._process = None
        self.sent.clear()
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        return f"worker {self.index} (process {number}) {how}"


def stop(workers: Sequence[WorkerProcess], grace: float = 5.0) -> None:
    """End workers, at first by closing their pipes so that they close their worlds."""
    running = [worker for worker in workers if worker.running]
    for worker in running:
        worker.pipe.close()
    deadline = time.monotonic() + grace
    for worker in running:
        assert worker._process is not None
        worker._process.join(max(0.0, deadline - time.monotonic()))
        worker.kill()
