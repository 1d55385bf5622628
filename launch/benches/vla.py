"""`palaestra bench vla`: what a reused prefix saves, and how fast tables with pictures are stepped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.launch.benches.measure import Play, measure

if TYPE_CHECKING:
    from torch import Tensor

    from palaestra.agents.flow.samplers import Chain


def vla(
    batch: int = 32,
    steps: int = 4,
    image_size: int = 64,
    count: int = 256,
    pixels: int = 64,
    rounds: int = 5,
    seconds: float = 2.0,
    output: Path | None = Path("results/bench-vla.json"),
) -> dict[str, Any]:
    """Measure a tiny vision-language-action policy and its worlds, on one thread.

    Args:
        batch: Observations a decision.
        steps: K, the denoising steps of a decision.
        image_size: Side to which the backbone resizes pictures.
        count: Tables stepped at once.
        pixels: Side of the tables' pictures.
        rounds: How often each contender has its turn.
        seconds: About how long a turn is.
        output: Where the result is written, None for nowhere.

    Returns:
        Decisions a second with the prefix's keys and values computed once a decision and at every step, and their
        ratios; steps a second of tables with both cameras' pictures, starts included, by the clock and a second of
        processor time. `load` is how many processes were running before.
    """
    import torch

    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    result = {
        "bench": "vla", "batch": batch, "steps": steps, "image_size": image_size, "count": count, "pixels": pixels,
        "rounds": rounds, "seconds": seconds, "load": load,
        "prefix": _prefix(batch, steps, image_size, rounds, seconds),
        "tables": _tables(count, pixels, rounds, seconds),
        **provenance(),
    }  # fmt: skip
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


def _prefix(batch: int, steps: int, image_size: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure decisions with the prefix reused and recomputed."""
    import torch

    from palaestra.agents.flow.samplers import Field, sample
    from palaestra.agents.vla.policy import backbone_checkpoint, vla_policy
    from palaestra.envs.registry import make

    worlds = make("tabletop/pick-place-v0", batch, chunk=4)
    view = worlds.reset(seed=0).observation
    policy = vla_policy(worlds.spec, backbone_checkpoint("", image_size), horizon=8, steps=steps)
    worlds.close()
    network, device = policy.network, torch.device("cpu")

    def reused() -> Chain:
        prefix = network.observe(view)
        return sample(lambda x, t: network.field(prefix, x, t), policy.noise(batch, device), steps)

    def recomputed() -> Chain:
        def field(x: Tensor, t: Tensor) -> Field:
            return network.field(network.observe(view), x, t)

        return sample(field, policy.noise(batch, device), steps)

    def play(decisions: int) -> int:
        turns = -(-decisions // batch)
        for _ in range(turns):
            reused()
        return turns * batch

    def play_slowly(decisions: int) -> int:
        turns = -(-decisions // batch)
        for _ in range(turns):
            recomputed()
        return turns * batch

    with torch.no_grad():
        plays: dict[str, Play] = {"reused": play, "recomputed": play_slowly}
        return measure(plays, [("reused", "recomputed")], rounds, seconds)


def _tables(count: int, pixels: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure tables stepped by random actions, as `Worlds`, so that ended episodes start anew."""
    import time

    import torch

    from palaestra.envs.registry import make

    worlds = make("tabletop/pick-place-v0", count, pixels=pixels)
    rows = worlds.reset(seed=0).rows
    actions = torch.rand(64, count, 1, 4) * 2 - 1
    spent: list[tuple[int, float]] = []

    def play(steps: int) -> int:
        turns, began = -(-steps // count), time.process_time()
        for turn in range(turns):
            worlds.send(rows, actions[turn % 64])
            worlds.recv()
        spent.append((turns * count, time.process_time() - began))
        return turns * count

    found = measure({"tables": play}, [], rounds, seconds)
    worlds.close()
    done, processor = (sum(part) for part in zip(*spent[2:], strict=True))
    return found | {"a_second_of_processor": round(done / processor, 1)}
