"""Walkers that wait at a kerb, take a gap in the traffic and cross."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.state import DT, FAR, State
from palaestra.envs.driving.tables import Tables

SLOWEST, FASTEST = 1.0, 1.8
"""m/s."""
PAUSE = 30.0
"""Seconds that a walker stays at a kerb before it wants to cross, on average."""
CAUTION = 5.0
"""Seconds of a car's way that must be free."""
REACH = 1.0
"""Metres before a walker's feet in which it does not walk into the ego."""
DETOUR = 5.0
"""Seconds after which a walker finds its way round an ego that stands in its way."""


def walk(state: State, tables: Tables, chance: Tensor) -> None:
    """Move the walkers one step; in each world one that waits may set out, by `chance` [W] in [0, 1)."""
    walkers = state.walkers
    way = tables.crosswalks.index_select(0, walkers.crosswalk.flatten()).view(*walkers.crosswalk.shape, -1)
    _set_out(state, chance)
    share = walkers.share + walkers.pace * DT / way[..., 4] * (walkers.walking & ~_blocked(state, way))
    arrived = walkers.walking & (share.clamp(0, 1) != share)
    walkers.share = share.clamp(0, 1)
    walkers.walking = walkers.walking & ~arrived
    walkers.pace = torch.where(arrived, -walkers.pace, walkers.pace)
    stand(state, tables)


def stand(state: State, tables: Tables) -> None:
    """Put walkers where their shares are."""
    walkers = state.walkers
    way = tables.crosswalks.index_select(0, walkers.crosswalk.flatten()).view(*walkers.crosswalk.shape, -1)
    walkers.x = torch.where(walkers.alive, way[..., 0] + walkers.share * way[..., 2], FAR)
    walkers.y = torch.where(walkers.alive, way[..., 1] + walkers.share * way[..., 3], FAR)


def _set_out(state: State, chance: Tensor) -> None:
    """Let one walker of each world look whether the road is free."""
    walkers, cars = state.walkers, state.vehicles
    tick = state.clocks.tick
    slot = (tick % walkers.x.shape[1])[:, None]
    x, y = walkers.x.gather(1, slot), walkers.y.gather(1, slot)
    away_x, away_y = x - cars.x, y - cars.y
    ahead = away_x * cars.cos + away_y * cars.sin
    aside = (away_y * cars.cos - away_x * cars.sin).abs()
    threat = (ahead > -5.0) & (ahead < cars.speed * CAUTION + 6.0) & (aside < 14.0) & (cars.speed > 0.5)
    willing = (chance < DT / PAUSE * walkers.x.shape[1])[:, None]
    go = willing & ~threat.any(1, keepdim=True) & walkers.alive.gather(1, slot)
    walkers.walking.scatter_(1, slot, walkers.walking.gather(1, slot) | go)


def _blocked(state: State, way: Tensor) -> Tensor:
    """Return which walkers would bump into the ego, [W, B]."""
    walkers, cars = state.walkers, state.vehicles
    step = walkers.pace.sign() * REACH / way[..., 4]
    away_x = walkers.x + step * way[..., 2] - cars.x[:, :1]
    away_y = walkers.y + step * way[..., 3] - cars.y[:, :1]
    ahead = (away_x * cars.cos[:, :1] + away_y * cars.sin[:, :1]).abs()
    aside = (away_y * cars.cos[:, :1] - away_x * cars.sin[:, :1]).abs()
    meets = (ahead < 0.5 * cars.length[:, :1] + 0.3) & (aside < 0.5 * cars.width[:, :1] + 0.3)
    return meets & (state.ego.still < DETOUR)[:, None]
