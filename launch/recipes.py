"""Recipes by name. Every one is full; options on the command line change it."""

from __future__ import annotations

import difflib
from dataclasses import replace

from palaestra.agents.flow.imitation import ImitationConfig
from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.agents.found_rl.config import FoundRLConfig
from palaestra.agents.vla.augmentation import AugmentationConfig
from palaestra.agents.vla.grounding import GroundingConfig
from palaestra.launch.config import (
    AnyKind,
    DemonstrationConfig,
    DigiRLRecipe,
    FoundRLRecipe,
    PolicyConfig,
    Recipe,
    RewardConfig,
    VLAConfig,
    VLARecipe,
    WorldConfig,
)
from palaestra.launch.config_conversation import LedgerRecipe, ToolsRecipe, VragRecipe
from palaestra.launch.config_tuning import TuningRecipe

REACH = Recipe(
    name="reach",
    world=WorldConfig(id="toy/reach-v0", count=256, chunk=4),
    demonstrations=DemonstrationConfig(episodes=12),
    imitation=ImitationConfig(steps=600),
    policy=PolicyConfig(steps=2),
    pi_rl=PiRLConfig(form="full", ratio="action", discount=0.9, actor_rate=3e-4, batch=512),
    reward=RewardConfig(success=0.0, world=1.0),
    iterations=40,
    decisions=8,
)

PUSH_CUBE = Recipe(
    name="pi-rl-push-cube",
    world=WorldConfig(
        id="maniskill/PushCube-v1",
        count=32,
        chunk=4,
        options={"control": "pd_ee_delta_pos", "reward": "normalized_dense"},
    ),
    # The last transition's noise is what reaches the action; with more of them it is too small to explore.
    policy=PolicyConfig(steps=2),
    # Noisy demonstrations leave a policy that hesitates but has seen the way back; clean ones, one that is lost off it.
    demonstrations=DemonstrationConfig(episodes=10, noise=0.3),
    imitation=ImitationConfig(steps=400),
    # An episode is 13 decisions: with a discount near 1 time limits bootstrap from a critic that believes in rescue.
    pi_rl=PiRLConfig(form="full", ratio="action", discount=0.9, epochs=6, batch=208, actor_rate=2e-4, anneal=120),
    reward=RewardConfig(success=1.0, progress=2.0),
    iterations=120,
    decisions=13,
    every=10,
    stop_at=0.98,
)

PICK_CUBE = replace(
    PUSH_CUBE,
    name="pi-rl-pick-cube",
    world=replace(PUSH_CUBE.world, id="maniskill/PickCube-v1"),
    demonstrations=DemonstrationConfig(episodes=20, noise=0.2),
    imitation=ImitationConfig(steps=800),
    # The verdict asks the arm to hold still: louder exploration never sees a success.
    pi_rl=replace(PUSH_CUBE.pi_rl, level=0.25, actor_rate=1e-4, anneal=600),
    iterations=600,
    every=20,
    stop_at=0.92,
)

STACK_CUBE = replace(PICK_CUBE, name="pi-rl-stack-cube", world=replace(PUSH_CUBE.world, id="maniskill/StackCube-v1"))

VLA_TABLETOP = VLARecipe(
    name="vla-tabletop",
    world=WorldConfig(
        id="tabletop/drawer-v0",
        count=32,
        chunk=4,
        options={"objects": 2, "kinds": 4, "scenes": 1, "pixels": 32},
    ),
    policy=VLAConfig(horizon=4, steps=2, hidden=64, image_size=32, width=64, imitation="frozen"),
    # A backbone with random weights has to learn first what a pre-trained one knows: where things are.
    grounding=GroundingConfig(steps=400),
    # Of one table in one light: without other colours, a table of other colours is none.
    augmentation=AugmentationConfig(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.05),
    demonstrations=DemonstrationConfig(episodes=50, noise=0.2),
    imitation=ImitationConfig(steps=500, batch=64, learning_rate=2e-3),
    pi_rl=PiRLConfig(form="full", ratio="action", discount=0.9, epochs=6, batch=128, actor_rate=3e-4, anneal=40),
    reward=RewardConfig(success=1.0, world=1.0),
    iterations=40,
    decisions=8,
)

VLA_PICK_PLACE = replace(
    VLA_TABLETOP,
    name="vla-pick-place",
    world=replace(VLA_TABLETOP.world, id="tabletop/pick-place-v0", count=64),
    # Which of several things is meant has to be read, where a table has only one drawer.
    grounding=GroundingConfig(steps=1000),
    demonstrations=DemonstrationConfig(episodes=100, noise=0.2),
    imitation=replace(VLA_TABLETOP.imitation, steps=1000),
    pi_rl=replace(VLA_TABLETOP.pi_rl, batch=256, anneal=80),
    iterations=80,
    decisions=10,
)

FOUND_RL_DRIVING = FoundRLRecipe(learner=FoundRLConfig(guidance="vmr+awag"))

DIGIRL_PHONE = DigiRLRecipe()

_ALL: tuple[tuple[AnyKind, str], ...] = (
    (REACH, "a toy world: imitation, then π_RL"),
    (PUSH_CUBE, "ManiSkill's arm pushes a cube: imitation, then π_RL"),
    (PICK_CUBE, "it picks a cube up and holds it still"),
    (STACK_CUBE, "it stacks two cubes (not learnt so far)"),
    (VLA_TABLETOP, "pictures and words in, actions out: drawers; imitation, then π_RL"),
    (VLA_PICK_PLACE, "the same: things are put where the words say"),
    (FOUND_RL_DRIVING, "a car learns to drive with a teacher's advice (Found-RL)"),
    (DIGIRL_PHONE, "a vision-language model learns to use a phone (DigiRL)"),
    (VragRecipe(), "search page images, crop, answer (VRAG-RL)"),
    (LedgerRecipe(), "look prices up, calculate, answer: text alone"),
    (ToolsRecipe(), "your world of tools and any checkpoint: imitation, then the policy-gradient family"),
    (TuningRecipe(), "supervised fine-tuning of a vision-language model"),
)
RECIPES: dict[str, AnyKind] = {recipe.name: recipe for recipe, _ in _ALL}
ABOUT: dict[str, str] = {recipe.name: about for recipe, about in _ALL}
"""What each recipe is, in a few words."""

DEMOS = {
    "robot": ("pi-rl-push-cube",),
    "driving": ("found-rl-driving", "--guidance", "vmr+awag", "--stop-at", "0.9"),
    "table": ("vla-tabletop",),
    "phone": ("digirl-phone", "--iterations", "9", "--final-episodes", "128"),
}
"""What each demo trains; the first one is shown where none is named."""


def recipe_named(name: str) -> AnyKind:
    """Return a recipe; a wrong name gets the nearest right ones."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, 3, 0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise LookupError(f"there is no recipe {name!r}.{hint} Recipes: {', '.join(RECIPES)}.")
