"""Changes of lane by MOBIL, and drivers that come back elsewhere after they left the map: one driver a world and step.

As only one driver of a world decides in a step, no two take the same gap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.state import State, draw
from palaestra.envs.driving.tables import OfLane, OfPoint, Tables
from palaestra.envs.driving.traffic import (
    acceleration,
    desired_speed,
    headway,
    pressure,
    standstill,
)

GAIN = 0.2
"""m/s²: what a change must win. This and the next are highway-env's."""
IMPOSED = 2.0
"""m/s²: the hardest braking that a change may impose on who follows then."""
URGENT = 5.0
"""m/s²: what a change is worth to drivers whose lane ends."""
CLEARANCE = 20.0, 3.0
"""Metres, and seconds of driving, that must remain of the lane."""
SWERVE_GAP = 2.0, 2.5
"""Metres, and seconds of closing in, to the car ahead that is left behind."""
ROOM = 25.0
"""Metres to all others where a driver comes back."""
UNSEEN = 60.0
"""Metres to the ego where a driver comes back."""
NOBODY = 1e6


def change_lane(state: State, arena: Arena, tables: Tables, rows: Tensor, slot: Tensor) -> None:
    """Let one driver of each world change lanes, where that gains speed and endangers nobody (MOBIL, politeness 0).

    Left and right take turns.

    Args:
        state: Worlds.
        arena: The maps.
        tables: Of the arena.
        rows: What `traffic.lane_rows` returned.
        slot: [W, 1] int64: the driver.
    """
    cars = state.vehicles
    lane, station = cars.lane.gather(1, slot), cars.station.gather(1, slot)
    speed, temper = cars.speed.gather(1, slot), cars.temper.gather(1, slot)
    row = rows.gather(1, slot[..., None].expand(-1, -1, rows.shape[2]))
    leftward = ((state.clocks.tick // (cars.lane.shape[1] - 1)) % 2 == 0)[:, None]
    target = torch.where(leftward, arena.left.take(lane), arena.right.take(lane))
    known = target.clamp(min=0)
    there = tables.lanes.index_select(0, known.flatten()).view(*known.shape, -1)
    scale = there[..., OfLane.LENGTH] / row[..., OfLane.LENGTH]

    on = cars.alive & ((cars.lane == known) | (cars.beside == known))
    at = torch.where(cars.lane == known, cars.station, cars.station * cars.beside_scale)
    away = at - station * scale
    size = 0.5 * (cars.length + cars.length.gather(1, slot))
    front, leader = torch.where(on & (away >= 0), away - size, NOBODY).min(1, keepdim=True)
    back, follower = torch.where(on & (away < 0), -away - size, NOBODY).min(1, keepdim=True)

    lead_speed = torch.where(front < NOBODY / 2, cars.speed.gather(1, leader), speed)
    keep, distance = headway(temper), standstill(temper)
    wish = desired_speed(cars.allowed.gather(1, slot), temper)
    then = acceleration(speed, wish, pressure(speed, front, speed - lead_speed, keep, distance))
    back_speed, back_temper = cars.speed.gather(1, follower), cars.temper.gather(1, follower)
    pressed = pressure(back_speed, back, back_speed - speed, headway(back_temper), standstill(back_temper))
    back_wish = desired_speed(cars.allowed.gather(1, follower), back_temper)
    imposed = torch.where(back < NOBODY / 2, acceleration(back_speed, back_wish, pressed), 0.0)

    urgent = URGENT * (row[..., OfLane.DROPS] - there[..., OfLane.DROPS])
    rest = row[..., OfLane.LENGTH] - station
    must = urgent > 0
    clear = must | ((rest > CLEARANCE[0] + CLEARANCE[1] * speed) & (station > 10.0))
    wins = then - cars.acceleration.gather(1, slot) + urgent > GAIN
    room, hardest = torch.where(must, 1.0, 3.0), torch.where(must, -2 * IMPOSED, -IMPOSED)
    safe = (front > room) & (back > room) & (imposed > hardest) & (must | (then > -IMPOSED))
    now = cars.leader.gather(1, slot)
    gap = (cars.leader_gap + cars.odometer.gather(1, cars.leader) - cars.odometer).gather(1, slot)
    closing = (speed - cars.speed.gather(1, now)).clamp(min=0)
    safe = safe & (gap > SWERVE_GAP[0] + SWERVE_GAP[1] * closing)
    settled = cars.beside.gather(1, slot) < 0
    go = (target >= 0) & clear & wins & safe & settled & cars.alive.gather(1, slot)
    shift = row[..., OfLane.HALF_WIDTH] + there[..., OfLane.HALF_WIDTH]
    held = front + cars.odometer.gather(1, slot) - cars.odometer.gather(1, leader)
    nobody = front >= NOBODY / 2
    for field, value in (
        (cars.lane, target),
        (cars.station, station * scale),
        (cars.offset, torch.where(leftward, -shift, shift)),
        (cars.beside, lane),
        (cars.beside_scale, 1 / scale),
        (cars.previous, torch.full_like(lane, -1)),
        (cars.leader, torch.where(nobody, slot, leader)),
        (cars.leader_gap, held.masked_fill(nobody, torch.inf)),
    ):
        field.scatter_(1, slot, torch.where(go, value, field.gather(1, slot)))
    pair = slot[..., None].expand(-1, -1, 2)
    cars.ahead.scatter_(1, pair, cars.ahead.gather(1, pair).masked_fill(go[..., None], -1))


def come_back(state: State, arena: Arena, tables: Tables, slot: Tensor) -> None:
    """Let one driver of each world that left the map start again, if the place it draws is free and out of sight."""
    cars = state.vehicles
    seed, tick, place = state.clocks.seed, state.clocks.tick, state.clocks.map
    chance = draw(seed, tick * 1024 + 1000)
    spawn = (arena.spawn_range[:, 0].take(place) + (chance * tables.spawns.take(place)).long())[:, None]
    lane, station = arena.spawn_lane.take(spawn), arena.spawn_station.take(spawn)
    row = tables.lanes.index_select(0, lane.flatten()).view(*lane.shape, -1)
    index = (row[..., OfLane.FIRST] + (station * row[..., OfLane.DENSITY]).floor()).long()
    point = tables.points.index_select(0, index.flatten())[:, None]
    square = (cars.x - point[..., OfPoint.X]).square() + (cars.y - point[..., OfPoint.Y]).square()
    free = (square.amin(1, keepdim=True) > ROOM**2) & (square[:, :1] > UNSEEN**2)
    go = free & ~cars.alive.gather(1, slot)
    none = torch.full_like(lane, -1)
    rest = torch.zeros_like(station)
    for field, value in (
        (cars.lane, lane),
        (cars.station, station),
        (cars.speed, 0.8 * point[..., OfPoint.SPEED]),
        (cars.allowed, point[..., OfPoint.SPEED]),
        (cars.acceleration, rest),
        (cars.offset, rest),
        (cars.beside, none),
        (cars.previous, none),
        (cars.leader, slot),
        (cars.leader_gap, rest + torch.inf),
        (cars.stop_at, rest + torch.inf),
        (cars.halted, torch.zeros_like(go)),
        (cars.alive, torch.ones_like(go)),
    ):
        field.scatter_(1, slot, torch.where(go, value, field.gather(1, slot)))
    pair = slot[..., None].expand(-1, -1, 2)
    cars.ahead.scatter_(1, pair, cars.ahead.gather(1, pair).masked_fill(go[..., None], -1))
