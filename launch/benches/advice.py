"""What advice costs vectorised worlds: their step rate with and without a model that answers from another core."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from palaestra.launch.benches.vlm import questions

if TYPE_CHECKING:
    from palaestra.agents.vlm.client import Client


@dataclass(frozen=True)
class Load:
    """How often the worlds ask."""

    rate: float
    """Asks a second at most."""
    burst: int
    """Asks at a time: rows of one step."""
    outstanding: int = 32
    """Asks under way at most; where the model cannot keep up, this bounds the rate."""


LOADS = {"50/s, eight at a time": Load(50, 8), "50/s, one at a time": Load(50, 1), "all it answers": Load(1e9, 8)}
"""What is tried. A teacher of a billion parameters on one GPU gives some 50 labels a second (its images are prepared by
one processor core), so a learner asks no more: see `QueryConfig.most_a_second`."""


@dataclass(frozen=True)
class Turn:
    """What one turn came to."""

    wall: float
    """Steps of all worlds a second."""
    processor: float
    """Steps of all worlds a second of the process's processor time, which other processes cannot take away."""
    answers: float = 0.0
    """Answers a second."""


def advice_part(worlds: int = 1024, rounds: int = 5, seconds: float = 2.0) -> dict[str, Any]:
    """Measure how fast vectorised worlds step, alone and with advice from a model in another process.

    The worlds have one core and the model another; the loop never waits. Cores share caches and memory, so the worlds
    are also stepped beside the same model at work on asks of its own: what is lost beyond that is what asking costs.

    Args:
        worlds: How many `toy/reach-v0` worlds step at once.
        rounds: How often each way has its turn; ratios are taken round by round.
        seconds: How long a turn is.

    Returns:
        Medians over rounds: steps a second alone and beside the working model; for each load answers a second and
        what is kept of the step rate, by the wall clock and by the processor's, of the other two; and the processor
        milliseconds that an answer takes away from the worlds.
    """
    here, there = two_cores()
    ways: dict[str, list[Turn]] = {name: [] for name in ("alone", "beside", *LOADS)}
    with served_advisor(there) as (url, _), on_core(here), _connected(url) as client:
        _step(client, worlds, 0.5, Load(100, 8))
        for _ in range(rounds):
            ways["alone"].append(_step(None, worlds, seconds))
            with neighbour(there):
                ways["beside"].append(_step(None, worlds, seconds))
            for name, load in LOADS.items():
                ways[name].append(_step(client, worlds, seconds, load))
    return {
        "worlds": worlds,
        "steps a second": {name: round(median(turn.wall for turn in ways[name])) for name in ("alone", "beside")},
        "loads": {name: _compared(ways[name], ways["alone"], ways["beside"]) for name in LOADS},
    }


def _compared(turns: Sequence[Turn], alone: Sequence[Turn], beside: Sequence[Turn]) -> dict[str, Any]:
    """Return what is kept, round by round in the median, and what an answer costs."""

    def kept(others: Sequence[Turn], clock: str) -> float:
        pairs = zip(turns, others, strict=True)
        return float(round(median(getattr(turn, clock) / getattr(other, clock) for turn, other in pairs), 3))

    lost = (1 - turn.processor / other.processor for turn, other in zip(turns, beside, strict=True))
    costs = [1e3 * share / turn.answers for share, turn in zip(lost, turns, strict=True)]
    return {
        "answers a second": round(median(turn.answers for turn in turns), 1),
        "kept": {"of alone": kept(alone, "wall"), "of beside": kept(beside, "wall")},
        "kept by processor time": {"of alone": kept(alone, "processor"), "of beside": kept(beside, "processor")},
        "milliseconds an answer": round(median(costs), 2),
    }


def _step(client: Client | None, count: int, seconds: float, load: Load | None = None) -> Turn:
    """Step random worlds for some seconds, and ask about rows of theirs meanwhile if there is a client."""
    import torch

    from palaestra.agents.vlm.core import Reply
    from palaestra.envs.toy import ReachEnv

    env = ReachEnv(count)
    env.reset(seed=0)
    action = torch.rand(count, 2) * 2 - 1
    asks, asked, done, answered, steps = questions(64, 8, 0), 0, 0, 0, 0
    began, spent = time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - began) < seconds:
        env.step(action)
        steps += count
        if client is None or load is None:
            continue
        finished = client.poll()
        done += len(finished)
        answered += sum(isinstance(reply, Reply) for _, reply in finished)
        if asked + load.burst <= min(elapsed * load.rate, done + load.outstanding):
            for _ in range(load.burst):
                client.ask_nowait("advisor", asks[asked % len(asks)], key=asked)
                asked += 1
    turn = Turn(steps / elapsed, steps / (time.process_time() - spent), answered / elapsed)
    while client is not None and done < asked:
        done += len(client.poll())
        time.sleep(0.01)
    return turn


@contextmanager
def served_advisor(core: int) -> Iterator[tuple[str, int]]:
    """Serve the tiny model as "advisor" in another process on its own core; give its address and the process's id."""
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    with tempfile.TemporaryDirectory() as folder:
        model = f"advisor=transformers:{build_tiny_vlm(Path(folder) / 'tiny')}"
        words = [sys.executable, "-m", "palaestra.launch.cli", "serve", "--port", "0", "--model", model]
        with on_core(core):
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[-1].strip()
            if not url:
                raise RuntimeError(f"the server did not start: exit code {process.wait()}.")
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def _connected(url: str) -> Iterator[Client]:
    from palaestra.agents.vlm.client import connect

    with connect(url) as client:
        yield client


@contextmanager
def neighbour(core: int) -> Iterator[int]:
    """Let the tiny model work in another process, on asks of its own; give the process's id."""
    with on_core(core):
        process = subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _work() -> None:
    """Answer full batches for ever."""
    import torch

    from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        engine, asks = TransformersEngine(build_tiny_vlm(Path(folder) / "tiny")), questions(8, 8, 0)
    engine.answer(asks)
    print("working", flush=True)
    while True:
        engine.answer(asks)


def two_cores() -> tuple[int, int]:
    """Return two of the cores that this process may use, the same one twice where there is no other."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this thread, and the threads and processes that it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    _work()
