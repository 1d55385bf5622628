"""How fast worlds are stepped: ManiSkill's through the pool, beside bare ones and Gymnasium's own vector worlds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.launch.benches.measure import Play, measure

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

Factory = Callable[[], "gymnasium.Env[Any, Any]"]

ACTIONS = 1024
"""How many random actions are drawn in advance; they are played over and over."""


def worlds(
    task: str = "PushCube-v1",
    count: int = 8,
    workers: int = 2,
    chunk: int = 5,
    rounds: int = 9,
    seconds: float = 1.0,
    seed: int = 0,
    output: Path | None = Path("results/bench-worlds.json"),
) -> dict[str, Any]:
    """Measure how fast worlds are stepped, with random actions, resets included.

    Args:
        task: A ManiSkill task, stepped by its state.
        count: How many ManiSkill worlds the pool and Gymnasium's `AsyncVectorEnv` hold.
        workers: How many processes the pool has. `AsyncVectorEnv` has one a world.
        chunk: How many actions a chunk has, for the pool with chunks.
        rounds: How often each contender has its turn.
        seconds: About how long a turn is.
        seed: Of the actions and the episodes.
        output: Where the result is written, None for nowhere.

    Returns:
        Steps a second (`rates`, the median over rounds) and ratios of paired turns (median, least, greatest).
        `load` is how many processes were running before: where it is not near 0, contenders with many processes
        got more of the machine or less, as its scheduler shares it, and the ratios say little.
    """
    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    result = {
        "bench": "worlds",
        "task": task,
        "count": count,
        "workers": workers,
        "chunk": chunk,
        "rounds": rounds,
        "seconds": seconds,
        "seed": seed,
        "load": os.getloadavg()[0],
        "maniskill": _maniskill(task, count, workers, chunk, seed, rounds, seconds),
        "cartpole": _cartpole(16, workers, chunk, seed, rounds, seconds),
        **provenance(),
    }
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


def _maniskill(
    task: str, count: int, workers: int, chunk: int, seed: int, rounds: int, seconds: float
) -> dict[str, Any]:
    from palaestra.envs.manipulation.maniskill import env_factory

    bare, wrapped = partial(bare_maniskill, task, False), partial(bare_maniskill, task, True)
    ours = partial(one_thread, env_factory(task))
    with ExitStack() as stack:
        plays = {
            "bare": _single(stack, bare, seed),
            "wrapped": _single(stack, wrapped, seed),
            "ours": _single(stack, ours, seed),
            "async wrapped": _vector(stack, "async", wrapped, count, seed),
            "async ours": _vector(stack, "async", ours, count, seed),
            "pool wrapped": _pool(stack, wrapped, count, workers, 1, seed),
            "pool ours": _pool(stack, ours, count, workers, 1, seed),
            f"pool ours, chunks of {chunk}": _pool(stack, ours, count, workers, chunk, seed),
        }
        chunked = f"pool ours, chunks of {chunk}"
        return measure(
            plays,
            [
                ("ours", "bare"),
                ("pool wrapped", "bare"),
                ("pool ours", "bare"),
                (chunked, "bare"),
                ("pool wrapped", "async wrapped"),
                ("pool ours", "async ours"),
                (chunked, "async ours"),
                (chunked, "async wrapped"),
            ],
            rounds,
            seconds,
        )


def _cartpole(count: int, workers: int, chunk: int, seed: int, rounds: int, seconds: float) -> dict[str, Any]:
    import gymnasium

    factory = partial(gymnasium.make, "CartPole-v1")
    with ExitStack() as stack:
        plays = {
            "sync": _vector(stack, "sync", factory, count, seed),
            "async": _vector(stack, "async", factory, count, seed),
            "pool": _pool(stack, factory, count, workers, 1, seed),
            "pool, chunks": _pool(stack, factory, count, workers, chunk, seed),
        }
        pairs = [("pool", "async"), ("pool", "sync"), ("pool, chunks", "async"), ("pool, chunks", "sync")]
        return measure(plays, pairs, rounds, seconds)


def one_thread(factory: Factory) -> gymnasium.Env[Any, Any]:
    """Return a world whose process computes with one thread, which is the fastest for one small world."""
    import torch

    torch.set_num_threads(1)
    return factory()


def bare_maniskill(task: str, wrapped: bool) -> gymnasium.Env[Any, Any]:
    """Return a ManiSkill world as ManiSkill ships it: batches of one in torch, or `CPUGymWrapper` round it."""
    import gymnasium
    import mani_skill.envs  # noqa: F401  (registers the tasks)
    import torch
    from mani_skill.utils.wrappers.gymnasium import CPUGymWrapper

    from palaestra.envs.manipulation.vulkan import rendering_on

    torch.set_num_threads(1)
    with rendering_on(None):
        env: gymnasium.Env[Any, Any] = gymnasium.make(task, obs_mode="state", reward_mode="normalized_dense")
    return CPUGymWrapper(env) if wrapped else env


def _actions(space: Any, count: int, seed: int) -> np.ndarray:
    """Return random actions [`ACTIONS`, count, …] of one world's space."""
    import numpy as np
    from gymnasium import spaces

    numbers = np.random.default_rng(seed)
    if isinstance(space, spaces.Discrete):
        return numbers.integers(space.start, space.start + space.n, (ACTIONS, count))
    return numbers.uniform(space.low, space.high, (ACTIONS, count, *space.shape)).astype(space.dtype)


def _single(stack: ExitStack, factory: Factory, seed: int) -> Play:
    """Return the play of one world in this process."""
    env = factory()
    stack.callback(env.close)
    space = env.get_wrapper_attr("single_action_space") if env.has_wrapper_attr("single_action_space") else None
    actions = _actions(space or env.action_space, 1, seed)[:, 0]
    env.reset(seed=seed)

    def play(steps: int) -> int:
        for step in range(steps):
            _, _, terminated, truncated, _ = env.step(actions[step % ACTIONS])
            if terminated or truncated:
                env.reset()
        return steps

    return play


def _vector(stack: ExitStack, kind: str, factory: Factory, count: int, seed: int) -> Play:
    """Return the play of one of Gymnasium's own vector worlds, "async" or "sync"."""
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

    env: Any
    if kind == "async":
        # The pool's own way to start processes; and no step is wasted on resetting.
        env = AsyncVectorEnv([factory] * count, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP)
    else:
        env = SyncVectorEnv([factory] * count, autoreset_mode=AutoresetMode.SAME_STEP)
    stack.callback(env.close)
    actions = _actions(env.single_action_space, count, seed)
    env.reset(seed=seed)

    def play(steps: int) -> int:
        turns = -(-steps // count)
        for turn in range(turns):
            env.step(actions[turn % ACTIONS])
        return turns * count

    return play


def _pool(stack: ExitStack, factory: Factory, count: int, workers: int, chunk: int, seed: int) -> Play:
    """Return the play of our pool."""
    import torch

    from palaestra.envs.pool import PoolWorlds

    pool = PoolWorlds(factory, count, id="bench", workers=workers, chunk=chunk)
    stack.callback(pool.close)
    drawn = torch.from_numpy(_actions(pool.spec.action, count * chunk, seed))
    actions = drawn.reshape(ACTIONS, count, chunk, *drawn.shape[2:])
    rows = pool.reset(seed).rows

    def play(steps: int) -> int:
        done = turn = 0
        while done < steps:
            pool.send(rows, actions[turn % ACTIONS])
            done += int(pool.recv().played.sum())
            turn += 1
        return done

    return play
