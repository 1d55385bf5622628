"""What the step of a world looks up in an arena, packed so that one gather fetches a row, and computed once.

Whole numbers are kept as float32 beside the others; all are far below 2²⁴, so none is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from palaestra.envs.driving.arena import SPACING, Arena, Control
from palaestra.envs.driving.state import WHOLES

SIDE = 2.0
"""m/s²: the lateral acceleration up to which drivers take a curve."""
SLOWING = 2.0
"""m/s²: how drivers slow down for a curve ahead."""
NEVER = 1e6
"""Metres: a station that is never reached."""
CAR_WIDTH = 2.2
"""Metres between centre lines at which cars pass each other."""
HALF_CAR = 2.25
"""Metres."""
LONGEST_CHANGE = 40
"""Metres within which a change of lanes reaches its middle."""
PARTING = 40
"""Metres within which lanes that begin at one place have parted."""


POINTS_AHEAD = (3, 6, 10, 15, 20, 28, 36, 45)
"""Metres ahead on the route of the points that the state vector holds."""


class OfPoint(IntEnum):
    """Columns of `Tables.points`."""

    X = 0
    Y = 1
    YAW = 2
    CURVATURE = 3
    SPEED = 4


class OfLane(IntEnum):
    """Columns of `Tables.lanes`."""

    LENGTH = 0
    DENSITY = 1
    FIRST = 2
    LAST = 3
    ENTRY = 4
    CONTROL = 5
    GROUP = 6
    JUNCTION = 7
    HALF_WIDTH = 8
    DROPS = 9
    """It ends where the lane beside it goes on."""
    PARTS = 10
    """Station up to which cars on it and on others that begin where it begins may touch."""


class OfRoute(IntEnum):
    """Columns of `Tables.routes`."""

    X = 0
    Y = 1
    YAW = 2
    CURVATURE = 3
    SPEED = 4
    """m/s that curves and limits from here on allow."""
    LIMIT = 5
    HALF_WIDTH = 6
    LANE = 7
    STATION = 8
    COMMAND = 9
    LINE = 10
    """Station on the route of the next line with a signal or a stop sign, or of one just passed."""
    CONTROL = 11
    GROUP = 12
    AHEAD = 13
    """The lane after this one, or -1."""
    CROSSWALK = 14
    CROSSWALK_AT = 15
    LEFT = 16
    RIGHT = 17
    OFFSET = 18
    """Metres to the left of the lane's centre line, while lanes are changed."""
    LATER = 19
    """The lane after the next one, or -1."""
    CHANGE = 20
    """Station on the route from which on the next change of lanes touches the other lane."""
    TARGET = 21
    """That lane, or -1."""
    BEFORE = 22
    """The lane before this one, while a car here is in the way of those who leave that for another; or -1."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What is looked up; P, L, R, Q and M as in `Arena`."""

    points: Tensor
    """[P, 5] float32, see `OfPoint`."""
    lanes: Tensor
    """[L, 11] float32, see `OfLane`."""
    ways: Tensor
    """[L] int64: how many successors a lane has."""
    routes: Tensor
    """[R · Q, 23] float32, see `OfRoute`."""
    route_points: Tensor
    """[R · Q, 2] float32: where the points are."""
    route_length: Tensor
    """[R] float32: metres, the station of the last point."""
    most: int
    """Q."""
    number: Tensor
    """[L] int64: a junction lane's number in its map, from 1 on; 0 of lanes without conflicts."""
    numbers: int
    """How many numbers the map with the most has, the 0 included."""
    pairs: Tensor
    """[M · numbers²] int64: the row of `zones` that two junction lanes of a map have; 0 for none."""
    zones: tuple[Tensor, Tensor, Tensor, Tensor]
    """[N] float32 each: where on the one lane the stretch that both may touch begins and ends, then on the other one;
    row 0 is a conflict that is always over."""
    order: Tensor
    """[N] float32: 1 where the one waits for the other, -1 where the other waits, 0 where signals part them."""
    spawns: Tensor
    """[M] int64: how many places a map has where traffic may start."""
    most_spawns: int
    """How many the map with the most has."""
    crosswalks: Tensor
    """[X, 5] float32: x, y of one end, the way to the other end in x and y, and its length."""
    most_crosswalks: int
    """How many crosswalks the map with the most has."""
    signals: Tensor
    """[G + 1, 5] float32: start, cycle, end of green, end of yellow, and 1; row 0, for no signal, shows 0 for ever."""
    places: Tensor
    """[3] int64: where `state.WHOLES` has the lanes that a vehicle may be in the way on."""
    points_ahead: Tensor
    """[8] int64: which route points ahead the state vector holds, see `POINTS_AHEAD`."""


def tabulate(arena: Arena) -> Tables:
    """Return the tables of an arena, on its device."""
    points, entry = _points(arena)
    number, numbers, pairs, zones, order = _conflicts(arena)
    lanes = _lanes(arena, entry)
    ends, spawns = arena.crosswalk, arena.spawn_range[:, 1] - arena.spawn_range[:, 0]
    way = ends[:, 1] - ends[:, 0]
    crosswalks = torch.cat((ends[:, 0], way, torch.linalg.vector_norm(way, dim=1, keepdim=True)), 1)
    if not len(crosswalks):
        crosswalks = torch.tensor([[NEVER, NEVER, 0.0, 0.0, 1.0]], device=ends.device)
    return Tables(
        points=points,
        lanes=lanes,
        ways=(arena.successors >= 0).sum(1),
        routes=_routes(arena, lanes[:, OfLane.PARTS]).flatten(0, 1).contiguous(),
        route_points=arena.route_position.flatten(0, 1).contiguous(),
        route_length=(arena.route_count - 1) * SPACING,
        most=arena.route_position.shape[1],
        number=number,
        numbers=numbers,
        pairs=pairs,
        zones=zones,
        order=order,
        spawns=spawns,
        most_spawns=int(spawns.max()),
        crosswalks=crosswalks,
        signals=_signals(arena),
        places=torch.tensor([WHOLES.index(name) for name in ("lane", "previous", "beside")], device=ends.device),
        points_ahead=torch.tensor(POINTS_AHEAD, device=ends.device),
        most_crosswalks=max(1, int((arena.crosswalk_range[:, 1] - arena.crosswalk_range[:, 0]).max())),
    )


def allowed_speed(limit: Tensor, curvature: Tensor, spacing: Tensor) -> Tensor:
    """Return the speed at each point of N padded chains [N, n] at which curves and limits further on can be met.

    Args:
        limit: [N, n] m/s.
        curvature: [N, n] 1/m.
        spacing: [N] metres between points.
    """
    speed = torch.minimum(limit, (SIDE / curvature.abs().clamp(min=1e-4)).sqrt())
    squares = speed.square()
    for index in range(speed.shape[1] - 2, -1, -1):
        later = squares[:, index + 1] + 2 * SLOWING * spacing
        squares[:, index] = torch.minimum(squares[:, index], later)
    return squares.sqrt()


def _points(arena: Arena) -> tuple[Tensor, Tensor]:
    """Return the table of points, and the speed at which each lane may be entered [L]."""
    most = int(arena.count.max())
    index = arena.first[:, None] + torch.arange(most, device=arena.first.device).clamp(
        max=(arena.count - 1)[:, None]
    )
    spacing = arena.length / (arena.count - 1)
    padded = allowed_speed(arena.limit[index], arena.curvature[index], spacing)
    speed = torch.zeros_like(arena.limit)
    speed[index.flip(1)] = padded.flip(1)  # a lane's last point is written from its own column last
    columns = (arena.position[:, 0], arena.position[:, 1], arena.yaw, arena.curvature, speed)
    return torch.stack(columns, 1), padded[:, 0]


def _lanes(arena: Arena, entry: Tensor) -> Tensor:
    """Return the table of lanes."""
    goes_on = arena.successors[:, 0] >= 0
    beside = torch.stack((arena.left, arena.right), 1)
    drops = ~goes_on & ((beside >= 0) & goes_on[beside.clamp(min=0)]).any(1)
    columns = (
        arena.length,
        (arena.count - 1) / arena.length,
        arena.first,
        arena.first + arena.count - 1,
        entry,
        arena.control,
        arena.signal,
        arena.junction,
        arena.half_width[arena.first + arena.count // 2],
        drops,
        _partings(arena),
    )
    return torch.stack([column.float() for column in columns], 1)


def _partings(arena: Arena) -> Tensor:
    """Return how far along each lane comes nearer than a car's width to another that begins at the same place, [L]."""
    reach = torch.arange(PARTING, device=arena.first.device)
    parts = torch.zeros_like(arena.length)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        pair = arena.successors[:, [one, other]]
        pair = pair[(pair >= 0).all(1)]
        index = torch.minimum(reach, arena.count[pair][..., None] - 1) + arena.first[pair][..., None]
        apart = torch.linalg.vector_norm(arena.position[index[:, 0]] - arena.position[index[:, 1]], dim=2) > CAR_WIDTH
        until = torch.where(apart.any(1), apart.int().argmax(1), PARTING).float() * SPACING
        parts.scatter_reduce_(0, pair.flatten(), until.repeat_interleave(2), "amax")
    return parts


def _routes(arena: Arena, parts: Tensor) -> Tensor:
    """Return the table of routes, [R, Q, 23]."""
    lane, station = arena.route_lane, arena.route_station
    here = torch.arange(lane.shape[1], device=lane.device).expand_as(lane)
    after = torch.cat((lane[:, 1:], lane[:, -1:]), 1)
    follows = (arena.successors[lane] == after[..., None]).any(2) & (after != lane)
    control = arena.control[lane]
    ruled = follows & ((control == Control.SIGNAL) | (control == Control.STOP))
    line, at = _next(ruled, here * SPACING + arena.length[lane] - station)
    line, at = _held(line), _held(at)
    leaves, _ = _next(follows, here.float())
    then = torch.where(leaves >= 0, after.gather(1, leaves.clamp(min=0)), -1)
    later = torch.where(leaves >= 0, then.gather(1, (leaves + 1).clamp(0, lane.shape[1] - 1)), -1)
    step = arena.crossing_at[lane] - station[..., None]
    crosses = (arena.crossing[lane] >= 0) & (step >= 0) & (step < SPACING * 1.05)
    walk, walk_at = _next(crosses.any(2), here * SPACING + torch.where(crosses, step, 0.0).amax(2))
    crosswalk = torch.where(crosses, arena.crossing[lane], -1).amax(2)
    offset = _offsets(arena)
    changes, _ = _next(~follows & (after != lane), here.float())
    leaves_lane = (offset.abs() + 0.5 * CAR_WIDTH > arena.route_half_width) & (changes >= here)
    leaves_lane = leaves_lane & (changes - here < LONGEST_CHANGE)
    begins = leaves_lane & ~torch.nn.functional.pad(leaves_lane, (1, -1))
    _, change = _next(begins, here * SPACING)
    entered = torch.where(torch.nn.functional.pad(follows, (1, -1)), here, 0).cummax(1).values
    spacing = torch.full((len(lane),), SPACING, device=lane.device)
    columns = (
        arena.route_position[..., 0],
        arena.route_position[..., 1],
        arena.route_yaw,
        arena.route_curvature,
        allowed_speed(arena.route_limit, arena.route_curvature, spacing),
        arena.route_limit,
        arena.route_half_width,
        lane,
        station,
        arena.route_command,
        at,
        torch.where(line >= 0, control.gather(1, line.clamp(min=0)), 0),
        torch.where(line >= 0, arena.signal[lane].gather(1, line.clamp(min=0)), -1),
        then,
        torch.where(walk >= 0, crosswalk.gather(1, walk.clamp(min=0)), -1),
        walk_at,
        arena.left[lane],
        arena.right[lane],
        offset,
        later,
        change,
        torch.where(changes >= 0, after.gather(1, changes.clamp(min=0)), -1),
        torch.where((entered > 0) & (station < parts[lane] + HALF_CAR), lane.gather(1, (entered - 1).clamp(min=0)), -1),
    )
    return torch.stack([column.float() for column in columns], 2)


def _signals(arena: Arena) -> Tensor:
    """Return the table of signals."""
    dark = arena.green + arena.yellow
    rows = torch.stack((arena.start, arena.cycle, arena.green, dark, torch.ones_like(dark)), 1).view(-1, 5)
    none = torch.tensor([[0.0, 1e9, -1.0, -1.0, 0.0]], device=rows.device)
    return torch.cat((none, rows.float()))


def _held(column: Tensor) -> Tensor:
    """Return a column [R, Q] one point late: the nearest point may lie beyond a line that is still ahead."""
    return torch.cat((column[:, :1], column[:, :-1]), 1)


def _offsets(arena: Arena) -> Tensor:
    """Return how far left of its lane's centre line each point of a route is, [R, Q]."""
    lane = arena.route_lane
    spacing = arena.length[lane] / (arena.count[lane] - 1)
    index = arena.first[lane] + (arena.route_station / spacing).round().long().clamp(max=arena.count[lane] - 1)
    away, yaw = arena.route_position - arena.position[index], arena.yaw[index]
    return away[..., 1] * torch.cos(yaw) - away[..., 0] * torch.sin(yaw)


def _next(mark: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return where, from each point on, the next mark is, and its value: [R, Q] int64 or -1, float32 or `NEVER`."""
    count = mark.shape[1]
    index = torch.where(mark, torch.arange(count, device=mark.device), count)
    first = index.flip(1).cummin(1).values.flip(1)
    found = first < count
    at = torch.where(found, value.gather(1, first.clamp(max=count - 1)), NEVER)
    return torch.where(found, first, -1), at


def _conflicts(
    arena: Arena,
) -> tuple[Tensor, int, Tensor, tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return `Tables.number`, `numbers`, `pairs`, `zones` and `order`."""
    device = arena.conflict.device
    lane, slot = (arena.conflict >= 0).nonzero(as_tuple=True)
    other = arena.conflict[lane, slot]
    inside = torch.zeros(len(arena.length), dtype=torch.bool, device=device)
    inside[lane] = inside[other] = True
    first = arena.lane_range[:, 0][arena.lane_map]
    count = inside.long().cumsum(0)
    before = count - inside.long()
    number = torch.where(inside, count - before[first], 0)
    numbers = int(number.max()) + 1
    pairs = torch.zeros(arena.maps * numbers**2, dtype=torch.int64, device=device)
    rows = torch.arange(1, len(lane) + 1, device=device)
    pairs[(arena.lane_map[lane] * numbers + number[lane]) * numbers + number[other]] = rows
    other_waits = ((arena.conflict[other] == lane[:, None]) & arena.gives_way[other]).any(1)
    order = arena.gives_way[lane, slot].float() - other_waits.float()
    columns = torch.cat((arena.conflict_here[lane, slot], arena.conflict_there[lane, slot]), 1).unbind(1)
    begin, end, other_begin, other_end = (torch.nn.functional.pad(column, (1, 0), value=-NEVER) for column in columns)
    return number, numbers, pairs, (begin, end, other_begin, other_end), torch.nn.functional.pad(order, (1, 0))
