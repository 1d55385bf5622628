"""The batcher alone: a saturated engine of fixed latency, and the cost of an ask."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import count
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.core import Generate

Crowd = Callable[["Batcher", int, float], list[float]]
"""So many callers, each asking one thing after another for so many seconds; returns when each reply came."""


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
        `throughput`: replies a second of a saturated engine over `max_batch / delay`, from threads, from tasks and of
        the bare engine in a loop (whose sleeps last longer than asked for). `overhead`: seconds from ask to reply less
        the engine's own, one at a time, of one caller and of several at once. `cost`: processor seconds an ask.
    """
    ideal = max_batch / delay
    crowds = {"threads": _threads, "tasks": _tasks}
    rates: dict[str, list[float]] = {name: [] for name in ("bare", *crowds)}
    costs: dict[str, list[float]] = {name: [] for name in crowds}
    for _ in range(rounds):
        rates["bare"].append(_bare(delay, max_batch, seconds))
        for name, crowd in crowds.items():
            rate, cost = _saturated(crowd, delay, max_batch, callers, seconds)
            rates[name].append(rate)
            costs[name].append(cost)
    overheads = {
        "one thread": [_overheads(1, asks) for _ in range(rounds)],
        "8 threads": [_overheads(8, asks) for _ in range(rounds)],
        "one task": [_overheads_async(asks) for _ in range(rounds)],
    }
    return {
        "ideal": ideal,
        "throughput": {name: _spread([rate / ideal for rate in found]) for name, found in rates.items()},
        "overhead": {name: _percentiles(found) for name, found in overheads.items()},
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


def _saturated(crowd: Crowd, delay: float, max_batch: int, callers: int, seconds: float) -> tuple[float, float]:
    """Return replies a second, and processor seconds a reply, of an engine that always has a full batch waiting.

    Both are taken over the middle of the round, between the first and the last tenth, from batch to batch.
    """
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.engines.echo import EchoEngine

    with Batcher(EchoEngine(delay), max_batch=max_batch) as batcher:
        before = time.process_time()
        times = sorted(crowd(batcher, callers, seconds))
        cost = (time.process_time() - before) / len(times)
    edge = len(times) // 10
    middle = times[edge:-edge]
    return (len(middle) - 1) / (middle[-1] - middle[0]), cost


def _threads(batcher: Batcher, callers: int, seconds: float) -> list[float]:
    end, times, numbers = time.perf_counter() + seconds, list[float](), count()

    def ask() -> None:
        while time.perf_counter() < end:
            batcher.ask(_ask(next(numbers)))
            times.append(time.perf_counter())

    crowd = [threading.Thread(target=ask) for _ in range(callers)]
    for member in crowd:
        member.start()
    for member in crowd:
        member.join()
    return times


def _tasks(batcher: Batcher, callers: int, seconds: float) -> list[float]:
    end, times, numbers = time.perf_counter() + seconds, list[float](), count()

    async def ask() -> None:
        while time.perf_counter() < end:
            await batcher.ask_async(_ask(next(numbers)))
            times.append(time.perf_counter())

    async def crowd() -> None:
        await asyncio.gather(*(ask() for _ in range(callers)))

    asyncio.run(crowd())
    return times


def _overheads(callers: int, asks: int) -> list[float]:
    """Return seconds from ask to reply less those of the engine, of threads that each ask one thing after another."""
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.engines.echo import EchoEngine

    times: list[float] = []

    def ask(first: int) -> None:
        for number in range(first, asks, callers):
            began = time.perf_counter()
            reply = batcher.ask(_ask(number))
            times.append(time.perf_counter() - began - reply.model_seconds)

    with Batcher(EchoEngine()) as batcher:
        crowd = [threading.Thread(target=ask, args=(first,)) for first in range(callers)]
        for member in crowd:
            member.start()
        for member in crowd:
            member.join()
    return times


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
