"""How episodes start: a map, a route, and traffic, all of them functions of the episode's key."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.route import follow
from palaestra.envs.driving.state import State, blank
from palaestra.envs.driving.tables import OfLane, OfPoint, OfRoute, Tables
from palaestra.envs.driving.traffic import lane_rows, place
from palaestra.envs.driving.walkers import FASTEST, SLOWEST, stand
from palaestra.envs.driving.watch import look
from palaestra.envs.streams import draw, mixed

APART = 15.0
"""Metres between the ego and traffic at the start."""


def check_room(arena: Arena, vehicles: int, walkers: int) -> None:
    """Raise ValueError for counts that make no sense, or more vehicles than a map has places for."""
    for name, value in (("vehicles", vehicles), ("walkers", walkers)):
        if value < 0:
            raise ValueError(f"driving: {name} is {value}, expected 0 or more.")
    spawns = arena.spawn_range[:, 1] - arena.spawn_range[:, 0]
    room = int(spawns.min())
    if vehicles > room:
        raise ValueError(
            f"driving: {vehicles} vehicles, but map {int(spawns.argmin())} has places for {room} to start. Ask for "
            f"vehicles={room} or fewer, or choose larger maps."
        )


def start(arena: Arena, tables: Tables, seed: Tensor, vehicles: int, walkers: int) -> State:
    """Return worlds at the start of their episodes.

    Args:
        arena: The maps.
        tables: Of the arena.
        seed: [N] int64: well-mixed keys.
        vehicles: How many, the ego included.
        walkers: How many; a map without crosswalks has none.
    """
    state = blank(len(seed), vehicles, walkers, seed.device)
    clocks = state.clocks
    clocks.seed = seed
    clocks.map = (draw(seed, 1) * arena.maps).long()
    low, high = arena.route_range[clocks.map].unbind(1)
    clocks.route = low + (draw(seed, 2) * (high - low)).long()
    clocks.shift = draw(seed, 3) * 200.0
    _place_ego(state, tables)
    if vehicles > 1:
        _place_traffic(state, arena, tables)
    if walkers:
        _place_walkers(state, arena, tables)
    if vehicles > 1:
        slots = torch.arange(1, vehicles, device=seed.device).repeat(len(seed), 1)
        look(state, arena, tables, lane_rows(state, tables), slots, draw(seed[:, None], 7 << 20 | slots))
        cars = state.vehicles
        gap = cars.leader_gap + cars.odometer.gather(1, cars.leader) - cars.odometer
        room = torch.minimum(gap, cars.stop_at - cars.odometer)
        cars.speed[:, 1:] = torch.minimum(0.8 * cars.allowed, (4.0 * (room - 3.0).clamp(min=0)).sqrt())[:, 1:]
    return state


def _place_ego(state: State, tables: Tables) -> None:
    """Put the egos on their routes' first points, at rest."""
    cars = state.vehicles
    point = tables.routes.index_select(0, state.clocks.route * tables.most)
    yaw = point[:, OfRoute.YAW]
    cars.alive[:, 0] = True
    cars.x[:, 0], cars.y[:, 0], cars.yaw[:, 0] = point[:, OfRoute.X], point[:, OfRoute.Y], yaw
    cars.cos[:, 0], cars.sin[:, 0] = torch.cos(yaw), torch.sin(yaw)
    follow(state, tables)


def _place_traffic(state: State, arena: Arena, tables: Tables) -> None:
    """Put every driver on a place of its own, in an order that the key shuffles."""
    cars, clocks = state.vehicles, state.clocks
    count = cars.x.shape[1] - 1
    first, last = arena.spawn_range[clocks.map].unbind(1)
    index = first[:, None] + torch.arange(tables.most_spawns, device=first.device)
    inside = index < last[:, None]
    index = torch.minimum(index, last[:, None] - 1)
    row = tables.lanes[arena.spawn_lane[index]]
    point = tables.points[(row[..., OfLane.FIRST] + arena.spawn_station[index] * row[..., OfLane.DENSITY]).long()]
    square = (point[..., OfPoint.X] - cars.x[:, :1]).square() + (point[..., OfPoint.Y] - cars.y[:, :1]).square()
    order = mixed(clocks.seed[:, None] + (index - first[:, None] + 16) * 0x9E3779B9)
    order = order.masked_fill(~inside | (square < APART**2), 1 << 33)
    value, chosen = order.topk(count, dim=1, largest=False, sorted=True)
    spawn = index.gather(1, chosen)
    cars.alive[:, 1:] = value < 1 << 33
    cars.lane[:, 1:] = arena.spawn_lane[spawn]
    cars.station[:, 1:] = arena.spawn_station[spawn]
    number = torch.arange(count, device=first.device)
    cars.temper[:, 1:] = 2 * draw(clocks.seed[:, None], 1 << 20 | number) - 1
    cars.length[:, 1:] = 4.0 + draw(clocks.seed[:, None], 2 << 20 | number)
    cars.width[:, 1:] = 1.7 + 0.3 * draw(clocks.seed[:, None], 3 << 20 | number)
    place(state, tables, torch.zeros_like(cars.x))


def _place_walkers(state: State, arena: Arena, tables: Tables) -> None:
    """Put every walker at an end of some crosswalk."""
    walkers, clocks = state.walkers, state.clocks
    low, high = arena.crosswalk_range[clocks.map].unbind(1)
    number = torch.arange(walkers.x.shape[1], device=low.device)
    seed = clocks.seed[:, None]
    walkers.alive = (high > low)[:, None].expand_as(walkers.alive).clone()
    count = (high - low).clamp(min=1)
    first = (draw(clocks.seed, 4 << 20) * count).long()
    walkers.crosswalk = torch.where(walkers.alive, low[:, None] + (first[:, None] + number) % count[:, None], 0)
    pace = SLOWEST + (FASTEST - SLOWEST) * draw(seed, 5 << 20 | number)
    walkers.share = (draw(seed, 6 << 20 | number) < 0.5).float()
    walkers.pace = pace * (1 - 2 * walkers.share)
    stand(state, tables)
