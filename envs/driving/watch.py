"""What drivers see when they look: whom to follow, and where to stop for signals, signs, others and walkers.

Each step only some drivers of a world look, in turn; every driver does so at least every `PERIOD` steps. Tensors of
pairs are [K, A, W], so that inner loops run over worlds, and conditions on them are sums of large numbers rather than
masks: both are several times faster on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena, Control
from palaestra.envs.driving.state import REALS, Light, State, lights
from palaestra.envs.driving.tables import OfLane, Tables
from palaestra.envs.driving.traffic import successor

LEADER_GAP = REALS.index("leader_gap")
PERIOD = 8
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
KERB = 2.0
"""Metres before the middle of a crosswalk at which cars stop."""
EXIT = 9.0
"""Metres of the lane behind a junction that must not be blocked for one to enter it."""


@dataclass(slots=True)
class Lookers:
    """K drivers of each world, and what is known of them; [K, W] where not said."""

    slots: Tensor
    """[W, K]"""
    row: Tensor
    """[11, K, W], of their lanes; see `tables.OfLane`."""
    reals: Tensor
    """[17, K, W], see `state.REALS`."""
    lane: Tensor
    one: Tensor
    """The next lane, or -1."""
    two: Tensor
    """The one after that, or -1."""
    previous: Tensor
    beside: Tensor
    halted: Tensor
    chance: Tensor
    """In [0, 1)."""
    station: Tensor = field(init=False)
    speed: Tensor = field(init=False)
    half: Tensor = field(init=False)
    """Half a car's length."""
    odometer: Tensor = field(init=False)
    rest: Tensor = field(init=False)
    """Metres from the middle to the lane's end."""
    front: Tensor = field(init=False)
    """Metres from the bumper to the lane's end."""

    def __post_init__(self) -> None:
        self.station, self.speed, self.odometer = (self["station"], self["speed"], self["odometer"])
        self.half = 0.5 * self["length"]
        self.rest = self.row[OfLane.LENGTH] - self.station
        self.front = self.rest - self.half

    def __getitem__(self, name: str) -> Tensor:
        return self.reals[REALS.index(name)]


def slots_of(tick: Tensor, drivers: int, count: int) -> Tensor:
    """Return which vehicles look at a tick [W]: [W, count] int64, in turn among 1 to `drivers`."""
    return (tick[:, None] * count + torch.arange(count, device=tick.device)) % drivers + 1


def look(state: State, arena: Arena, tables: Tables, rows: Tensor, slots: Tensor, chance: Tensor) -> None:
    """Let some drivers look round.

    Args:
        state: Worlds; what the drivers at `slots` hold is overwritten.
        arena: The maps.
        tables: Of the arena.
        rows: What `traffic.lane_rows` returned.
        slots: [W, K] int64: which vehicles look.
        chance: [W, K] in [0, 1).
    """
    cars = state.vehicles
    me = _lookers(state, arena, tables, rows, slots, chance)
    leader, gap = find_leader(state, tables, me)
    at_line, halted, coming = _at_line(state, tables, me)
    target = torch.minimum(at_line, _for_walkers(state, arena, tables, me))
    if tables.numbers > 1:
        target = torch.minimum(target, _for_others(state, tables, rows, me))
    stop = (me.odometer + target).masked_fill(target >= NOTHING / 2, torch.inf)

    def put(pool: Tensor, *values: Tensor) -> None:
        pool.scatter_(2, slots.expand(len(pool), *slots.shape), torch.stack(values).transpose(1, 2))

    put(cars.reals[LEADER_GAP : LEADER_GAP + 2], gap, stop)
    put(cars.wholes[1:3], me.one, me.two)
    put(cars.wholes[5:], leader)
    put(cars.flags[1:], halted, coming)


def _lookers(state: State, arena: Arena, tables: Tables, rows: Tensor, slots: Tensor, chance: Tensor) -> Lookers:
    """Collect what is known of the lookers, and choose their ways on."""
    cars = state.vehicles

    def mine(pool: Tensor) -> Tensor:
        return pool.gather(2, slots.expand(len(pool), *slots.shape)).transpose(1, 2).contiguous()

    lane, one, two, previous, beside, _ = mine(cars.wholes).unbind()
    chance = chance.t()
    one = torch.where(one < 0, successor(arena, tables, lane, chance), one)
    two = torch.where(two < 0, successor(arena, tables, one, chance * 8191 % 1), two)
    row = rows.gather(1, slots[..., None].expand(-1, -1, rows.shape[2])).permute(2, 1, 0).contiguous()
    halted = cars.halted.gather(1, slots).t()
    return Lookers(slots, row, mine(cars.reals), lane, one, two, previous, beside, halted, chance)


def find_leader(state: State, tables: Tables, me: Lookers) -> tuple[Tensor, Tensor]:
    """Return the nearest vehicle ahead on the lane, on the two after it, or cutting in: leader and held gap [K, W].

    The gap is as `Vehicles.leader_gap` has it. Others count where they are, on the lane that they touch besides, unless
    they are right beside, and at a fork also on the lane that they came from, until they are out of the way.
    """
    cars = state.vehicles
    places = cars.wholes.index_select(0, tables.places).transpose(1, 2).float()
    lane, past, beside = places.masked_fill_(~cars.alive.t(), -2.0).unbind()
    station = cars.station.t().contiguous()
    at_beside = station * cars.beside_scale.t()
    known = torch.stack((me.one, me.two, me.beside, me.previous)).float()
    one, two, touched, came = known.masked_fill_(known < 0, -3.0).unbind()
    mine, at = me.lane.float(), -me.station
    rest_two = me.rest + tables.lanes[:, OfLane.LENGTH].take(me.one.clamp(min=0))

    theirs = torch.stack((beside, beside, lane, past, lane, lane, lane, past))[:, None]
    wanted = torch.stack((mine, one, mine, mine, one, two, touched, came))[:, :, None]
    place = torch.stack((at_beside, at_beside, station, station, station, station, station, station))[:, None]
    base = torch.stack((at, me.rest, at, me.rest, me.rest, rest_two, at * me["beside_scale"], at))[:, :, None]
    other = theirs - wanted
    distance = (place + base).addcmul_(other, other, value=NOTHING)
    for part, least in ((distance[:2], ALONGSIDE), (distance[2:], 0.01)):
        part.add_((least - part).clamp_(min=0), alpha=100 * NOTHING)
    nearest, leader = distance.amin(0).min(1)

    nobody = nearest >= NOTHING / 2
    leader = torch.where(nobody, me.slots.t(), leader)
    index = leader.t()
    theirs = torch.addcmul(cars.odometer, cars.length, cars.length.new_full((), 0.5)).gather(1, index)
    gap = nearest - me.half + me.odometer - theirs.t()
    return leader, gap.masked_fill(nobody, torch.inf)


def _at_line(state: State, tables: Tables, me: Lookers) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the lane's end means to the lookers, [K, W] each.

    That is the metres to it where a signal, a sign or the lane's drop stops them, whether they have stood at the sign,
    and whether nothing holds them there.
    """
    front = me.front
    light, _ = lights(tables.signals, me.row[OfLane.GROUP].long(), state.clocks.seconds())
    stop = me.row[OfLane.CONTROL].eq(Control.STOP)
    halted = me.halted | (stop & (me.speed < 0.3) & (front < 3.5))
    held = light.eq(Light.RED) | (stop & ~halted)
    stopping = torch.isfinite(me["stop_at"])
    late = light.eq(Light.YELLOW) & (me.speed.square() < torch.where(stopping, STOPPING, STOPPABLE) * front)
    stops = ((held | late) & (front > -me.half)) | (me.row[OfLane.DROPS] > 0)
    return torch.where(stops, front, NOTHING), halted, ~held


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

    following = cars.following
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
    waits = yields.maximum(ordered).maximum(1e-6 - their_enter)
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
    away = arena.crossing_at[lane] + (base - me.half - KERB)[..., None]
    local = (crossing - first[:, None]).clamp(0, most - 1)
    offset = most * torch.arange(state.worlds, device=lane.device)[:, None]
    blocked = (busy.take(local + offset) > 0) & (crossing >= 0) & (away > -1.0)
    return torch.where(blocked, away, NOTHING).amin((0, 3))
