"""Views of tables and where on them the things are that the instruction names: lessons without actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palaestra.envs.core import Observation
from palaestra.envs.manipulation.tabletop.painter import CAMERAS
from palaestra.envs.manipulation.tabletop.scene import step
from palaestra.envs.manipulation.tabletop.world import TabletopEnv

WOBBLE = 0.5
"""Standard deviation of the noise on the expert's moves, so that the tool is seen everywhere."""
APART = 5
"""Moves between two views of a table."""
FRESH = 0.5
"""Share of the tables that start anew between two views."""


def pointing(views: int, seed: int, count: int = 128, **options: Any) -> tuple[Observation, Tensor]:
    """Return views of tables at all stages of an episode, and places [views, 4]: of the first thing, and its goal.

    Args:
        views: How many.
        seed: Of the episodes' starts; the same one gives the same views.
        count: Tables that are played at once.
        options: Of `TabletopEnv`.
    """
    world = TabletopEnv(count=count, **options)
    generator = torch.Generator().manual_seed(seed)
    world.reset(seed=seed)

    def move() -> Tensor:
        action = world.expert()
        action[:, :3] += WOBBLE * torch.randn(count, 3, generator=generator).to(action.device)
        return action.clamp(-1, 1)

    shown, places = [], []
    for _ in range(-(-views // count)):
        for _ in range(APART - 1):
            world.table = step(world.table, move(), world.task)  # unpainted
        _, _, over, _, _ = world.step(move())
        fresh = torch.rand(count, generator=generator) < FRESH
        view, _ = world.reset(options={"reset_mask": over | fresh.to(over.device)})
        images = {camera.name: view[camera.name].clone() for camera in CAMERAS}
        shown.append(Observation(images=images, state=view["state"], text=view["text"]))
        places.append(torch.cat([world.table.objects[:, 0, :2], world.table.goals[:, 0]], 1))
    kept = torch.arange(views, device=world.device)
    return Observation.concatenate(shown)[kept], torch.cat(places)[:views]
