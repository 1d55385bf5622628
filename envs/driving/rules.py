"""What goes wrong and what ends an episode: infractions, each counted once, and terminations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from palaestra.envs.driving.arena import PIXELS_A_METRE, Arena, Control, Ground
from palaestra.envs.driving.score import Record
from palaestra.envs.driving.state import DT, Light, State
from palaestra.envs.driving.surroundings import Surroundings, touches_vehicle, touches_walker
from palaestra.envs.driving.tables import OfRoute, Tables

ASTRAY = 3.5
"""Metres from the route at which an episode ends."""
BLOCKED = 90.0
"""Seconds at rest after which an episode ends."""
ARRIVED = 0.999
"""Share of the route that counts as all of it."""
STOP_ZONE = 6.0
"""Metres before a stop sign's line, from the car's middle, within which it must stand."""


class Infraction(IntEnum):
    """What is counted; the order of `Record.counts`."""

    VEHICLE = 0
    WALKER = 1
    """The ego moved while it touched one."""
    STATIC = 2
    """The ego's middle left the road."""
    RED_LIGHT = 3
    STOP_SIGN = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What this step did; all [W] bool but the first."""

    infractions: Tensor
    """[W, 5] bool: new ones, see `Infraction`."""
    arrived: Tensor
    astray: Tensor
    """Too far from the route."""
    blocked: Tensor
    """At rest for too long."""
    off_road: Tensor
    oncoming: Tensor
    """On the wrong side of its road."""


def judge(
    state: State,
    arena: Arena,
    tables: Tables,
    around: Surroundings,
    record: Record,
    before: Tensor,
    started: Tensor,
    light: Tensor,
) -> Verdict:
    """Return what the step did, and keep in mind what stays so, that nothing is counted twice.

    Args:
        state: Worlds after the step, the egos found on their routes.
        arena: The maps.
        tables: Of the arena.
        around: The egos' surroundings.
        record: `touching` is overwritten.
        before: [W, 23] the routes' rows where the egos were before.
        started: [W] float32: their progress then.
        light: [W] int64: what the signal ahead of them showed then.
    """
    ego, cars = state.ego, state.vehicles
    line, control = before[:, OfRoute.LINE], before[:, OfRoute.CONTROL]
    crossed = (started < line) & (ego.progress >= line)
    sign = control.eq(Control.STOP)
    at_sign = sign & (line - ego.progress < STOP_ZONE) & (ego.progress < line)
    ran_sign = crossed & sign & ~ego.halted
    ego.halted = (ego.halted | (at_sign & (cars.speed[:, 0] < 0.3))) & ~crossed

    off_road = ~on_road(state, arena)
    runs_over = touches_walker(state, around) & (cars.speed[:, 0] > 0.1)
    touching = torch.stack((touches_vehicle(state, around), runs_over, off_road), 1)
    fresh = touching & ~record.touching
    record.touching = touching
    ran_light = crossed & light.eq(Light.RED)
    offset, half = cars.offset[:, 0], before[:, OfRoute.HALF_WIDTH]
    length = tables.route_length.take(state.clocks.route)
    return Verdict(
        infractions=torch.cat((fresh, ran_light[:, None], ran_sign[:, None]), 1),
        arrived=ego.progress >= ARRIVED * length,
        astray=ego.lateral.abs() > ASTRAY,
        blocked=ego.still > BLOCKED - 0.5 * DT,
        off_road=off_road,
        oncoming=(offset > half) & (before[:, OfRoute.LEFT] < 0) & ~off_road,
    )


def on_road(state: State, arena: Arena) -> Tensor:
    """Return which egos' middles are on the road, [W] bool."""
    place = state.clocks.map
    origin, shape = arena.texture_origin[place], arena.texture_shape[place]
    column = ((state.vehicles.x[:, 0] - origin[:, 0]) * PIXELS_A_METRE).long()
    row = ((state.vehicles.y[:, 0] - origin[:, 1]) * PIXELS_A_METRE).long()
    column = torch.minimum(column.clamp(min=0), shape[:, 1] - 1)
    row = torch.minimum(row.clamp(min=0), shape[:, 0] - 1)
    pixel = arena.texture.take(arena.texture_first[place] + row * shape[:, 1] + column)
    return (pixel & Ground.ROAD) > 0
