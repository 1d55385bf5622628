"""Speed of the driving worlds on one core, beside highway-env's, with random actions and resets included."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gymnasium
    from torch import Tensor

    from palaestra.envs.driving.world import DrivingEnv
    from palaestra.launch.benches.measure import Play

FREQUENCY = 10
"""Hz of our worlds' steps."""
DRAWN = 16
"""How many steps' random actions are drawn in advance; they are played over and over."""


def driving(
    vehicles: int = 15,
    counts: Sequence[int] = (1, 16, 64, 256, 1024, 4096, 16384),
    compiled: Sequence[int] = (1024,),
    views: int = 1024,
    pixels: int = 64,
    rounds: int = 5,
    seconds: float = 1.0,
    seed: int = 0,
    output: Path | None = Path("results/bench-driving.json"),
) -> dict[str, Any]:
    """Measure how fast a multi-lane highway is driven: `driving/highway-v0` beside highway-env's `highway-v0`.

    highway-env simulates 15 moments a step of one second by default; at 10 Hz it simulates one, of a tenth of a second,
    as ours does. Both are measured, and steps are counted, not seconds of driving. highway-env is never given more than
    one world, since several of its worlds on one core are no faster than one.

    Args:
        vehicles: How many others there are, in both.
        counts: How many of our worlds are stepped at once, for the curve; the greatest of at most 1,024 is compared.
        compiled: The same with a compiled step (`compiled=True`), which takes a minute or two each to get ready.
        views: How many worlds show bird's-eye views.
        pixels: The views' side.
        rounds: How often each contender has its turn.
        seconds: About how long a turn is.
        seed: Of the actions and the episodes.
        output: Where the result is written, None for nowhere.

    Returns:
        Steps a second (`rates`, the median over rounds), ratios of paired turns, and `paint`: how many views are
        painted a second, and packed and unpacked. All on one thread. `load` is how many processes were running before;
        where it is not near 0, ratios are fair and rates are low.

    Raises:
        ImportError: highway-env is not installed.
    """
    import torch

    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    load, threads = os.getloadavg()[0], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = _measure(vehicles, counts, compiled, views, pixels, rounds, seconds, seed)
    finally:
        torch.set_num_threads(threads)
    options = {"vehicles": vehicles, "pixels": pixels, "rounds": rounds, "seconds": seconds, "seed": seed}
    result = {"bench": "driving", **options, "load": load, **found, **provenance()}
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


def _measure(
    vehicles: int,
    counts: Sequence[int],
    compiled: Sequence[int],
    views: int,
    pixels: int,
    rounds: int,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Return the rates and ratios of all contenders, and how fast views are painted."""
    from palaestra.launch.benches.measure import measure

    with ExitStack() as stack:
        plays = _theirs(vehicles, seed, stack)
        plays |= {states(count): play_of(world(count, vehicles), seed) for count in counts}
        for count in compiled:
            plays[f"{states(count)}, compiled"] = play_of(world(count, vehicles, compiled=True), seed)
        painting = world(views, vehicles, view="bev", pixels=pixels)
        shown = f"ours, {views} worlds, {pixels} pixels"
        plays[shown] = play_of(painting, seed)
        found = measure(plays, _pairs(counts, compiled, shown), rounds, seconds)
        return {**found, "paint": paint_rates(painting, rounds, seconds)}


def _theirs(vehicles: int, seed: int, stack: ExitStack) -> dict[str, Play]:
    """Return highway-env's contenders, which the stack will close."""
    plays: dict[str, Play] = {}
    for kind, frequency in (("", 1), (", 10 Hz", FREQUENCY)):
        for observation in ("Kinematics", "OccupancyGrid"):
            env = highway(observation, vehicles, frequency)
            stack.callback(env.close)
            plays[f"highway-env, {observation}{kind}"] = _single(env, seed)
    return plays


def states(count: int) -> str:
    """Return what so many of our worlds are called that show their states."""
    return f"ours, {count} worlds"


def _pairs(counts: Sequence[int], compiled: Sequence[int], shown: str) -> list[tuple[str, str]]:
    """Return which ratios are of interest."""
    most = max((count for count in counts if count <= 1024), default=min(counts))
    pairs = []
    for kind in ("", ", 10 Hz"):
        pairs += [(states(count), f"highway-env, Kinematics{kind}") for count in sorted({min(counts), most})]
        pairs += [(f"{states(count)}, compiled", f"highway-env, Kinematics{kind}") for count in compiled]
        pairs.append((shown, f"highway-env, OccupancyGrid{kind}"))
    return pairs


def highway(observation: str, vehicles: int, frequency: int) -> gymnasium.Env[Any, Any]:
    """Return highway-env's highway with continuous actions.

    Args:
        observation: "Kinematics" or "OccupancyGrid".
        vehicles: How many others.
        frequency: Hz of its steps: 1 with its 15 simulated moments each, or another with one each.
    """
    try:
        import highway_env  # noqa: F401  (registers the worlds)
    except ImportError as error:
        raise ImportError("bench driving needs highway-env: pip install 'palaestra[driving]'.") from error
    import gymnasium

    config: dict[str, Any] = {
        "vehicles_count": vehicles,
        "observation": {"type": observation},
        "action": {"type": "ContinuousAction"},
    }
    if frequency != 1:
        config |= {"simulation_frequency": frequency, "policy_frequency": frequency}
    return gymnasium.make("highway-v0", config=config, disable_env_checker=True)


def world(count: int, vehicles: int, **options: Any) -> DrivingEnv:
    """Return so many of our highways."""
    from palaestra.envs.driving.world import WORLDS

    return WORLDS["driving/highway-v0"](count=count, map_count=2, vehicles=vehicles, **options)


def _single(env: gymnasium.Env[Any, Any], seed: int) -> Play:
    """Return the play of one of highway-env's worlds."""
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(256)]
    env.reset(seed=seed)

    def play(steps: int) -> int:
        for step in range(steps):
            _, _, terminated, truncated, _ = env.step(actions[step % len(actions)])
            if terminated or truncated:
                env.reset()
        return steps

    return play


def play_of(env: DrivingEnv, seed: int) -> Play:
    """Return the play of our worlds; those that end start again at once."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    actions = (torch.rand(DRAWN, env.num_envs, 2, generator=generator) * 2 - 1).to(env.device)
    env.reset(seed=seed)

    def play(steps: int) -> int:
        turns = -(-steps // env.num_envs)
        for turn in range(turns):
            _, _, terminated, truncated, _ = env.step(actions[turn % DRAWN])
            ended = terminated | truncated
            if bool(ended.any()):
                env.reset(options={"reset_mask": ended})
        return turns * env.num_envs

    return play


def paint_rates(env: DrivingEnv, rounds: int, seconds: float) -> Mapping[str, float]:
    """Return how many views a second are painted from scenes, packed and unpacked: the medians over rounds."""
    from palaestra.envs.driving.bev import Scene, pack, unpack

    assert env.painter is not None
    scene, views = Scene.of(env.state), env.painter.blank(env.num_envs)
    env.painter.paint(scene, views)
    packed = pack(views)
    works = {
        "painted": partial(env.painter.paint, scene, views),
        "packed": partial(pack, views),
        "unpacked": partial(unpack, packed),
    }
    return {name: rate(work, env.num_envs, rounds, seconds, str(env.device)) for name, work in works.items()}


def rate(work: partial[Tensor], count: int, rounds: int, seconds: float, device: str = "cpu") -> float:
    """Return how many of `count` a piece of work are done a second, the median over rounds of a quarter the length."""
    from statistics import median

    rates = []
    for _ in range(rounds):
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 4:
            work()
            done += count
            finish(device)
        rates.append(done / (time.perf_counter() - began))
    return round(median(rates), 1)


def finish(device: str) -> None:
    """Wait for what a GPU was given to do."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)
