"""What drivers see when they look: whom to follow, and where to stop for signals, signs, others and walkers.

Each step only some drivers of a world look, in turn; every driver does so at least every `PERIOD` steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena, Control
from palaestra.envs.driving.state import Light, State, draw, lights
from palaestra.envs.driving.tables import OfConflict, OfLane, Tables
from palaestra.envs.driving.traffic import choose_ways

PERIOD = 4
"""Steps between two looks of a driver."""
NOTHING = 1e6
"""Metres: how far away what is not there is."""
TAIL = 7.0
"""Metres past a fork within which a car still stands in the way of those that take the other way."""
SPARE = 1.0
"""Seconds to spare when one passes before a car that has the right of way."""
DOUBT = 2.0
"""Seconds by which a car that ought to wait has to be earlier, once both are in a junction."""
_NOBODY, _NOWHERE = -2, -3  # lane numbers that equal no other


@dataclass(slots=True)
class Lookers:
    """K drivers of each world, and what is known of them; all [W, K]."""

    slots: Tensor
    row: Tensor
    """[W, K, 10], of their lanes."""
    lane: Tensor
    station: Tensor
    speed: Tensor
    half: Tensor
    """Half a car's length."""
    odometer: Tensor
    one: Tensor
    """The next lane, or -1."""
    two: Tensor
    rest: Tensor
    """Metres from the middle to the lane's end."""
    chance: Tensor
    """In [0, 1)."""


def slots_of(tick: Tensor, drivers: int, count: int) -> Tensor:
    """Return which vehicles look at a tick [W]: [W, count] int64, in turn among 1 to `drivers`."""
    return (tick[:, None] * count + torch.arange(count, device=tick.device)) % drivers + 1


def look(state: State, arena: Arena, tables: Tables, rows: Tensor, slots: Tensor) -> None:
    """Let some drivers look round.

    Args:
        state: Worlds; what the drivers at `slots` hold is overwritten.
        arena: The maps.
        tables: Of the arena.
        rows: What `traffic.lane_rows` returned.
        slots: [W, K] int64: which vehicles look.
    """
    cars = state.vehicles
    me = _lookers(state, arena, tables, rows, slots)
    leader, gap = find_leader(state, tables, me)
    front = me.rest - me.half
    target = torch.minimum(_at_line(state, arena, me, front), _for_others(state, arena, tables, rows, me, front))
    target = torch.minimum(target, _for_walkers(state, arena, tables, me))
    free = target >= NOTHING / 2
    cars.leader.scatter_(1, slots, leader)
    cars.leader_gap.scatter_(1, slots, gap)
    cars.stop_at.scatter_(1, slots, torch.where(free, torch.inf, me.odometer + target))


def _lookers(state: State, arena: Arena, tables: Tables, rows: Tensor, slots: Tensor) -> Lookers:
    """Collect what is known of the lookers, and choose their ways on."""
    cars = state.vehicles
    lane, station = cars.lane.gather(1, slots), cars.station.gather(1, slots)
    chance = draw(state.clocks.seed[:, None], state.clocks.tick[:, None] * 1024 + slots)
    pair = slots[..., None].expand(-1, -1, 2)
    ahead = choose_ways(arena, tables, lane, cars.ahead.gather(1, pair), chance)
    cars.ahead.scatter_(1, pair, ahead)
    row = rows.gather(1, slots[..., None].expand(-1, -1, rows.shape[2]))
    return Lookers(
        slots=slots,
        row=row,
        lane=lane,
        station=station,
        speed=cars.speed.gather(1, slots),
        half=cars.length.gather(1, slots) * 0.5,
        odometer=cars.odometer.gather(1, slots),
        one=ahead[..., 0],
        two=ahead[..., 1],
        rest=row[..., OfLane.LENGTH] - station,
        chance=chance,
    )


def find_leader(state: State, tables: Tables, me: Lookers) -> tuple[Tensor, Tensor]:
    """Return the nearest vehicle ahead on the lane, on the two after it, or cutting in: leader and held gap [W, K].

    The gap is as `Vehicles.leader_gap` has it. Others count where they are, on the lane that they touch besides, and
    for a car's length past a fork also on the lane that they came from.
    """
    cars = state.vehicles
    count = cars.lane.shape[1]
    lane = torch.where(cars.alive, cars.lane, _NOBODY)[:, None]
    beside = torch.where(cars.alive, cars.beside, _NOBODY)[:, None]
    past = torch.where((cars.station < TAIL) & cars.alive & (cars.previous >= 0), cars.previous, _NOBODY)[:, None]
    station, station_beside = cars.station[:, None], (cars.station * cars.beside_scale)[:, None]

    mine = me.lane[..., None]
    one = torch.where(me.one < 0, _NOWHERE, me.one)[..., None]
    two = torch.where(me.two < 0, _NOWHERE, me.two)[..., None]
    touched = cars.beside.gather(1, me.slots)
    touched = torch.where(touched < 0, _NOWHERE, touched)[..., None]
    came = torch.where(me.station < TAIL, cars.previous.gather(1, me.slots), _NOWHERE)[..., None]
    came = torch.where(came < 0, _NOWHERE, came)
    at, rest = me.station[..., None], me.rest[..., None]
    at_touched = at * cars.beside_scale.gather(1, me.slots)[..., None]
    rest_two = rest + tables.lanes[:, OfLane.LENGTH].take(me.one.clamp(min=0))[..., None]
    distance = torch.cat(
        (
            torch.where(lane == mine, station - at, NOTHING),
            torch.where(beside == mine, station_beside - at, NOTHING),
            torch.where(past == mine, station + rest, NOTHING),
            torch.where(lane == one, station + rest, NOTHING),
            torch.where(beside == one, station_beside + rest, NOTHING),
            torch.where(lane == two, station + rest_two, NOTHING),
            torch.where(lane == touched, station - at_touched, NOTHING),
            torch.where(past == came, station - at, NOTHING),
        ),
        2,
    )
    nearest, index = torch.where(distance > 0.01, distance, NOTHING).min(2)
    found = nearest < NOTHING / 2
    leader = torch.where(found, index % count, me.slots)
    gap = nearest - me.half - 0.5 * cars.length.gather(1, leader)
    gap = gap + me.odometer - cars.odometer.gather(1, leader)
    return leader, torch.where(found, gap, torch.inf)


def _at_line(state: State, arena: Arena, me: Lookers, front: Tensor) -> Tensor:
    """Return the metres to the lane's end where a signal, a sign or the lane's drop stops the lookers, [W, K]."""
    control = me.row[..., OfLane.CONTROL]
    light = lights(arena, me.row[..., OfLane.GROUP].long(), state.clocks.seconds()[:, None])
    stoppable = me.speed.square() < 6.0 * front
    red = (light == Light.RED) | ((light == Light.YELLOW) & stoppable)
    halted = state.vehicles.halted.gather(1, me.slots)
    stop = control == Control.STOP
    halted = halted | (stop & (me.speed < 0.3) & (front < 3.5))
    state.vehicles.halted.scatter_(1, me.slots, halted)
    drops = me.row[..., OfLane.DROPS] > 0
    return torch.where(((red | (stop & ~halted)) & (front > -1.5)) | drops, front, NOTHING)


def _for_others(
    state: State, arena: Arena, tables: Tables, rows: Tensor, me: Lookers, front: Tensor
) -> Tensor:
    """Return the metres to where lookers wait for vehicles that cross or merge, [W, K].

    On the lane before a junction they wait at its end, inside they wait before the stretch that both may touch.
    """
    cars = state.vehicles
    into = (tables.lanes[:, OfLane.JUNCTION].take(me.one.clamp(min=0)) > 0) & (me.one >= 0)
    along = torch.where(into, -me.rest, me.station)[..., None]
    number = tables.number.take(torch.where(into, me.one, me.lane))[..., None]

    length, station = rows[..., OfLane.LENGTH], cars.station
    there = torch.cat((station, station - length), 1)[:, None]
    lane = torch.cat((cars.lane, cars.ahead[..., 0]), 1)
    exists = torch.cat((cars.alive, cars.alive), 1) & (lane >= 0)
    other = torch.where(exists, tables.number.take(lane.clamp(min=0)), 0)[:, None]
    base = (state.clocks.map * tables.numbers)[:, None, None]
    pair = tables.pairs.take((base + number) * tables.numbers + other)
    zone = tables.conflicts.index_select(0, pair.flatten()).view(*pair.shape, -1)

    half = 0.5 * cars.length
    half = torch.cat((half, half), 1)[:, None]
    speed = torch.cat((cars.speed, cars.speed), 1)[:, None]
    enter = zone[..., OfConflict.FROM] - along - me.half[..., None]
    leave = zone[..., OfConflict.TO] - along + me.half[..., None]
    other_enter = zone[..., OfConflict.OTHER_FROM] - there - half
    other_leave = zone[..., OfConflict.OTHER_TO] - there + half
    waits, other_waits = zone[..., OfConflict.WAITS], zone[..., OfConflict.OTHER_WAITS]

    time = enter / me.speed.clamp(min=1.0)[..., None]
    clear = leave / me.speed.clamp(min=4.0)[..., None]
    other_time = other_enter / speed.clamp(min=1.0)
    earlier = other_time < time + DOUBT * (waits - other_waits)
    coming = _coming(state, arena, rows)[:, None] & ((speed > 0.2) | (me.chance[..., None] < 0.8))
    inside, other_inside = along > 0, there > 0
    yields = (waits > 0) & coming & (other_time < clear + SPARE) & ~(inside & other_inside)
    ordered = other_inside & earlier & (inside | ((waits == 0) & (speed > 1.5)))
    waiting = ((other_enter <= 0) | yields | ordered) & (leave > 0) & (other_leave > 0) & (enter > 0)
    nearest = torch.where(waiting, enter, NOTHING).amin(2)

    full = ((cars.lane[:, None] == me.two[..., None]) & (station < 9.0)[:, None] & (cars.speed < 1.0)[:, None]).any(2)
    wait_at_line = into & (front > me.speed.square() / 16) & (front > -1.5)
    stop = torch.where(wait_at_line, front, nearest - 0.5)
    return torch.where((nearest < NOTHING / 2) | (full & wait_at_line), stop, NOTHING)


def _coming(state: State, arena: Arena, rows: Tensor) -> Tensor:
    """Return who will enter the junction unless somebody is in the way, [W, 2 A]: as inside it, as on the way there."""
    control = rows[..., OfLane.CONTROL]
    light = lights(arena, rows[..., OfLane.GROUP].long(), state.clocks.seconds()[:, None])
    free = (light != Light.RED) & ((control != Control.STOP) | state.vehicles.halted)
    return torch.cat((state.vehicles.alive, free), 1)


def _for_walkers(state: State, arena: Arena, tables: Tables, me: Lookers) -> Tensor:
    """Return the metres to the nearest crosswalk ahead on which somebody walks, [W, K]."""
    walkers = state.walkers
    first = arena.crosswalk_range[:, 0].take(state.clocks.map)[:, None]
    busy = torch.zeros(state.worlds, tables.most_crosswalks, device=me.station.device)
    busy.scatter_add_(1, (walkers.crosswalk - first).clamp(0, tables.most_crosswalks - 1), walkers.walking.float())
    lane = torch.stack((me.lane, me.one.clamp(min=0)), 2)
    crossing = arena.crossing[lane]
    base = torch.stack((-me.station, torch.where(me.one < 0, NOTHING, me.rest)), 2)
    away = arena.crossing_at[lane] + (base - me.half[..., None] - 1.5)[..., None]
    local = (crossing - first[..., None, None]).clamp(0, tables.most_crosswalks - 1)
    walked = busy.gather(1, local.flatten(1)).view_as(local) > 0
    blocked = walked & (crossing >= 0) & (away > -1.0)
    return torch.where(blocked, away, NOTHING).flatten(2).amin(2)
