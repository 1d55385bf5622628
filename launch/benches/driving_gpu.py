"""`palaestra bench driving-gpu`: the driving worlds on a GPU, beside what its memory's bandwidth allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.launch.benches.driving import finish, paint_rates, play_of, rate, states, world

if TYPE_CHECKING:
    from palaestra.envs.driving.world import DrivingEnv
    from palaestra.launch.benches.measure import Play


def driving_gpu(
    vehicles: int = 15,
    counts: Sequence[int] = (1024, 16384, 65536, 262144),
    compiled: Sequence[int] = (1024, 65536, 262144),
    views: int = 8192,
    pixels: int = 64,
    rounds: int = 5,
    seconds: float = 1.0,
    seed: int = 0,
    device: str = "cuda",
    output: Path | None = Path("results/bench-driving-gpu.json"),
) -> dict[str, Any]:
    """Measure how fast `driving/highway-v0` is driven with random actions on a GPU, resets included.

    Args:
        vehicles: How many others there are.
        counts: How many worlds are stepped at once.
        compiled: The same with a compiled step (`compiled=True`), which takes a minute each to get ready.
        views: How many worlds show bird's-eye views.
        pixels: The views' side.
        rounds: How often each contender has its turn.
        seconds: About how long a turn is.
        seed: Of the actions and the episodes.
        device: Where; a CPU only to try the bench out.
        output: Where the result is written, None for nowhere.

    Returns:
        Steps a second (`rates`, the median over rounds); `paint`: views a second, painted, packed and unpacked. And
        what `bandwidth` (bytes a second of a large copy, read and written) allows if each world's state is read and
        written once a step, and each view is written once: `floor`; with the share of it that is reached.

    Raises:
        RuntimeError: There is no such device.
    """
    import torch

    from palaestra.launch.benches.measure import measure
    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    if device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError("this bench measures a GPU, and torch sees none; `palaestra doctor` says what is missing.")
    plays: dict[str, Play] = {states(count): _play(world(count, vehicles, device=device), seed) for count in counts}
    for count in compiled:
        plays[f"{states(count)}, compiled"] = _play(world(count, vehicles, device=device, compiled=True), seed)
    painting = world(views, vehicles, view="bev", pixels=pixels, device=device)
    plays[f"ours, {views} worlds, {pixels} pixels"] = _play(painting, seed)
    rates = measure(plays, (), rounds, seconds)["rates"]
    paint = paint_rates(painting, rounds, seconds)
    best = {"steps": max(value for name, value in rates.items() if "pixels" not in name), "views": paint["painted"]}
    bounds = _bounds(painting, rounds, seconds, device)
    share = {name: round(best[name] / bounds["floor"][name], 4) for name in best}
    options = {"vehicles": vehicles, "pixels": pixels, "rounds": rounds, "seconds": seconds, "seed": seed}
    found = {"rates": rates, "paint": paint, **bounds, "share of the floor": share}
    result: dict[str, Any] = {"bench": "driving-gpu", **options, **found, **provenance()}
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


def _bounds(env: DrivingEnv, rounds: int, seconds: float, device: str) -> dict[str, Any]:
    """Return the memory's bandwidth, and what it allows: steps and views a second."""
    import torch

    copied = torch.zeros(2, 1 << (28 if device != "cpu" else 20), device=device)
    bandwidth = rate(partial(copied[0].copy_, copied[1]), 8 * copied.shape[1], rounds, seconds, device)
    assert env.painter is not None
    floor = {"steps": bandwidth / _step_bytes(env), "views": bandwidth / (15 * env.painter.pixels**2)}
    return {"bandwidth": bandwidth, "floor": {name: round(value, 1) for name, value in floor.items()}}


def _play(env: DrivingEnv, seed: int) -> Play:
    """Return the play of our worlds, which is over when the GPU has done it."""
    play = play_of(env, seed)

    def played(steps: int) -> int:
        done = play(steps)
        finish(str(env.device))
        return done

    return played


def _step_bytes(env: DrivingEnv) -> int:
    """Return the fewest bytes that a world's step moves: its state in and out, the moment it keeps, what it shows."""
    from palaestra.envs.driving.observe import WIDTH

    past = sum(tensor[0, 0].nbytes for name, tensor in env.state_dict().items() if name.startswith("past."))
    state = sum(
        tensor.nbytes for name, tensor in env.state_dict().items() if not name.startswith(("past.", "cursor"))
    )
    shown = 4 * WIDTH + 4 + 2
    return 2 * state // env.num_envs + past + shown
