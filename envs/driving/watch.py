"""What drivers see when they look: whom to follow, and where to stop for signals, signs, others and walkers.

Each step only some drivers of a world look, in turn; every driver does so at least every `PERIOD` steps. Tensors of
pairs are [K, A, W], so that inner loops run over worlds, and conditions on them are sums of large numbers rather than
masks: both are several times faster on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena, Control
from palaestra.envs.driving.state import Light, State, draw, lights
from palaestra.envs.driving.tables import OfLane, Tables
from palaestra.envs.driving.traffic import choose_ways

PERIOD = 4
"""Steps between two looks of a driver."""
NOTHING = 1e6
"""Metres: how far away what is not there is."""
SPARE = 1.0
"""Seconds to spare when one passes before a car that has the right of way."""
DOUBT = 2.0
"""Seconds by which a car that ought to wait has to be earlier, once both are in a junction."""
STOPPABLE, STOPPING = 6.0, 16.0
"""m/s²: twice the deceleration that one begins to stop with at a yellow light, and that one goes on to stop with."""
ALONGSIDE = 4.0
"""Metres between the middles of cars that are side by side."""
EXIT = 9.0
"""Metres of the lane behind a junction that must not be blocked for one to enter it."""


@dataclass(slots=True)
class Lookers:
    """K drivers of each world, and what is known of them; [K, W] where not said."""

    slots: Tensor
    """[W, K]"""
    row: Tensor
    """[K, W, 11], of their lanes."""
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

    @property
    def front(self) -> Tensor:
        """Metres from the bumper to the lane's end."""
        return self.rest - self.half


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
    target = torch.minimum(_at_line(state, arena, me), _for_walkers(state, arena, tables, me))
    if tables.numbers > 1:
        target = torch.minimum(target, _for_others(state, tables, rows, me))
    stop = (me.odometer + target).masked_fill(target >= NOTHING / 2, torch.inf)
    cars.leader.scatter_(1, slots, leader.t())
    cars.leader_gap.scatter_(1, slots, gap.t())
    cars.stop_at.scatter_(1, slots, stop.t())


def _lookers(state: State, arena: Arena, tables: Tables, rows: Tensor, slots: Tensor) -> Lookers:
    """Collect what is known of the lookers, and choose their ways on."""
    cars = state.vehicles

    def mine(field: Tensor) -> Tensor:
        return field.gather(1, slots).t().contiguous()

    pair = slots[..., None].expand(-1, -1, 2)
    chance = draw(state.clocks.seed[:, None], state.clocks.tick[:, None] * 1024 + slots)
    ahead = choose_ways(arena, tables, cars.lane.gather(1, slots), cars.ahead.gather(1, pair), chance)
    cars.ahead.scatter_(1, pair, ahead)
    row = rows.gather(1, slots[..., None].expand(-1, -1, rows.shape[2])).transpose(0, 1)
    station = mine(cars.station)
    return Lookers(
        slots=slots,
        row=row,
        lane=mine(cars.lane),
        station=station,
        speed=mine(cars.speed),
        half=mine(cars.length) * 0.5,
        odometer=mine(cars.odometer),
        one=ahead[..., 0].t().contiguous(),
        two=ahead[..., 1].t().contiguous(),
        rest=row[..., OfLane.LENGTH] - station,
        chance=chance.t(),
    )


def find_leader(state: State, tables: Tables, me: Lookers) -> tuple[Tensor, Tensor]:
    """Return the nearest vehicle ahead on the lane, on the two after it, or cutting in: leader and held gap [K, W].

    The gap is as `Vehicles.leader_gap` has it. Others count where they are, on the lane that they touch besides, unless
    they are right beside, and at a fork also on the lane that they came from, until they are out of the way.
    """
    cars = state.vehicles
    gone = (~cars.alive).t()

    def others(field: Tensor) -> Tensor:
        return field.t().contiguous()

    def known(lane: Tensor, instead: float) -> Tensor:
        return lane.float().masked_fill(lane < 0, instead)

    station, beside_scale = others(cars.station), cars.beside_scale.gather(1, me.slots).t()
    lane = others(cars.lane).float().masked_fill(gone, -2.0)
    beside = others(cars.beside).float().masked_fill(gone, -2.0)
    past = others(cars.previous).float().masked_fill(gone, -2.0)
    at_beside = station * others(cars.beside_scale)
    mine, one, two = me.lane.float(), known(me.one, -3.0), known(me.two, -3.0)
    touched = known(cars.beside.gather(1, me.slots).t(), -3.0)
    came = known(cars.previous.gather(1, me.slots).t(), -3.0)
    rest_two = me.rest + tables.lanes[:, OfLane.LENGTH].take(me.one.clamp(min=0))
    pairs = (
        (beside, mine, at_beside, -me.station),
        (beside, one, at_beside, me.rest),
        (lane, mine, station, -me.station),
        (past, mine, station, me.rest),
        (lane, one, station, me.rest),
        (lane, two, station, rest_two),
        (lane, touched, station, -me.station * beside_scale),
        (past, came, station, -me.station),
    )
    distance = torch.empty(len(pairs), *me.lane.shape[:1], *station.shape, device=station.device)
    for out, (theirs, wanted, place, base) in zip(distance, pairs, strict=True):
        other = theirs - wanted[:, None]
        torch.add(place, base[:, None], out=out).addcmul_(other, other, value=NOTHING)
    for part, least in ((distance[:2], ALONGSIDE), (distance[2:], 0.01)):
        part.add_((least - part).clamp_(min=0), alpha=100 * NOTHING)
    nearest, leader = distance.amin(0).min(1)

    nobody = nearest >= NOTHING / 2
    leader = torch.where(nobody, me.slots.t(), leader)
    length = cars.length.gather(1, leader.t()).t()
    gap = nearest - me.half - 0.5 * length + me.odometer - cars.odometer.gather(1, leader.t()).t()
    return leader, gap.masked_fill(nobody, torch.inf)


def _at_line(state: State, arena: Arena, me: Lookers) -> Tensor:
    """Return the metres to the lane's end where a signal, a sign or the lane's drop stops the lookers, [K, W]."""
    cars, front = state.vehicles, me.front
    light = lights(arena, me.row[..., OfLane.GROUP].long(), state.clocks.seconds())
    stop = me.row[..., OfLane.CONTROL] == Control.STOP
    halted = cars.halted.gather(1, me.slots).t() | (stop & (me.speed < 0.3) & (front < 3.5))
    held = (light == Light.RED) | (stop & ~halted)
    cars.halted.scatter_(1, me.slots, halted.t())
    cars.coming.scatter_(1, me.slots, ~held.t())
    stopping = torch.isfinite(cars.stop_at.gather(1, me.slots).t())
    late = (light == Light.YELLOW) & (me.speed.square() < torch.where(stopping, STOPPING, STOPPABLE) * front)
    stops = ((held | late) & (front > -me.half)) | (me.row[..., OfLane.DROPS] > 0)
    return torch.where(stops, front, NOTHING)


def _for_others(state: State, tables: Tables, rows: Tensor, me: Lookers) -> Tensor:
    """Return the metres to where lookers wait for vehicles that cross or merge, [K, W].

    On the lane before a junction they wait at its end, inside they wait before the stretch that both may touch.
    """
    cars = state.vehicles
    inside = tables.number.take(me.lane) > 0
    entering = ~inside & (tables.lanes[:, OfLane.JUNCTION].take(me.one.clamp(min=0)) > 0) & (me.one >= 0)
    along = torch.where(inside, me.station, -me.rest)
    enter, waiting = _conflicts(state, tables, rows, me, inside, along)
    nearest = torch.where(waiting, enter, NOTHING).amin(1)

    at_line = entering & (me.front > me.speed.square() / 16) & (me.front > -1.5)
    block = (cars.speed < 1.0) & (cars.station < EXIT) & cars.alive
    exits = cars.lane.masked_fill(~block, -2).t()
    full = (exits == me.two[:, None]).any(1)
    stop = torch.where(at_line, me.front, nearest - 0.5)
    return torch.where((nearest < NOTHING / 2) | (full & at_line), stop, NOTHING)


def _conflicts(
    state: State, tables: Tables, rows: Tensor, me: Lookers, inside: Tensor, along: Tensor
) -> tuple[Tensor, Tensor]:
    """Return where the stretch begins that a looker and another may touch, and whether it waits for that other.

    Both are [K, 2 A, W], of every other as on its lane and as on the way to its next one; the first is in metres from
    the bumper. A looker waits for who is in the stretch; for who has the right of way and would come before it is
    clear; and once both are in the junction, for who is earlier by far.

    Args:
        state: Worlds.
        tables: Of their arena.
        rows: Of all vehicles' lanes.
        me: The lookers.
        inside: [K, W] bool: they are in a junction.
        along: [K, W] where they are on their lane in the junction, negative before it.
    """
    cars = state.vehicles

    def others(first: Tensor, second: Tensor) -> Tensor:
        return torch.cat((first.t(), second.t()))

    def gate(condition: Tensor) -> Tensor:
        return condition.float().sub_(0.5).mul_(NOTHING)

    following = cars.ahead[..., 0]
    exists = others(cars.alive, cars.alive & (following >= 0))
    theirs = tables.number.take(others(cars.lane, following.clamp(min=0))) * exists
    number = tables.number.take(torch.where(inside, me.lane, me.one.clamp(min=0)))
    base = (state.clocks.map * tables.numbers + number) * tables.numbers
    pair = tables.pairs.index_select(0, (base[:, None] + theirs).flatten())
    shape = (len(number), *theirs.shape)
    begin, end, their_begin, their_end = (zone.index_select(0, pair).view(shape) for zone in tables.zones)
    order = tables.order.index_select(0, pair).view(shape)

    length = rows[..., OfLane.LENGTH]
    there, half = others(cars.station, cars.station - length), others(cars.length, cars.length) * 0.5
    speed = others(cars.speed, cars.speed)
    enter, leave = begin.sub_((along + me.half)[:, None]), end.sub_((along - me.half)[:, None])
    their_enter, their_leave = their_begin.sub_(there + half), their_end.sub_(there - half)
    their_time = their_enter * (1 / speed.clamp(min=1.0))
    time = enter * (1 / me.speed.clamp(min=1.0))[:, None]
    clear = leave * (1 / me.speed.clamp(min=4.0))[:, None]

    inner = others(torch.ones_like(cars.alive), torch.zeros_like(cars.alive))
    coming = others(cars.alive, cars.coming)
    moving = gate(coming & (speed > 0.2)).maximum(gate(coming) + gate(me.chance < 0.8)[:, None] - NOTHING / 4)
    apart = (1.5 - inner.float() - inside.float()[:, None]) * NOTHING
    yields = (clear + SPARE - their_time).minimum((order - 0.5) * NOTHING).minimum(moving).minimum(apart)
    earlier = time - their_time + DOUBT * order
    asked = gate(inside)[:, None].maximum(gate(speed > 1.5).minimum((0.5 - order) * NOTHING))
    ordered = earlier.minimum(gate(inner)).minimum(asked)
    waits = yields.maximum(ordered).maximum(0.01 - their_enter)
    return enter, waits.minimum(leave).minimum(their_leave).minimum(enter) > 0


def _for_walkers(state: State, arena: Arena, tables: Tables, me: Lookers) -> Tensor:
    """Return the metres to the nearest crosswalk ahead on which somebody walks, [K, W]."""
    walkers = state.walkers
    if not walkers.x.shape[1]:
        return torch.full_like(me.rest, NOTHING)
    most = tables.most_crosswalks
    first = arena.crosswalk_range[:, 0].take(state.clocks.map)
    busy = torch.zeros(state.worlds, most, device=me.station.device)
    busy.scatter_add_(1, (walkers.crosswalk - first[:, None]).clamp(0, most - 1), walkers.walking.float())
    lane = torch.stack((me.lane, me.one.clamp(min=0)))
    crossing = arena.crossing[lane]
    base = torch.stack((-me.station, me.rest.masked_fill(me.one < 0, NOTHING)))
    away = arena.crossing_at[lane] + (base - me.half - 1.5)[..., None]
    local = (crossing - first[:, None]).clamp(0, most - 1)
    offset = most * torch.arange(state.worlds, device=lane.device)[:, None]
    blocked = (busy.take(local + offset) > 0) & (crossing >= 0) & (away > -1.0)
    return torch.where(blocked, away, NOTHING).amin((0, 3))
