"""What one driver a world and step does: change lanes by MOBIL, or, having left the map, come back elsewhere.

As only one driver of a world decides in a step, no two take the same gap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.state import FLAGS, REALS, WHOLES, State
from palaestra.envs.driving.tables import OfLane, OfPoint, Tables
from palaestra.envs.driving.traffic import acceleration, desired_speed, headway, pressure, standstill

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


class Driver:
    """One driver of each world, picked out of the state; each field is [W, 1] and is written back by `put`."""

    def __init__(self, state: State, slot: Tensor) -> None:
        cars = state.vehicles
        self.slot = slot
        self.pools = tuple(
            pool.gather(2, slot.expand(len(pool), *slot.shape)) for pool in (cars.reals, cars.wholes, cars.flags)
        )
        self.fields: dict[str, Tensor] = {}
        for names, pool in zip((REALS, WHOLES, FLAGS), self.pools, strict=True):
            self.fields |= dict(zip(names, pool, strict=True))

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def set(self, where: Tensor, **values: Tensor | float) -> None:
        """Overwrite fields where a condition [W, 1] holds."""
        for name, value in values.items():
            field = self.fields[name]
            if isinstance(value, Tensor):
                torch.where(where, value, field, out=field)
            else:
                field.masked_fill_(where, value)

    def put(self, state: State) -> None:
        """Write the driver back."""
        cars = state.vehicles
        for pool, mine in zip((cars.reals, cars.wholes, cars.flags), self.pools, strict=True):
            pool.scatter_(2, self.slot.expand(len(pool), *self.slot.shape), mine)


def take_turn(state: State, arena: Arena, tables: Tables, slot: Tensor, chance: Tensor) -> None:
    """Let one driver of each world change lanes, or come back.

    Args:
        state: Worlds.
        arena: The maps.
        tables: Of the arena.
        slot: [W, 1] int64: the driver.
        chance: [W, 1] in [0, 1).
    """
    me = Driver(state, slot)
    _come_back(state, arena, tables, me, chance)
    _change_lane(state, arena, tables, me)
    me.put(state)


def _change_lane(state: State, arena: Arena, tables: Tables, me: Driver) -> None:
    """Change lanes where that gains speed and endangers nobody (MOBIL with politeness 0); left and right in turn."""
    cars, speed, lane = state.vehicles, me["speed"], me["lane"]
    leftward = ((state.clocks.tick // (cars.lane.shape[1] - 1)) % 2 == 0)[:, None]
    target = torch.where(leftward, arena.left.take(lane), arena.right.take(lane))
    rows = tables.lanes.index_select(0, torch.cat((lane, target.clamp(min=0))).flatten()).view(2, *lane.shape, -1)
    here, there = rows.unbind()
    scale = there[..., OfLane.LENGTH] / here[..., OfLane.LENGTH]

    front, leader, back, follower = _neighbours(state, me, target, me["station"] * scale)
    nobody, free = front >= NOBODY / 2, back >= NOBODY / 2
    others = cars.reals[5:].gather(2, torch.cat((leader, follower), 1).expand(len(REALS) - 5, -1, 2))
    of = {name: others[at].unbind(1) for at, name in enumerate(REALS[5:])}
    temper = torch.stack((me["temper"][:, 0], of["temper"][1]), 1)
    speeds = torch.stack((speed[:, 0], of["speed"][1]), 1)
    allowed = torch.stack((me["allowed"][:, 0], of["allowed"][1]), 1)
    ahead = torch.cat((torch.where(nobody, speed, of["speed"][0][:, None]), speed), 1)
    gaps = torch.cat((front, back), 1)
    pressed = pressure(speeds, gaps, speeds - ahead, headway(temper), standstill(temper))
    then, imposed = acceleration(speeds, desired_speed(allowed, temper), pressed).split(1, 1)

    urgent = URGENT * (here[..., OfLane.DROPS] - there[..., OfLane.DROPS])
    must = urgent > 0
    rest = here[..., OfLane.LENGTH] - me["station"]
    clear = must | ((rest > CLEARANCE[0] + CLEARANCE[1] * speed) & (me["station"] > 10.0))
    wins = then - me["acceleration"] + urgent > GAIN
    room, hardest = torch.where(must, 1.0, 3.0), torch.where(must, -2 * IMPOSED, -IMPOSED)
    safe = (front > room) & (back > room) & (free | (imposed > hardest)) & (must | (then > -IMPOSED))
    closing = (speed - cars.speed.gather(1, me["leader"])).clamp(min=0)
    gap = me["leader_gap"] + cars.odometer.gather(1, me["leader"]) - me["odometer"]
    leaves = (gap > SWERVE_GAP[0] + SWERVE_GAP[1] * closing) & (me["beside"] < 0)
    go = (target >= 0) & clear & wins & safe & leaves & me["alive"]

    shift = here[..., OfLane.HALF_WIDTH] + there[..., OfLane.HALF_WIDTH]
    held = (front + me["odometer"] - of["odometer"][0][:, None]).masked_fill(nobody, torch.inf)
    me.set(
        go,
        beside=lane,  # before it is overwritten
        lane=target,
        station=me["station"] * scale,
        offset=torch.where(leftward, -shift, shift),
        beside_scale=1 / scale,
        leader=torch.where(nobody, me.slot, leader),
        leader_gap=held,
        previous=-1,
        following=-1,
        later=-1,
    )


def _neighbours(state: State, me: Driver, target: Tensor, station: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the free gap to the vehicle ahead on a lane and which it is, then the same behind; all [W, 1]."""
    cars = state.vehicles
    along, beside = cars.lane == target, cars.beside == target
    at = torch.where(along, cars.station, cars.station * cars.beside_scale)
    away = at - station + NOBODY * (~((along | beside) & cars.alive)).float()
    size = 0.5 * (cars.length + me["length"])
    front, leader = torch.where(away >= 0, away - size, NOBODY).min(1, keepdim=True)
    back, follower = torch.where(away < 0, -away - size, NOBODY).min(1, keepdim=True)
    return front, leader, back, follower


def _come_back(state: State, arena: Arena, tables: Tables, me: Driver, chance: Tensor) -> None:
    """Start again, after having left the map, if the place that is drawn is free and out of sight."""
    cars, place = state.vehicles, state.clocks.map
    first = arena.spawn_range[:, 0].take(place)[:, None]
    spawn = first + (chance * tables.spawns.take(place)[:, None]).long()
    lane, station = arena.spawn_lane.take(spawn), arena.spawn_station.take(spawn)
    row = tables.lanes.index_select(0, lane.flatten())[:, None]
    index = (row[..., OfLane.FIRST] + (station * row[..., OfLane.DENSITY]).floor()).long()
    point = tables.points.index_select(0, index.flatten())[:, None]
    square = (cars.x - point[..., OfPoint.X]).square() + (cars.y - point[..., OfPoint.Y]).square()
    free = (square.amin(1, keepdim=True) > ROOM**2) & (square[:, :1] > UNSEEN**2)
    allowed = point[..., OfPoint.SPEED]
    me.set(
        free & ~me["alive"],
        lane=lane,
        station=station,
        speed=0.8 * allowed,
        allowed=allowed,
        leader=me.slot,
        acceleration=0.0,
        offset=0.0,
        leader_gap=torch.inf,
        stop_at=torch.inf,
        beside=-1,
        previous=-1,
        following=-1,
        later=-1,
        halted=False,
        alive=True,
    )
