"""Views of tables, and where on them the things are that the instruction names: lessons without actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from palaestra.envs.core import Observation
from palaestra.envs.manipulation.tabletop.painter import CAMERAS, HALF
from palaestra.envs.manipulation.tabletop.scene import step
from palaestra.envs.manipulation.tabletop.world import TabletopEnv

PLACES = 2
"""That are told of each view."""
WOBBLE = 0.5
"""Standard deviation of the noise on the expert's moves, so that the tool is seen everywhere."""
APART = 5
"""Moves between two views of a table."""
FRESH = 0.5
"""Share of the tables that start anew between two views."""


def pointing(count: int, seed: int, **options: Any) -> Iterator[tuple[Observation, Tensor]]:
    """Yield views of tables at all stages of an episode, and places in their pictures from above, without an end.

    The places [count, 2, 2] are those of the thing that is to be moved next, and of where it belongs. A picture's
    middle is 0, its edges are -1 and 1, to the right and up.

    Args:
        count: Tables, of each of which there is a view.
        seed: Of the episodes' starts; the same one gives the same views.
        options: Of `TabletopEnv`.
    """
    world = TabletopEnv(count=count, **options)
    generator = torch.Generator().manual_seed(seed)
    world.reset(seed=seed)

    def move() -> Tensor:
        action = world.expert()
        action[:, :3] += WOBBLE * torch.randn(count, 3, generator=generator).to(action.device)
        return action.clamp(-1, 1)

    while True:
        for _ in range(APART - 1):
            world.table = step(world.table, move(), world.task)  # unpainted
        _, _, over, _, _ = world.step(move())
        fresh = torch.rand(count, generator=generator) < FRESH
        view, _ = world.reset(options={"reset_mask": over | fresh.to(over.device)})
        images = {camera.name: view[camera.name].clone() for camera in CAMERAS}
        row, thing = torch.arange(count, device=world.device), world.table.next()
        places = torch.stack([world.table.objects[row, thing, :2], world.table.goals[row, thing]], 1)
        yield Observation(images=images, state=view["state"], text=view["text"]), places / HALF
