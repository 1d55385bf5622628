"""How far a trained vision-language-action policy carries: what training never showed, and what it really looks at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from palaestra.agents.core import Decision, Policy
from palaestra.envs.core import Observation
from palaestra.envs.manipulation.tabletop.catalogue import SPLITS
from palaestra.launch.config import EVALUATION_SEED, Recipe
from palaestra.launch.evaluate import Evaluation, evaluate
from palaestra.launch.files import write_atomically
from palaestra.launch.result import provenance
from palaestra.launch.train import load_policy, make_worlds

Sense = Literal["words", "pictures"]
SENSES: tuple[Sense, ...] = ("words", "pictures")
NEEDLESS = ("object", "receptacle")
"""Splits that leave a drawer as it is."""


@dataclass(frozen=True, slots=True)
class Misled:
    """A policy that is shown another table's instruction, or pictures: one that ignores them would not mind."""

    policy: Policy
    sense: Sense

    def act(self, observation: Observation) -> Decision:
        """Decide from what row i + 1 says or shows instead of row i."""
        if self.sense == "words":
            return self.policy.act(replace(observation, text=observation.text[1:] + observation.text[:1]))
        shifted = {name: picture.roll(-1, 0) for name, picture in observation.images.items()}
        return self.policy.act(replace(observation, images=shifted))


def held_out(run: Path, recipe: Recipe, episodes: int, count: int | None = None) -> Iterator[Evaluation]:
    """Evaluate a run's policies before and after reinforcement on every split of tables, and misled; yield each.

    The outcome is written to `held_out.json` of the run's folder.

    Args:
        run: The folder.
        recipe: The run's.
        episodes: Of each evaluation.
        count: Tables at once; by default as many as the recipe trains on.

    Raises:
        ValueError: The run's worlds are no tables.
    """
    if not recipe.world.id.startswith("tabletop/"):
        raise ValueError(f"{recipe.world.id} has no held-out splits; tabletop/* worlds have: {', '.join(SPLITS)}.")
    entries: list[dict[str, Any]] = []
    worlds = make_worlds(recipe, 1)
    worlds.close()
    policies = {
        "before": load_policy(run, recipe, worlds.spec, "000000"), "after": load_policy(run, recipe, worlds.spec)
    }  # fmt: skip
    for split in SPLITS:
        if split in NEEDLESS and recipe.world.id == "tabletop/drawer-v0":
            continue
        world = replace(recipe.world, options={**recipe.world.options, "split": split})
        worlds = make_worlds(replace(recipe, world=world), count)
        try:
            for stage, policy in policies.items():
                played: list[tuple[str, Policy]] = [(f"{stage}, {split}", policy)]
                if split == "train":
                    played += [(f"{stage}, other {sense}", Misled(policy, sense)) for sense in SENSES]
                for name, player in played:
                    evaluation = evaluate(worlds, player, episodes, EVALUATION_SEED, name)
                    entries.append(_entry(evaluation))
                    yield evaluation
        finally:
            worlds.close()
    result = {"recipe": recipe.name, "world": recipe.world.id, "seed": recipe.seed, "evaluations": entries}
    write_atomically(run / "held_out.json", json.dumps(result | provenance(), indent=2).encode() + b"\n")


def _entry(evaluation: Evaluation) -> dict[str, Any]:
    """Return what is recorded of an evaluation: all but its list of episodes."""
    entry = evaluation.to_json()
    return {name: value for name, value in entry.items() if name not in ("episode_list", "fault_list")}
