"""Where the ego is on its route: the nearest point in a window round the last one, never a global search."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.arena import SPACING
from palaestra.envs.driving.state import State, wrapped
from palaestra.envs.driving.tables import OfRoute, Tables

NOTICED = 0.3
"""Metres from the edge of its lane at which traffic takes the ego to be on the next lane too."""
BACK, AHEAD = 3, 8
"""Points before and after the last one that are looked at."""


def row_at(state: State, tables: Tables) -> Tensor:
    """Return the routes' table at the egos' pointers, [W, 23]."""
    return tables.routes.index_select(0, state.clocks.route * tables.most + state.ego.pointer)


def follow(state: State, tables: Tables) -> Tensor:
    """Find the egos on their routes, and let traffic see them on their lanes; return the table's rows, [W, 23]."""
    ego, cars = state.ego, state.vehicles
    x, y, yaw = cars.x[:, 0], cars.y[:, 0], cars.yaw[:, 0]
    window = ego.pointer[:, None] + torch.arange(-BACK, AHEAD + 1, device=x.device)
    window = window.clamp(0, tables.most - 1)
    index = window + (state.clocks.route * tables.most)[:, None]
    point = tables.route_points.index_select(0, index.flatten()).view(*index.shape, 2)
    square = (point[..., 0] - x[:, None]).square() + (point[..., 1] - y[:, None]).square()
    ego.pointer = window.gather(1, square.argmin(1, keepdim=True))[:, 0]
    row = row_at(state, tables)

    heading = row[:, OfRoute.YAW]
    cos, sin = torch.cos(heading), torch.sin(heading)
    away_x, away_y = x - row[:, OfRoute.X], y - row[:, OfRoute.Y]
    along = away_x * cos + away_y * sin
    ego.lateral = away_y * cos - away_x * sin
    ego.heading = wrapped(yaw - heading)
    reached = ego.pointer * SPACING + along.clamp(-SPACING, SPACING)
    ego.progress = torch.maximum(ego.progress, torch.minimum(reached, tables.route_length.take(state.clocks.route)))

    offset = ego.lateral + row[:, OfRoute.OFFSET]
    over = offset.abs() + 0.5 * cars.width[:, 0] + NOTICED > row[:, OfRoute.HALF_WIDTH]
    beside = torch.where(offset > 0, row[:, OfRoute.LEFT], row[:, OfRoute.RIGHT])
    at = (row[:, OfRoute.LANE], row[:, OfRoute.AHEAD], row[:, OfRoute.LATER], row[:, OfRoute.BEFORE])
    cars.wholes[:5, :, 0] = torch.stack((*at, torch.where(over, beside, -1.0))).long()
    cars.reals[9:11, :, 0] = torch.stack((row[:, OfRoute.STATION] + along, offset))
    cars.halted[:, 0] = ego.halted
    return row
