"""The batcher alone: a saturated engine of fixed latency, and the cost of an ask."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.core import Answer, Ask, Generate

Crowd = Callable[["Batcher", int, float], int]
"""So many callers, each asking one thing after another for so many seconds; returns how many replies there were."""


def batcher_part(
    delay: float = 0.02,
    max_batch: int = 32,
    callers: int = 128,
    rounds: int = 5,
    seconds: float = 2.0,
    asks: int = 3000,
) -> dict[str, Any]:
    """Measure the batcher in-process.

    Args:
        delay: Seconds that the fake engine takes for a batch of any size.
        max_batch: How large a batch may be.
        callers: How many threads, or tasks, ask at once to saturate it.
        rounds: How often each measurement is repeated; the median counts.
        seconds: How long a saturated round is.
        asks: How many asks, one at a time, a round of overheads has.

    Returns:
        `throughput`: replies a second of a saturated engine over `max_batch / delay`, asked by threads, by tasks, and
        of the bare engine in a loop (whose sleeps last longer than asked for). `over bare`: the same over the bare
        engine's of the same round. `overhead`: seconds from ask to reply less the engine's own, of a single caller;
        `crowded`: seconds an ask where eight threads ask an engine that takes no time, and `saturated`: the engine's
        idle seconds an ask where a full batch always waits. `cost`: processor seconds an ask, the caller's included.
    """
    ideal = max_batch / delay
    crowds = {"threads": _threads, "tasks": _tasks}
    shares: dict[str, list[float]] = {name: [] for name in ("bare", *crowds)}
    idle: dict[str, list[float]] = {name: [] for name in crowds}
    costs: dict[str, list[float]] = {name: [] for name in crowds}
    for _ in range(rounds):
        shares["bare"].append(_bare(delay, max_batch, seconds) / ideal)
        for name, crowd in crowds.items():
            rate, between, cost = _saturated(crowd, delay, max_batch, callers, seconds)
            shares[name].append(rate / ideal)
            idle[name].append(between / max_batch)
            costs[name].append(cost)
    overheads = {
        "thread": [_overheads(asks) for _ in range(rounds)],
        "task": [_overheads_async(asks) for _ in range(rounds)],
    }
    return {
        "ideal": ideal,
        "throughput": {name: _spread(found) for name, found in shares.items()},
        "over bare": {
            name: _spread([own / bare for own, bare in zip(shares[name], shares["bare"], strict=True)])
            for name in crowds
        },
        "overhead": {name: _percentiles(found) for name, found in overheads.items()},
        "crowded": _spread([_crowded(8, asks) for _ in range(rounds)]),
        "saturated": {name: _spread(found) for name, found in idle.items()},
        "cost": {name: _spread(found) for name, found in costs.items()},
    }


def _spread(values: list[float]) -> dict[str, float]:
    """Return the median, least and greatest, to 4 digits."""
    found = {"median": median(values), "least": min(values), "greatest": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _percentiles(rounds: list[list[float]]) -> dict[str, float]:
    """Return the median over rounds of each round's percentiles, in seconds to 3 digits."""
    tables = [quantiles(times, n=100) for times in rounds]
    return {f"p{p}": float(f"{median(table[p - 1] for table in tables):.3g}") for p in (50, 90, 99)}


def _bare(delay: float, max_batch: int, seconds: float) -> float:
    """Return the answers a second of the engine in a plain loop."""
    from palaestra.agents.vlm.engines.echo import EchoEngine

    engine, asks = EchoEngine(delay), [_ask(i) for i in range(max_batch)]
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        engine.answer(asks)
        batches += 1
    return batches * max_batch / (time.perf_counter() - began)


def _saturated(
    crowd: Crowd, delay: float, max_batch: int, callers: int, seconds: float
) -> tuple[float, float, float]:
    """Return replies a second, median seconds between batches, and processor seconds a reply, of a saturated engine.

    The first two are taken from the engine's own log, without the first and the last tenth of the round.
    """
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.engines.echo import EchoEngine

    calls: list[tuple[float, float, int]] = []

    class Logging(EchoEngine):
        def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
            began = time.perf_counter()
            answers = super().answer(asks)
            calls.append((began, time.perf_counter(), len(asks)))
            return answers

    with Batcher(Logging(delay), max_batch=max_batch) as batcher:
        before = time.process_time()
        replies = crowd(batcher, callers, seconds)
        cost = (time.process_time() - before) / replies
    middle = calls[len(calls) // 10 : -(len(calls) // 10)]
    answered = sum(size for _, _, size in middle[:-1])
    between = median(later[0] - earlier[1] for earlier, later in pairwise(middle))
    return answered / (middle[-1][0] - middle[0][0]), between, cost


def _threads(batcher: Batcher, callers: int, seconds: float) -> int:
    end, numbers = time.perf_counter() + seconds, count()

    def ask() -> None:
        while time.perf_counter() < end:
            batcher.ask(_ask(next(numbers)))

    crowd = [threading.Thread(target=ask) for _ in range(callers)]
    for member in crowd:
        member.start()
    for member in crowd:
        member.join()
    return next(numbers)


def _tasks(batcher: Batcher, callers: int, seconds: float) -> int:
    end, numbers = time.perf_counter() + seconds, count()

    async def ask() -> None:
        while time.perf_counter() < end:
            await batcher.ask_async(_ask(next(numbers)))

    async def crowd() -> None:
        await asyncio.gather(*(ask() for _ in range(callers)))

    asyncio.run(crowd())
    return next(numbers)


def _overheads(asks: int) -> list[float]:
    """Return seconds from ask to reply less those of the engine, of one thread that asks one thing after another."""
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.engines.echo import EchoEngine

    times: list[float] = []
    with Batcher(EchoEngine()) as batcher:
        for number in range(asks):
            began = time.perf_counter()
            reply = batcher.ask(_ask(number))
            times.append(time.perf_counter() - began - reply.model_seconds)
    return times


def _crowded(callers: int, asks: int) -> float:
    """Return seconds an ask of threads that fight for the interpreter: the engine takes no time."""
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.engines.echo import EchoEngine

    def ask(first: int) -> None:
        for number in range(first, asks, callers):
            batcher.ask(_ask(number))

    with Batcher(EchoEngine()) as batcher:
        crowd = [threading.Thread(target=ask, args=(first,)) for first in range(callers)]
        began = time.perf_counter()
        for member in crowd:
            member.start()
        for member in crowd:
            member.join()
        return (time.perf_counter() - began) / asks


def _overheads_async(asks: int) -> list[float]:
    """Return seconds from ask to reply less those of the engine, of one task that asks one thing after another."""
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.engines.echo import EchoEngine

    times: list[float] = []

    async def ask() -> None:
        for number in range(asks):
            began = time.perf_counter()
            reply = await batcher.ask_async(_ask(number))
            times.append(time.perf_counter() - began - reply.model_seconds)

    with Batcher(EchoEngine()) as batcher:
        asyncio.run(ask())
    return times


def _ask(number: int) -> Generate:
    from palaestra.agents.vlm.core import Generate, Message

    return Generate((Message("user", (f"What is {number} good for?",)),))
