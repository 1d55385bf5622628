"""Recipes by name. Every one is a full `Recipe`; options on the command line change it."""

from __future__ import annotations

import difflib

from palaestra.agents.flow.imitation import ImitationConfig
from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.launch.config import DemonstrationConfig, Recipe, RewardConfig, WorldConfig

REACH = Recipe(
    name="reach",
    world=WorldConfig(id="toy/reach-v0", count=256, chunk=4),
    demonstrations=DemonstrationConfig(episodes=12),
    imitation=ImitationConfig(steps=600),
    pi_rl=PiRLConfig(actor_rate=2e-4, batch=512),
    reward=RewardConfig(success=0.0, world=1.0),
    iterations=40,
    decisions=8,
)

PUSH_CUBE = Recipe(
    name="pi-rl-push-cube",
    world=WorldConfig(id="maniskill/PushCube-v1", count=32, chunk=4, options={"control": "pd_ee_delta_pos", "reward": "normalized_dense"}),
    demonstrations=DemonstrationConfig(episodes=3),
    imitation=ImitationConfig(steps=600),
    pi_rl=PiRLConfig(form="full", ratio="action", level=0.8, actor_rate=5e-4, batch=160),
    reward=RewardConfig(success=1.0, progress=2.0),
    iterations=60,
    decisions=13,
    every=10,
)

RECIPES = {recipe.name: recipe for recipe in (REACH, PUSH_CUBE)}


def recipe_named(name: str) -> Recipe:
    """Return a recipe; a wrong name gets the nearest right ones."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, 3, 0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise LookupError(f"there is no recipe {name!r}.{hint} Recipes: {', '.join(RECIPES)}.")
