"""Drivers on rails: the intelligent driver model along lanes, from lane to lane, and where that puts the cars.

Who follows whom and who stops where is held in the state between two looks of a driver (`watch.py`): a gap changes by
the difference of two odometers, so that following costs a few operations a step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.state import DT, FAR, State
from palaestra.envs.driving.tables import SLOWING, OfLane, OfPoint, Tables

PUSH = 3.0
"""m/s²: a driver's comfortable acceleration. This and the next three are highway-env's."""
SLOW = 5.0
"""m/s²: comfortable deceleration."""
STANDSTILL = 5.0
"""Metres between standing cars."""
HEADWAY = 1.5
"""Seconds that a driver keeps to the car ahead."""
EMERGENCY = 8.0
"""m/s²: the hardest braking."""
LINE_GAP = 1.0
"""Metres before the place where a driver means to stop."""
SWERVE = 1.2
"""m/s: sideways speed of a lane change."""


def headway(temper: Tensor) -> Tensor:
    """Return the seconds that drivers keep to the car ahead: 1.5, the timid 2, the aggressive 1."""
    return HEADWAY - 0.5 * temper


def standstill(temper: Tensor) -> Tensor:
    """Return the metres that drivers keep to a standing car: 5, the timid 7, the aggressive 3."""
    return STANDSTILL - 2.0 * temper


def desired_speed(allowed: Tensor, temper: Tensor) -> Tensor:
    """Return the speed that drivers wish for: what is allowed, the timid 12 % less, the aggressive 12 % more."""
    return allowed * (1 + 0.12 * temper)


def pressure(speed: Tensor, gap: Tensor, closing: Tensor, keep: Tensor | float, distance: Tensor | float) -> Tensor:
    """Return the model's desired gap over the gap that there is.

    Args:
        speed: m/s.
        gap: Metres of free road.
        closing: m/s by which the gap shrinks.
        keep: Seconds of headway.
        distance: Metres at standstill.
    """
    brake = speed * closing * (0.5 / math.sqrt(PUSH * SLOW))
    pressed: Tensor = (distance + (speed * keep + brake).clamp(min=0)) / gap.clamp(min=0.1)
    return pressed


def acceleration(speed: Tensor, desired: Tensor, pressed: Tensor) -> Tensor:
    """Return the intelligent driver model's acceleration, bounded below by emergency braking."""
    free = (speed / desired.clamp(min=0.1)).square().square()  # the model's exponent is 4
    push: Tensor = PUSH * (1 - free - pressed.square())
    return push.clamp(-EMERGENCY, PUSH)


def lane_rows(state: State, tables: Tables) -> Tensor:
    """Return the table's row of every vehicle's lane, [W, A, 11]."""
    lane = state.vehicles.lane
    return tables.lanes.index_select(0, lane.flatten()).view(*lane.shape, -1)


def drive(state: State, tables: Tables, rows: Tensor) -> Tensor:
    """Move all vehicles but the egos one step along their lanes.

    Args:
        state: Worlds.
        tables: Of their arena.
        rows: What `lane_rows` returned.

    Returns:
        What `lane_rows` returns now.
    """
    cars = state.vehicles
    speed, temper = cars.speed, cars.temper
    gap = cars.leader_gap + cars.odometer.gather(1, cars.leader) - cars.odometer
    closing = speed - speed.gather(1, cars.leader)
    pressed = pressure(speed, gap, closing, headway(temper), standstill(temper))
    line = pressure(speed, cars.stop_at - cars.odometer + LINE_GAP, speed, 0.0, 2 * LINE_GAP)
    left = (rows[..., OfLane.LENGTH] - cars.station).clamp(min=0)
    after = tables.lanes[:, OfLane.ENTRY].take(cars.following.clamp(min=0))
    allowed = torch.minimum(cars.allowed, (after.square() + 2 * SLOWING * left).sqrt())
    push = acceleration(speed, desired_speed(allowed, temper), torch.maximum(pressed, line))
    push = torch.maximum(push, speed * (-1 / DT))
    way = (speed + 0.5 * DT * push) * DT

    drift = (-cars.offset).clamp(-SWERVE, SWERVE) * (speed * 0.25).clamp(max=1)
    moved = (push, speed + DT * push, cars.odometer + way, cars.station + way, cars.offset + DT * drift)
    cars.reals[6:11, :, 1:] = torch.stack(moved)[..., 1:]
    cars.beside[:, 1:].masked_fill_(cars.offset[:, 1:].abs() < 0.7, -1)
    _change_over(state, rows)
    return place(state, tables, drift)


def _change_over(state: State, rows: Tensor) -> None:
    """Hand vehicles that passed their lane's end to the next lane, and take away those that have none."""
    cars = state.vehicles
    length = rows[..., OfLane.LENGTH]
    over = (cars.station > length) & cars.alive
    over[:, 0] = False
    on = over & (cars.following >= 0)
    cars.station.addcmul_(length, on.float(), value=-1)
    parted = cars.station - 0.5 * cars.length > rows[..., OfLane.PARTS]
    cars.previous.masked_fill_(parted, -1)
    torch.where(on, cars.lane, cars.previous, out=cars.previous)
    torch.where(on, cars.following, cars.lane, out=cars.lane)
    torch.where(over, cars.later, cars.following, out=cars.following)
    cars.later.masked_fill_(over, -1)
    cars.beside.masked_fill_(over, -1)
    cars.halted.logical_and_(~over)
    cars.alive.logical_and_(on | ~over)


def place(state: State, tables: Tables, drift: Tensor) -> Tensor:
    """Put all vehicles but the egos where their stations and offsets are, and return their `lane_rows`.

    Args:
        state: Worlds.
        tables: Of their arena.
        drift: [W, A] m/s to the left, relative to the lane.
    """
    cars = state.vehicles
    row = lane_rows(state, tables)
    first, density = row[..., OfLane.FIRST], row[..., OfLane.DENSITY]
    index = torch.minimum((first + (cars.station * density).floor()).clamp(min=0), row[..., OfLane.LAST])
    point = tables.points.index_select(0, index.long().flatten()).view(*index.shape, -1)
    beyond = cars.station - (index - first) / density
    bend = point[..., OfPoint.CURVATURE] * beyond
    heading = point[..., OfPoint.YAW] + bend
    middle = heading - 0.5 * bend
    yaw = heading + drift / cars.speed.clamp(min=2.0)
    x = point[..., OfPoint.X] + beyond * torch.cos(middle) - cars.offset * torch.sin(heading)
    y = point[..., OfPoint.Y] + beyond * torch.sin(middle) + cars.offset * torch.cos(heading)
    away = ~cars.alive
    x, y = x.masked_fill_(away, FAR), y.masked_fill_(away, FAR)
    placed = (x, y, yaw, torch.cos(yaw), torch.sin(yaw), point[..., OfPoint.SPEED])
    cars.reals[:6, :, 1:] = torch.stack(placed)[..., 1:]
    return row


def successor(arena: Arena, tables: Tables, lane: Tensor, chance: Tensor) -> Tensor:
    """Return a random lane of those that follow lanes [...] int64 (-1 gives -1), by `chance` [...] in [0, 1)."""
    known = lane.clamp(min=0)
    ways = tables.ways.take(known)
    way = arena.successors.take(known * arena.successors.shape[1] + (chance * ways).long())
    return way.masked_fill((lane < 0) | (ways == 0), -1)
