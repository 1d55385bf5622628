"""Recipes by name. Every one is a full `Recipe`; options on the command line change it."""

from __future__ import annotations

import difflib

from palaestra.agents.flow.imitation import ImitationConfig
from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.launch.config import DemonstrationConfig, PolicyConfig, Recipe, RewardConfig, WorldConfig

REACH = Recipe(
    name="reach",
    world=WorldConfig(id="toy/reach-v0", count=256, chunk=4),
    demonstrations=DemonstrationConfig(episodes=12),
    imitation=ImitationConfig(steps=600),
    pi_rl=PiRLConfig(actor_rate=2e-4, batch=512),
    reward=RewardConfig(world=1.0, success=0.0),
    iterations=40,
    decisions=8,
)

RECIPES = {recipe.name: recipe for recipe in (REACH,)}


def recipe_named(name: str) -> Recipe:
    """Return a recipe; a wrong name gets the nearest right ones."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, 3, 0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise LookupError(f"there is no recipe {name!r}.{hint} Recipes: {', '.join(RECIPES)}.")
