"""Where a run's numbers go: `metrics.jsonl` and TensorBoard always, W&B or trackio when asked for, and the screen.

A line of `metrics.jsonl` is one JSON object: "iteration", "env_steps", "wall_s" (seconds of training, over all
sessions of the run) and "<namespace>/<name>" numbers, in the namespaces train/ (the learner), rollout/ (exploring),
eval/ (deployed) and time/ (seconds of this iteration). JSON has no NaN: a number that is not finite is written as
null and named under "nonfinite", and `read_metrics` gives it back.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.launch.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console

COUNTERS = ("iteration", "env_steps", "wall_s")
SERVICES = ("wandb", "trackio")
HEADLINE = ("eval/success_once", "rollout/success_once", "eval/exact_match")
"""The numbers beside the progress bar."""
PLAIN_LINES = 20
"""How many lines a whole run prints where there is no terminal to draw a bar on."""

Row = dict[str, float]


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a `metrics.jsonl`, without a last line that a killed process left unfinished.

    Raises:
        ValueError: Where another line is broken, so that the file was altered.
    """
    rows: list[Row] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was never finished
        try:
            row = json.loads(line)
            row |= {name: float(text) for name, text in row.pop("nonfinite", {}).items()}
            rows.append({"iteration": row["iteration"], "env_steps": row["env_steps"]} | row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}, line {number} is no row of metrics ({error!r}): {line[:80]!r}. Only the last line can be "
                "cut off by a crash, so the file was altered; restore it, or delete that line."
            ) from None
    return rows


class Tracker:
    """Takes a run's metrics, one row an iteration, and shows how far it is.

    Use it as a context manager: leaving it closes every writer, also after an error.
    """

    def __init__(
        self,
        run: Path,
        iterations: int,
        *,
        resume_at: int | None = None,
        services: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        console: Console | None = None,
    ) -> None:
        """Open the writers.

        Args:
            run: The run's folder.
            iterations: How many the whole run has.
            resume_at: The iteration of the checkpoint that is resumed: later rows are cut, so that the resumed run
                writes what an unbroken one would. None starts a new run.
            services: Of `SERVICES`, those to write to as well.
            config: What the services show beside the run.
            console: Where to print; standard error by default.

        Raises:
            ValueError: An unknown service.
            ModuleNotFoundError: A service that is not installed.
            FileExistsError: A new run in a folder that already has metrics.
        """
        self._sinks: list[_Sink] = [_open_service(name, run, config or {}) for name in services]
        self._path = run / "metrics.jsonl"
        kept = self._keep(resume_at)
        self._start = time.monotonic() - (kept[-1]["wall_s"] if kept else 0.0)
        self._sinks.append(_TensorBoard(run / "tensorboard", kept, self.wall_s))
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._flagged: set[str] = set()
        steps = int(kept[-1]["env_steps"]) if kept else 0
        self._display = _Display(run.name, iterations, resume_at or 0, steps, console)

    @property
    def wall_s(self) -> float:
        """Seconds of training so far, over all sessions of this run."""
        return time.monotonic() - self._start

    @property
    def console(self) -> Console:
        """Where to print while the progress bar is up."""
        return self._display.console

    def log(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Write one row everywhere and move the progress bar.

        The row is on disk when this returns. A number that is not finite is kept, and flagged on screen once a name.

        Args:
            iteration: Iterations finished, 0 before the first.
            env_steps: Single environment steps taken in training so far.
            metrics: "<namespace>/<name>" to a number.

        Raises:
            ValueError: A name without its namespace.
            OSError: The disk is full; the file is left without the row.
        """
        values = {name: float(value) for name, value in metrics.items()}
        wrong = [name for name in values if not all(name.partition("/"))]
        if wrong:
            raise ValueError(f"metric {wrong[0]!r} needs a namespace: train/, rollout/, eval/ or time/, then its name.")
        row: Row = {"iteration": iteration, "env_steps": env_steps, "wall_s": round(self.wall_s, 3), **values}
        self._append(row)
        for sink in self._sinks:
            sink.write(row)
        for name in [name for name, value in values.items() if not math.isfinite(value)]:
            if name not in self._flagged:
                self._flagged.add(name)
                self.console.print(f"warning: {name} is {values[name]} at iteration {iteration}", style="yellow")
        self._display.update(row)

    def close(self) -> None:
        """Close every writer. Safe to call twice."""
        self._display.close()
        while self._sinks:
            self._sinks.pop().close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _keep(self, resume_at: int | None) -> list[Row]:
        if not self._path.exists():
            return []
        if resume_at is None:
            raise FileExistsError(
                f"{self._path} already exists: a new run needs a new folder. Resume that run, or choose another one."
            )
        kept = [row for row in read_metrics(self._path) if row["iteration"] <= resume_at]
        write_atomically(self._path, b"".join(map(_line, kept)))
        return kept

    def _append(self, row: Row) -> None:
        line, size = _line(row), os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(f"only a part of a row fitted on the disk of {self._path}: free some space and resume.")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise


def _line(row: Row) -> bytes:
    broken = {name: str(value) for name, value in row.items() if not math.isfinite(value)}
    finite: dict[str, Any] = {name: None if name in broken else value for name, value in row.items()}
    return json.dumps(finite | ({"nonfinite": broken} if broken else {}), allow_nan=False).encode() + b"\n"


class _Sink:
    """Somewhere else that rows go: a function that takes one and a function that ends it."""

    def __init__(self, write: Callable[[Row], None], close: Callable[[], None]) -> None:
        self.write = write
        self.close = close


class _TensorBoard(_Sink):
    """TensorBoard's event files, one event a row, with no need of torch or TensorFlow."""

    def __init__(self, folder: Path, kept: Sequence[Row], wall_s: float) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()  # it may hold rows that were cut: those that were kept are written again
        writer = EventFileWriter(str(folder))
        began = time.time() - wall_s

        def write(row: Row) -> None:
            values = [
                summary_pb2.Summary.Value(tag=name, simple_value=value)
                for name, value in row.items()
                if name not in COUNTERS
            ]
            summary = summary_pb2.Summary(value=values)
            writer.add_event(
                event_pb2.Event(wall_time=began + row["wall_s"], step=int(row["iteration"]), summary=summary)
            )
            writer.flush()

        super().__init__(write, writer.close)
        for row in kept:
            write(row)


def _open_service(name: str, run: Path, config: Mapping[str, Any]) -> _Sink:
    """Return W&B or trackio, whose calls are alike, without asking for an account."""
    if name not in SERVICES:
        raise ValueError(f"unknown tracking service {name!r}: choose from {', '.join(SERVICES)}.")
    try:
        service = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"tracking service {name!r} is not installed ({error}): run pip install 'palaestra[tracking]', or leave it "
            "out; metrics.jsonl and TensorBoard are always written."
        ) from None
    options: dict[str, Any] = {"project": "palaestra", "name": run.name, "config": dict(config)}
    if name == "wandb":  # offline unless the user says otherwise: W&B would ask for an account
        options |= {"dir": str(run), "mode": os.environ.get("WANDB_MODE", "offline")}
    handle = service.init(**options)

    def write(row: Row) -> None:
        handle.log({key: value for key, value in row.items() if key != "iteration"}, step=int(row["iteration"]))

    return _Sink(write, handle.finish)


class _Display:
    """A bar with rate and time left on a terminal, a plain line now and then elsewhere."""

    def __init__(self, name: str, iterations: int, iteration: int, env_steps: int, console: Console | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console or Console(stderr=True)
        self._first = (time.monotonic(), iteration, env_steps)
        self._iterations = iterations
        self._due = iteration
        self._seen: Row = {}
        self._bar: Progress | None = None
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, refresh_per_second=2)
            self._task = self._bar.add_task(name, total=iterations, completed=iteration, said="")
            self._bar.start()

    def update(self, row: Row) -> None:
        """Show a row: on a terminal at once, elsewhere when a line is due."""
        self._seen |= {name: row[name] for name in HEADLINE if name in row}
        iteration = int(row["iteration"])
        began, first_iteration, first_steps = self._first
        seconds = max(time.monotonic() - began, 1e-9)
        said = [f"{(row['env_steps'] - first_steps) / seconds:,.0f} steps/s"]
        said += [f"{name.partition('/')[0]} {100 * value:.1f} %" for name, value in self._seen.items()]
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration, said="  ".join(said))
            return
        if iteration < self._due and iteration != self._iterations:
            return
        self._due = iteration + max(1, self._iterations // PLAIN_LINES)
        done = iteration - first_iteration
        if done:
            left = seconds / done * (self._iterations - iteration)
            said.append(f"{_clock(left)} left")
        self.console.print(f"iteration {iteration}/{self._iterations}  {'  '.join(said)}", highlight=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
