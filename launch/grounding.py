"""A recipe's backbone, taught to point once and kept: what it learns depends on nothing of the run's seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from palaestra.agents.vla.adapters import own
from palaestra.agents.vla.backbone import Backbone
from palaestra.agents.vla.grounding import ground
from palaestra.envs.manipulation.tabletop.pointing import pointing
from palaestra.envs.manipulation.tabletop.world import WORLDS
from palaestra.launch.checkpoint import require_same_layout
from palaestra.launch.config import VLARecipe
from palaestra.launch.files import write_atomically
from palaestra.launch.randomness import seeded

METHOD = 2
"""Raised where what is kept would come out otherwise from the same options: what was kept before is left alone."""


def grounded(recipe: VLARecipe, backbone: Backbone) -> Iterator[dict[str, float]]:
    """Teach a recipe's fresh backbone to point; yield metrics on the way, none where the outcome is already kept.

    Weights fresh from the dice take the views' colours first (`Backbone.fit`).
    """
    kept = _place(recipe)
    if kept.is_file():
        mine, found = own(backbone.state_dict()), load_file(kept)
        require_same_layout(mine, found, str(kept))
        for name, value in mine.items():
            value.copy_(found[name])
        return
    config, world = recipe.grounding, recipe.world
    with seeded(config.seed):
        options = {"device": world.device, **WORLDS[world.id].keywords, **world.options}
        lessons = pointing(config.batch, config.seed, **options)
        if not recipe.policy.base:
            backbone.fit(next(lessons)[0].images)
        backbone.tune("full")
        yield from ground(backbone, lessons, config, recipe.augmentation)
    write_atomically(kept, save({name: value.contiguous() for name, value in own(backbone.state_dict()).items()}))


def _place(recipe: VLARecipe) -> Path:
    """Return where the outcome is kept: in the user's cache, named by everything that it depends on."""
    policy, world = recipe.policy, recipe.world
    cause = {
        "method": METHOD,
        "grounding": dataclasses.asdict(recipe.grounding), "augmentation": dataclasses.asdict(recipe.augmentation),
        "base": policy.base, "image_size": policy.image_size, "width": policy.width,
        "world": world.id, "options": dict(world.options), "torch": torch.__version__,
    }  # fmt: skip
    digest = hashlib.blake2b(json.dumps(cause, sort_keys=True).encode(), digest_size=8).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palaestra"
    return cache / "grounded" / f"{digest}.safetensors"
