"""A scripted expert: pure pursuit along the route, the intelligent driver model, and the rules that traffic keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.dynamics import AXLE, BRAKE, DRAG, LOCK, PUSH, TOP_SPEED
from palaestra.envs.driving.route import row_at
from palaestra.envs.driving.state import State
from palaestra.envs.driving.tables import OfRoute, Tables
from palaestra.envs.driving.traffic import HEADWAY, LINE_GAP, acceleration, lane_rows, pressure
from palaestra.envs.driving.watch import look

if TYPE_CHECKING:
    from palaestra.envs.driving.world import DrivingEnv

STANDSTILL = 3.0
"""Metres that the expert keeps to a standing car."""
NOTICE = 10.0, 3.0
"""Metres, and seconds of driving, before a change of lanes from which on its gap is looked for."""
SPACE = 3.0, 2.5
"""Metres, and seconds of the difference in speed, that a gap must leave on either side."""
PATIENCE = 4.0
"""Seconds of standing after which half of those will do."""
REACH = 3.0, 0.45
"""Metres, and seconds of driving, ahead on the route of the point that is steered for."""


def expert_action(env: DrivingEnv, signals: bool = True) -> Tensor:
    """Return the expert's actions, [W, 2] float32 in [-1, 1], reading the worlds' state directly.

    Args:
        env: The worlds.
        signals: Whether it heeds signals; without, it is a teacher with a known fault.
    """
    state, tables = env.state, env.tables
    slot = torch.zeros(state.worlds, 1, dtype=torch.int64, device=env.device)
    look(state, env.arena, tables, lane_rows(state, tables), slot, torch.zeros_like(slot, dtype=torch.float32))
    push = _push(state, tables, env.cruise, signals)
    speed = state.vehicles.speed[:, 0]
    push = push + DRAG * speed
    pedal = torch.where(push > 0, push / (PUSH - PUSH / TOP_SPEED * speed).clamp(min=0.1), push / BRAKE)
    return torch.stack((pedal.clamp(-1, 1), pursue(state, tables)), 1)


def pursue(state: State, tables: Tables) -> Tensor:
    """Return the steering of pure pursuit, [W] float32 in [-1, 1]: the arc through a point ahead on the route."""
    cars = state.vehicles
    reach = (REACH[0] + REACH[1] * cars.speed[:, 0]).round().long()
    index = (state.ego.pointer + reach).clamp(max=tables.most - 1) + state.clocks.route * tables.most
    point = tables.route_points.index_select(0, index)
    x, y = point[:, 0] - cars.x[:, 0], point[:, 1] - cars.y[:, 0]
    cos, sin = cars.cos[:, 0], cars.sin[:, 0]
    curvature = 2 * (y * cos - x * sin) / (x.square() + y.square()).clamp(min=1.0)
    slip = torch.asin((curvature * AXLE).clamp(-0.9, 0.9))
    return (-torch.atan(2 * torch.tan(slip)) / LOCK).clamp(-1, 1)


def _push(state: State, tables: Tables, cruise: float, signals: bool) -> Tensor:
    """Return the wanted acceleration, [W] m/s²."""
    cars = state.vehicles
    speed, leader = cars.speed[:, 0], cars.leader[:, :1]
    gap = cars.leader_gap[:, 0] + cars.odometer.gather(1, leader)[:, 0] - cars.odometer[:, 0]
    closing = speed - cars.speed.gather(1, leader)[:, 0]
    pressed = pressure(speed, gap, closing, HEADWAY, STANDSTILL)
    line = pressure(speed, cars.stop_at[:, 0] - cars.odometer[:, 0] + LINE_GAP, speed, 0.0, 2 * LINE_GAP)
    row = row_at(state, tables)
    if not signals:
        line = torch.where(row[:, OfRoute.CONTROL] == Control.SIGNAL, 0.0, line)
    wish = row[:, OfRoute.SPEED].clamp(max=cruise)
    return acceleration(speed, wish, torch.maximum(torch.maximum(pressed, line), _change(state, row)))


def _change(state: State, row: Tensor) -> Tensor:
    """Return the pressure, [W], to stay behind the next change of lanes while its gap is taken, and to fall in line.

    The gap must leave room for a stopping distance's difference behind and ahead.
    """
    cars = state.vehicles
    speed = cars.speed[:, :1]
    before = row[:, OfRoute.CHANGE] - state.ego.progress
    soon = (before > -0.5) & (before < NOTICE[0] + NOTICE[1] * speed[:, 0])
    there = cars.alive & (cars.lane == row[:, OfRoute.TARGET, None])
    there[:, 0] = False
    ahead = (cars.x - cars.x[:, :1]) * cars.cos[:, :1] + (cars.y - cars.y[:, :1]) * cars.sin[:, :1]
    gap = ahead.abs() - 0.5 * (cars.length + cars.length[:, :1])
    faster = torch.where(ahead > 0, speed - cars.speed, cars.speed - speed).clamp(min=0)
    seconds = SPACE[1] / (1 + state.ego.still / PATIENCE)
    lets_in = (cars.leader == 0) & (cars.speed < 0.5) & (ahead < 0) & (gap > -1.0)
    taken = there & (gap < SPACE[0] + seconds[:, None] * faster) & ~lets_in
    wait = pressure(speed[:, 0], before + LINE_GAP, speed[:, 0], 0.0, 2 * LINE_GAP)
    file = pressure(speed, torch.where(there & (ahead > 0), gap, torch.inf), speed - cars.speed, 0.5, 2.0).amax(1)
    return torch.where(soon, torch.maximum(torch.where(taken.any(1), wait, 0.0), file), 0.0)
