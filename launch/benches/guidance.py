"""What a served teacher costs Found-RL's training: its step rate with the teacher at work, frozen and killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from palaestra.launch.benches.advice import neighbour, on_core, served_advisor, two_cores

if TYPE_CHECKING:
    from palaestra.agents.found_rl.advice import Advisor

SETTLE = 1.0
"""Seconds after a freeze in which what was asked meanwhile is answered, unmeasured."""


def guidance(
    worlds: int = 64,
    rate: float = 50.0,
    rounds: int = 4,
    seconds: float = 2.0,
    output: Path | None = Path("results/bench-guidance.json"),
) -> dict[str, Any]:
    """Measure how fast `found-rl-driving` (VMR and AWAG) plays and learns, and how much of that a teacher leaves.

    The teacher is the tiny vision-language model, untrained, in a process of its own on another core; it is shown
    pictures and answers up to 32 tokens. Its labels are unreadable, but the learner does all the work of guidance in
    every way alike, so that what differs is asking. Cores share caches and memory: the loop is also run beside the same
    model at work on nobody's asks.

    Args:
        worlds: How many.
        rate: Asks a second at most. A teacher of a billion parameters on one GPU gives some 50 labels a second.
        rounds: How often each way has its turn; what is kept is taken round by round.
        seconds: How long a turn is.
        output: Where the result is written, None for nowhere.

    Returns:
        Steps of all worlds a second alone and asks a second, in the median; what is kept by the wall clock and by
        processor time, of alone and of beside, with the teacher `at work`, `frozen` (SIGSTOP) and `killed` (SIGKILL);
        and what became of the asks. `load` is how many processes were running before.
    """
    import torch

    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    load, threads = os.getloadavg()[0], torch.get_num_threads()
    torch.set_num_threads(1)
    here, there = two_cores()
    try:
        with served_advisor(there) as (url, pid), on_core(here), _loop(url, worlds, rate) as loop:
            found = loop.rounds(pid, there, rounds, seconds)
    finally:
        torch.set_num_threads(threads)
    options = {"worlds": worlds, "rate": rate, "rounds": rounds, "seconds": seconds}
    result = {"bench": "guidance", **options, "load": load, **found, **provenance()}
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


class _Loop:
    """Plays and learns, with or without asking."""

    def __init__(self, step: Any, learner: Any, advisor: Advisor, steps: int) -> None:
        """Take what does one decision of all worlds, who decides, who may be asked, and the decision's steps."""
        self._step, self.learner, self.advisor, self.steps = step, learner, advisor, steps
        while not learner.fitted:
            step()

    def rounds(self, pid: int, core: int, rounds: int, seconds: float) -> dict[str, Any]:
        """Give each way its turns and return what they came to; the process is stopped, and at last killed."""
        turns: dict[str, list[tuple[float, float]]] = {}
        asks: dict[str, list[float]] = {}

        def turn(name: str, asking: bool) -> None:
            before = self.advisor.counts.asked
            turns.setdefault(name, []).append(self.play(seconds, asking))
            asks.setdefault(name, []).append((self.advisor.counts.asked - before) / seconds)

        self.play(seconds, asking=True)
        with neighbour(core) as other:
            for _ in range(rounds):
                with stopped(other):
                    turn("alone", asking=False)
                    turn("at work", asking=True)
                    with stopped(pid):
                        turn("frozen", asking=True)
                    self.settle()
                turn("beside", asking=False)
        os.kill(pid, signal.SIGKILL)
        for _ in range(rounds):
            turn("alone, then", asking=False)
            turn("killed", asking=True)
        pairs = {"at work": ("alone", "beside"), "frozen": ("alone",), "killed": ("alone, then",)}
        return {
            "steps a second": {name: round(median(rate for rate, _ in turns[name])) for name in ("alone", "beside")},
            "asks a second": {name: round(median(asks[name]), 1) for name in pairs},
            "kept": {
                name: {f"of {other}": _kept(turns[name], turns[other]) for other in others}
                for name, others in pairs.items()
            },
            "asks": self.advisor.metrics(),
        }

    def play(self, seconds: float, asking: bool) -> tuple[float, float]:
        """Return steps of all worlds a second, by the wall clock and by this process's processor time."""
        self.learner.advisor = self.advisor if asking else None
        began, spent, decisions = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds:
            self._step()
            decisions += 1
        wall, processor = time.perf_counter() - began, time.process_time() - spent
        return decisions * self.steps / wall, decisions * self.steps / processor

    def settle(self) -> None:
        """Let what is outstanding be answered."""
        until = time.perf_counter() + SETTLE
        while time.perf_counter() < until:
            self.advisor.collect(self.learner.decided)
            time.sleep(0.02)
        self.advisor.drop()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _kept(turns: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the medians of paired ratios."""
    pairs = list(zip(turns, others, strict=True))
    return {
        clock: round(median(turn[place] / other[place] for turn, other in pairs), 3)
        for place, clock in enumerate(("wall", "processor"))
    }


@contextmanager
def _loop(url: str, worlds: int, rate: float) -> Iterator[_Loop]:
    """Build the recipe's loop, with a teacher at an address."""
    from palaestra.agents.found_rl.advice import Advisor
    from palaestra.agents.found_rl.config import FoundRLConfig, GuardConfig, QueryConfig
    from palaestra.agents.found_rl.learner import FoundRL
    from palaestra.agents.found_rl.queries import Query
    from palaestra.agents.rollout import Collector
    from palaestra.agents.vlm.client import connect
    from palaestra.envs.driving.world import DrivingEnv
    from palaestra.envs.lockstep import LockstepWorlds
    from palaestra.envs.registry import make
    from palaestra.launch.config import TeacherConfig
    from palaestra.launch.found_rl import danger_of, make_teacher
    from palaestra.launch.recipes import FOUND_RL_DRIVING
    from palaestra.rewards.core import WeightedSum, WorldReward

    query = QueryConfig(most_a_second=rate, outstanding=64)
    # Unguarded, so that the losses of guidance are computed whether or not there are labels.
    config = FoundRLConfig(guidance="vmr+awag", guard=GuardConfig(on=False), query=query, warmup=4 * worlds)
    chunk = FOUND_RL_DRIVING.world.chunk
    played = make(FOUND_RL_DRIVING.world.id, count=worlds, chunk=chunk)
    assert isinstance(played, LockstepWorlds) and isinstance(played.venv, DrivingEnv)
    learner = FoundRL(played.spec, worlds, config, 1_000_000, "cpu")
    collector = Collector(played, WeightedSum({"world": (1.0, WorldReward())}))
    collector.reset(0)
    learner.restart()

    def step() -> None:
        learner.learn(collector.collect(learner, 1))

    with connect(url) as client:
        teacher = make_teacher(TeacherConfig(kind="model", model="advisor", delay=None), played.venv, client)
        advisor = Advisor(client, teacher, learner.replay, Query(query, worlds, danger_of(played.venv)))
        yield _Loop(step, learner, advisor, chunk * worlds)
    played.close()
