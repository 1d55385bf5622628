"""Batching on a GPU: a vision-language model of half a billion parameters in bfloat16, with random weights."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.launch.benches.vlm import questions

if TYPE_CHECKING:
    from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine

VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 16, "head_dim": 64,
}  # fmt: skip
"""Together half a billion parameters: SigLIP's base tower before a Llama."""


def gpu(
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    seconds: float = 4.0,
    image_size: int = 128,
    max_tokens: int = 16,
    device: str = "cuda",
    vision: Mapping[str, int] = VISION,
    text: Mapping[str, int] = TEXT,
    output: Path | None = Path("results/bench-gpu.json"),
) -> dict[str, Any]:
    """Measure how many pictures a second are answered about in batches of each size, and through the batcher.

    Args:
        batches: Sizes.
        seconds: About how long each is measured.
        image_size: Side of the pictures; they become (image_size / 8)² tokens each.
        max_tokens: Length of the answers, greedy.
        device: Where the model runs.
        vision: Sizes of the vision tower.
        text: Sizes of the language model.
        output: Where the result is written, None for nowhere.

    Raises:
        RuntimeError: There is no such device.
    """
    import torch

    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError("this bench measures a GPU, and torch sees none; `palaestra doctor` says what is missing.")
    with tempfile.TemporaryDirectory() as folder:
        engine = _engine(Path(folder) / "large", image_size, device, vision, text)
        rates = {str(batch): _rate(engine, batch, image_size, max_tokens, seconds) for batch in batches}
        batcher = _batched(engine, batches[-1], image_size, max_tokens)
    best = max(rates, key=lambda batch: rates[batch])
    result: dict[str, Any] = {
        "bench": "gpu",
        "parameters": engine.parameters,
        "picture tokens": (image_size // 8) ** 2,
        "answer tokens": max_tokens,
        "pictures a second": rates,
        "best batch": int(best),
        "gain": round(rates[best] / rates[str(batches[0])], 2),
        "batcher over by hand": round(batcher / rates[str(batches[-1])], 3),
    }
    if device.startswith("cuda"):
        result["memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    result |= provenance()
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


def _engine(
    path: Path, image_size: int, device: str, vision: Mapping[str, int], text: Mapping[str, int]
) -> TransformersEngine:
    """Write a checkpoint with random weights, the tiny one made large, and open it as any other."""
    import torch
    from transformers import AutoConfig, LlavaForConditionalGeneration

    from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    build_tiny_vlm(path, image_size=image_size)
    tiny = AutoConfig.from_pretrained(path)
    large = type(tiny).from_dict(
        tiny.to_dict()
        | {"vision_config": tiny.vision_config.to_dict() | dict(vision)}
        | {"text_config": tiny.text_config.to_dict() | dict(text) | {"initializer_range": 0.02}}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlavaForConditionalGeneration(large).bfloat16().save_pretrained(path)
    return TransformersEngine(path, device=device)


def _rate(engine: TransformersEngine, batch: int, image_size: int, max_tokens: int, seconds: float) -> float:
    """Return answers a second of the engine on full batches, after one that is not counted."""
    asks, answered = questions(batch, max_tokens, batch, image_size), 0
    engine.answer(asks)
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        engine.answer(asks)
        answered += batch
    return round(answered / elapsed, 1)


def _batched(engine: TransformersEngine, batch: int, image_size: int, max_tokens: int) -> float:
    """Return answers a second through the batcher, three full batches of single asks."""
    from palaestra.agents.vlm.batcher import Batcher

    asks = questions(3 * batch, max_tokens, 0, image_size)
    with Batcher(engine, max_batch=batch, max_wait=0.05, max_queue=len(asks)) as batcher:
        began = time.perf_counter()
        for future in [batcher.ask_nowait(ask) for ask in asks]:
            future.result()
        return len(asks) / (time.perf_counter() - began)
