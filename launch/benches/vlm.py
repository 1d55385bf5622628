"""A model behind the batcher: what batching gains, and what the batcher costs it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        _by_hand(engine, questions(batch, max_tokens, 99), batch)
        for number in range(rounds):
            drawn = questions(asks, max_tokens, number)
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


def questions(count: int, max_tokens: int, seed: int, side: int = 64) -> list[Generate]:
    """Return questions about pictures of noise, `side` pixels wide and high."""
    import torch

    from palaestra.agents.vlm.core import Generate, Message, Picture

    draw = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=draw)
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
