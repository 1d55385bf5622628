"""Whole episodes of agents that act in words: played by anybody, or shown by a world's scripted expert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch

from palaestra.envs.core import Fault, Observation, Worlds, episode_seeds
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.registry import make
from palaestra.launch.config import DigiRLRecipe, WorldConfig

SEEDS = 1_000_003
"""Between the seeds of one round of episodes and the next."""
DEMONSTRATION_SEED = 10_000_019
"""Of the expert's first round, the same for every run."""

Act = Callable[[Observation, Sequence[int]], Sequence[str]]
"""Returns an action for each of N rows, given what they show and which they are."""
Slip = Callable[[Sequence[str], Sequence[int]], Sequence[str]]
"""Returns what is done in each of N rows, given what was chosen and which they are."""


@dataclass(frozen=True, slots=True)
class Played:
    """One whole episode, as it was played."""

    observation: Observation
    """What each of T actions was chosen from."""
    actions: tuple[str, ...]
    """T of them, as they were chosen."""
    last: Observation
    """What was seen after the last of them: one row."""
    success: bool
    """At any time."""
    kind: str
    """Of task, where the world names kinds; else empty."""


def play(worlds: Worlds, act: Act, seed: int, slip: Slip | None = None) -> tuple[list[Played], list[Fault]]:
    """Play one whole episode on each row. What a fault voided is played once more, from its own seed.

    Rows of lock-step worlds whose episode is over are told nothing (an empty text) until the last one's is.

    Args:
        worlds: Take texts.
        act: Chooses.
        seed: Of the starts.
        slip: What is done in place of what was chosen; episodes hold the choices. By default, they are done.

    Returns:
        The episodes that came to an end, at most one a row, and all faults.
    """
    played: dict[int, Played] = {}
    faults: list[Fault] = []
    for _ in range(2):
        lost = [row for row in range(worlds.count) if row not in played]
        if lost:
            faults += _play_rows(worlds, act, seed, slip, lost, played)
    return [one for _, one in sorted(played.items())], faults


def _play_rows(
    worlds: Worlds, act: Act, seed: int, slip: Slip | None, rows: Sequence[int], played: dict[int, Played]
) -> list[Fault]:
    """Play one whole episode on each of some rows, put those that came to an end into `played`, and return faults."""
    kinds = kinds_of(worlds, episode_seeds(seed, np.arange(worlds.count)).tolist())
    seen: dict[int, list[Observation]] = {row: [] for row in rows}
    said: dict[int, list[str]] = {row: [] for row in rows}
    faults: list[Fault] = []
    going = set(rows)
    step = worlds.reset(seed)
    while going:
        ready = [row for row in step.rows.tolist() if row in going]
        if ready:
            view = step.observation[torch.isin(step.rows, torch.tensor(ready))].map(torch.clone)
            chosen = act(view, ready)
            done = dict(zip(ready, chosen if slip is None else slip(chosen, ready), strict=True))
            for place, row in enumerate(ready):
                seen[row].append(view[torch.tensor([place])])
                said[row].append(chosen[place])
            told = step.rows if worlds.spec.lockstep else torch.tensor(ready)
            worlds.send(told, [done.get(row, "") for row in told.tolist()])
        step = worlds.recv()
        for place, row in enumerate(step.rows[step.ended].tolist()):
            if row in going:
                assert step.final is not None
                last = step.final[torch.tensor([place])].map(torch.clone)
                success = bool(step.success_once[step.rows == row])
                played[row] = Played(Observation.concatenate(seen[row]), tuple(said[row]), last, success, kinds[row])
        broken = {fault.row: fault for fault in step.faults if fault is not None and fault.row in going}
        faults += broken.values()
        going -= played.keys() | broken.keys()
    return faults


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
    wanted = ((tame, recipe.demonstrations), (live, recipe.live_demonstrations))
    return [
        one
        for number, (options, episodes) in enumerate(wanted, start=1)
        for one in _shown(recipe.world, options, episodes, recipe.slips, number * DEMONSTRATION_SEED)
    ]


def _shown(world: WorldConfig, options: dict[str, Any], wanted: int, slips: float, seed: int) -> list[Played]:
    """Return so many of the expert's successful episodes, as many of each kind of task as can be.

    In these it slipped now and then, and found back.
    """
    with_expert = make(world.id, world.count, device=world.device, **options)
    try:
        if not isinstance(with_expert, LockstepWorlds) or not hasattr(with_expert.venv, "expert"):
            raise ValueError(f"{world.id} has no scripted expert: choose a world whose VectorEnv has `expert()`.")
        expert: Callable[[], Sequence[str]] = with_expert.venv.expert
        slip = _slips(with_expert.venv, slips, seed) if slips else None
        found: list[Played] = []
        for number in range(2 * -(-wanted // world.count)):
            episodes, _ = play(with_expert, lambda _, rows: _some(expert(), rows), seed + SEEDS * number, slip)
            found += [one for one in episodes if one.success]
            if len(found) >= wanted:
                break
    finally:
        with_expert.close()
    if len(found) < wanted:
        raise ValueError(f"the expert of {world.id} succeeded in {len(found)} episodes, {wanted} were asked for.")
    return _of_each_kind(found)[:wanted]


def _of_each_kind(played: Sequence[Played]) -> list[Played]:
    """Return episodes in another order: the first of each kind, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, Played]] = []
    for one in played:
        ranked.append((seen[one.kind], one))
        seen[one.kind] += 1
    return [one for _, one in sorted(ranked, key=lambda entry: entry[0])]


def _slips(venv: Any, chance: float, seed: int) -> Slip:
    """Return what puts a tap on anything in the place of some actions (as DART: Laskey et al., 2017, arXiv:1703.09327).

    Raises:
        ValueError: The world does not know what can be tapped.
    """
    if not hasattr(venv, "stray"):
        raise ValueError(f"slips is {chance}, but {type(venv).__name__} has no `stray(random)`: take slips = 0.")
    random = Random(seed)

    def slip(chosen: Sequence[str], rows: Sequence[int]) -> list[str]:
        astray = _some(venv.stray(random), rows)
        return [wrong if random.random() < chance else right for wrong, right in zip(astray, chosen, strict=True)]

    return slip


def _some(actions: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return the actions of some rows."""
    return [actions[row] for row in rows]
