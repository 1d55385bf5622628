"""Whole episodes of agents that act in words: played by anybody, or shown by a world's scripted expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from palaestra.envs.core import Observation, Worlds, episode_seeds
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.registry import make
from palaestra.launch.config import DigiRLRecipe, WorldConfig

SEEDS = 1_000_003
"""Between the seeds of one round of episodes and the next."""
DEMONSTRATION_SEED = 10_000_019
"""Of the expert's first round, the same for every run."""

Act = Callable[[Observation, Sequence[int]], Sequence[str]]
"""Returns an action for each of N rows, given what they show and which they are."""


@dataclass(frozen=True, slots=True)
class Played:
    """One whole episode, as it was played."""

    observation: Observation
    """What each of T actions was chosen from."""
    actions: tuple[str, ...]
    """T of them."""
    last: Observation
    """What was seen after the last of them: one row."""
    success: bool
    """At any time."""
    kind: str
    """Of task, where the world names kinds; else empty."""


def play(worlds: Worlds, act: Act, seed: int) -> list[Played]:
    """Play one whole episode on each row, and return those that no fault voided.

    Rows whose episode is over are told nothing (an empty text) until the last one's is.

    Args:
        worlds: Take texts, all rows at once.
        act: Chooses.
        seed: Of the starts.
    """
    step = worlds.reset(seed)
    rows, count = step.rows, worlds.count
    kinds = kinds_of(worlds, episode_seeds(seed, np.arange(count)).tolist())
    seen: list[list[Observation]] = [[] for _ in range(count)]
    said: list[list[str]] = [[] for _ in range(count)]
    over: dict[int, tuple[Observation, bool]] = {}
    open_rows = list(range(count))
    while open_rows:
        index = torch.tensor(open_rows)
        view = step.observation[index].map(torch.clone)
        chosen = act(view, open_rows)
        actions = [""] * count
        for place, row in enumerate(open_rows):
            seen[row].append(view[torch.tensor([place])])
            said[row].append(chosen[place])
            actions[row] = chosen[place]
        worlds.send(rows, actions)
        step = worlds.recv()
        broken = {fault.row for fault in step.faults if fault is not None}
        ended = step.ended.nonzero().flatten().tolist()
        for place, row in enumerate(ended):
            if row in open_rows and row not in broken:
                assert step.final is not None
                over[row] = step.final[torch.tensor([place])].map(torch.clone), bool(step.success_once[row])
        open_rows = [row for row in open_rows if row not in ended and row not in broken]
    return [
        Played(Observation.concatenate(seen[row]), tuple(said[row]), *outcome, kinds[row])
        for row, outcome in sorted(over.items())
    ]


def kinds_of(worlds: Worlds, seeds: Sequence[int]) -> list[str]:
    """Return what kind of task each seed's episode sets, by the `kind(seed)` of the `VectorEnv`; empty without one."""
    named = getattr(getattr(worlds, "venv", None), "kind", None)
    return [named(seed) if named else "" for seed in seeds]


def demonstrate(recipe: DigiRLRecipe) -> list[Played]:
    """Return the scripted expert's successful episodes, those on tamer phones and then those on the run's own.

    Raises:
        ValueError: The world has no expert, or it succeeds too rarely.
    """
    tame: dict[str, Any] = dict(recipe.world.options) | recipe.demonstration
    live: dict[str, Any] = dict(recipe.world.options)
    return _shown(recipe.world, tame, recipe.demonstrations, DEMONSTRATION_SEED) + _shown(
        recipe.world, live, recipe.live_demonstrations, 2 * DEMONSTRATION_SEED
    )


def _shown(world: WorldConfig, options: dict[str, Any], wanted: int, seed: int) -> list[Played]:
    """Return so many of the expert's successful episodes."""
    with_expert = make(world.id, world.count, device=world.device, **options)
    try:
        if not isinstance(with_expert, LockstepWorlds) or not hasattr(with_expert.venv, "expert"):
            raise ValueError(f"{world.id} has no scripted expert: choose a world whose VectorEnv has `expert()`.")
        expert: Callable[[], Sequence[str]] = with_expert.venv.expert
        found: list[Played] = []
        for number in range(2 * -(-wanted // world.count)):
            episodes = play(with_expert, lambda _, rows: _some(expert(), rows), seed + SEEDS * number)
            found += [one for one in episodes if one.success]
            if len(found) >= wanted:
                break
    finally:
        with_expert.close()
    if len(found) < wanted:
        raise ValueError(f"the expert of {world.id} succeeded in {len(found)} episodes, {wanted} were asked for.")
    return found[:wanted]


def _some(actions: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return the actions of some rows."""
    return [actions[row] for row in rows]
