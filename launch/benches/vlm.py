"""A model behind the batcher: what batching gains, what the batcher costs it, and what advice costs a world."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palaestra.agents.vlm.client import Client
    from palaestra.agents.vlm.core import Generate
    from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine


def vlm_part(batch: int = 32, asks: int = 128, rounds: int = 3, max_tokens: int = 12) -> dict[str, Any]:
    """Measure the tiny image-text-to-text model, untrained, on a CPU thread: pictures in, greedy words out.

    Args:
        batch: The largest batch.
        asks: How many asks a round has; one by one a quarter of them.
        rounds: How often each way has its turn; the medians count.
        max_tokens: Length of an answer.

    Returns:
        Answers a second one by one, by hand (the engine called on full batches in a loop) and through the batcher, and
        the batcher's rate over the other two.
    """
    import torch

    from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        engine = TransformersEngine(build_tiny_vlm(Path(folder) / "tiny"))
        rates: dict[str, list[float]] = {"one by one": [], "by hand": [], "batcher": []}
        _by_hand(engine, _asks(batch, max_tokens, 99), batch)
        for number in range(rounds):
            drawn = _asks(asks, max_tokens, number)
            rates["one by one"].append(_one_by_one(engine, drawn[: asks // 4]))
            rates["by hand"].append(_by_hand(engine, drawn, batch))
            rates["batcher"].append(_batched(engine, drawn, batch))
    rate = {name: median(found) for name, found in rates.items()}
    return {
        "batch": batch,
        "rates": rates,
        "over one by one": rate["batcher"] / rate["one by one"],
        "over by hand": rate["batcher"] / rate["by hand"],
    }


def _asks(count: int, max_tokens: int, seed: int) -> list[Generate]:
    import torch

    from palaestra.agents.vlm.core import Generate, Message, Picture

    draw = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=draw)
    question = "What is in the way, and what should be done about it?"
    return [Generate((Message("user", (Picture(each), question)),), max_tokens=max_tokens) for each in pictures]


def _one_by_one(engine: TransformersEngine, asks: list[Generate]) -> float:
    from palaestra.agents.vlm.batcher import Batcher

    with Batcher(engine, max_batch=1) as batcher:
        began = time.perf_counter()
        for ask in asks:
            batcher.ask(ask)
        return len(asks) / (time.perf_counter() - began)


def _by_hand(engine: TransformersEngine, asks: list[Generate], batch: int) -> float:
    began = time.perf_counter()
    for first in range(0, len(asks), batch):
        engine.answer(asks[first : first + batch])
    return len(asks) / (time.perf_counter() - began)


def _batched(engine: TransformersEngine, asks: list[Generate], batch: int) -> float:
    from palaestra.agents.vlm.batcher import Batcher

    with Batcher(engine, max_batch=batch, max_wait=0.05) as batcher:
        began = time.perf_counter()
        for future in [batcher.ask_nowait(ask) for ask in asks]:
            future.result()
        return len(asks) / (time.perf_counter() - began)


def advice_part(worlds: int = 1024, rounds: int = 5, seconds: float = 2.0, outstanding: int = 8) -> dict[str, Any]:
    """Measure how fast vectorised worlds step, alone and with advice from a model in another process.

    The worlds have one core and the model another. A picture is asked about whenever fewer than `outstanding` asks
    are under way, so the model is kept busy; the loop never waits. Cores share memory and more, so the worlds are also
    stepped beside the same model at work on nobody's asks: what is lost beyond that is what asking costs.

    Args:
        worlds: How many `toy/reach-v0` worlds step at once.
        rounds: How often each way has its turn; the ratio is taken round by round.
        seconds: How long a turn is.
        outstanding: How many asks may be under way.

    Returns:
        Steps of all worlds a second alone, beside the working model, and with advice; answers a second; and what is
        kept with advice of the other two (medians over rounds).
    """
    rates: dict[str, list[float]] = {"alone": [], "beside": [], "with": [], "answers": []}
    with _advisor() as client, _on_core(0):
        _step(client, worlds, 0.5, outstanding)
        for _ in range(rounds):
            rates["alone"].append(_step(None, worlds, seconds, 0)[0])
            with _neighbour():
                rates["beside"].append(_step(None, worlds, seconds, 0)[0])
            rate, answers = _step(client, worlds, seconds, outstanding)
            rates["with"].append(rate)
            rates["answers"].append(answers)
    kept = {
        name: median(one / other for one, other in zip(rates["with"], rates[name], strict=True))
        for name in ("alone", "beside")
    }
    return {"worlds": worlds, "rates": rates, "kept": kept}


def _step(client: Client | None, count: int, seconds: float, outstanding: int) -> tuple[float, float]:
    """Step random worlds for some seconds; return steps and answers a second."""
    import torch

    from palaestra.agents.vlm.core import Reply
    from palaestra.envs.toy import ReachEnv

    torch.set_num_threads(1)
    env = ReachEnv(count)
    env.reset(seed=0)
    action = torch.rand(count, 2) * 2 - 1
    asks, asked, done, answered, steps = _asks(64, 8, 0), 0, 0, 0, 0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        env.step(action)
        steps += count
        if client is not None:
            finished = client.poll()
            done += len(finished)
            answered += sum(isinstance(reply, Reply) for _, reply in finished)
            if asked - done < outstanding:
                client.ask_nowait("advisor", asks[asked % len(asks)], key=asked)
                asked += 1
    elapsed = now - began
    while client is not None and done < asked:
        done += len(client.poll())
        time.sleep(0.01)
    return steps / elapsed, answered / elapsed


@contextmanager
def _advisor() -> Iterator[Client]:
    """Serve the tiny model in another process on another core, and give a client of it."""
    from palaestra.agents.vlm.client import connect
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    with tempfile.TemporaryDirectory() as folder:
        model = f"advisor=transformers:{build_tiny_vlm(Path(folder) / 'tiny')}"
        words = [sys.executable, "-m", "palaestra.launch.cli", "serve", "--port", "0", "--model", model]
        with _on_core(1):
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[-1].strip()
            if not url:
                raise RuntimeError(f"the server did not start: exit code {process.wait()}.")
            with connect(url) as client:
                yield client
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def _neighbour() -> Iterator[None]:
    """Let the tiny model work in another process on the other core, on asks of its own."""
    with _on_core(1):
        process = subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
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
        engine, asks = TransformersEngine(build_tiny_vlm(Path(folder) / "tiny")), _asks(8, 8, 0)
    engine.answer(asks)
    print("working", flush=True)
    while True:
        engine.answer(asks)


@contextmanager
def _on_core(number: int) -> Iterator[None]:
    """Keep this process, and those that it starts, on one core of those it may use."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    _work()
