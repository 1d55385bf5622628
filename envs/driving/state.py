"""What W driving worlds are at one moment: arrays with one row a world, on one device.

Vehicle 0 of each world is the ego. Vehicles and walkers that do not exist stand at (`FAR`, `FAR`), so that no
distance test needs a mask. All tensors are written in place or replaced whole by `step`; a reader looks at them between
two steps and keeps copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import IntEnum

import torch
from torch import Tensor

DT = 0.1
"""Seconds a step."""
FAR = 1e5
"""Metres: where things stand that do not exist."""
FRAMES = 17
"""How many moments the past holds: now and the 16 steps before."""


class Light(IntEnum):
    """What a signal shows, in the numbers of Found-RL's state."""

    NONE = 0
    RED = 1
    YELLOW = 2
    GREEN = 3


@dataclass(slots=True)
class Clocks:
    """What belongs to a world as a whole."""

    seed: Tensor
    """[W] int64: well-mixed 32-bit key of the episode; all chance is a function of it and of `tick`."""
    tick: Tensor
    """[W] int64: steps since the start."""
    shift: Tensor
    """[W] float32: seconds by which the signals' cycles are ahead."""
    map: Tensor
    """[W] int64."""
    route: Tensor
    """[W] int64: the ego's."""

    def seconds(self) -> Tensor:
        """Return the signals' time, [W] float32."""
        return self.tick * DT + self.shift


REALS = (
    *("x", "y", "yaw", "cos", "sin", "allowed"),
    *("acceleration", "speed", "odometer", "station", "offset"),
    *("length", "width", "beside_scale", "leader_gap", "stop_at", "temper"),
)
WHOLES = ("lane", "following", "later", "previous", "beside", "leader")
FLAGS = ("alive", "halted", "coming")


@dataclass(slots=True)
class Vehicles:
    """A vehicles a world; number 0 is the ego, the others are drivers on rails along lanes.

    The first three hold all the others, which are views of them and are only written in place: so that drivers are
    picked out and put back with one operation for each kind of number.
    """

    reals: Tensor
    """[17, W, A] float32, in the order of `REALS`."""
    wholes: Tensor
    """[6, W, A] int64, in the order of `WHOLES`."""
    flags: Tensor
    """[3, W, A] bool, in the order of `FLAGS`."""

    x: Tensor = field(init=False)
    """[W, A] float32, of the middle of the box."""
    y: Tensor = field(init=False)
    """[W, A] float32."""
    yaw: Tensor = field(init=False)
    """[W, A] float32."""
    cos: Tensor = field(init=False)
    """[W, A] float32, of the yaw."""
    sin: Tensor = field(init=False)
    """[W, A] float32."""
    allowed: Tensor = field(init=False)
    """[W, A] float32, m/s: what limit and curves allow from here on."""
    acceleration: Tensor = field(init=False)
    """[W, A] float32, m/s²."""
    speed: Tensor = field(init=False)
    """[W, A] float32, m/s, never negative."""
    odometer: Tensor = field(init=False)
    """[W, A] float32: metres travelled."""
    station: Tensor = field(init=False)
    """[W, A] float32: where on the lane its middle is."""
    offset: Tensor = field(init=False)
    """[W, A] float32: metres to the left of the lane's centre line."""
    length: Tensor = field(init=False)
    """[W, A] float32."""
    width: Tensor = field(init=False)
    """[W, A] float32."""
    beside_scale: Tensor = field(init=False)
    """[W, A] float32: its station on the lane `beside`, as a multiple of `station`."""
    leader_gap: Tensor = field(init=False)
    """[W, A] float32: free metres to the leader, plus own odometer, less the leader's; infinite without a leader."""
    stop_at: Tensor = field(init=False)
    """[W, A] float32: the odometer at which it means to stand, infinite where the way is free."""
    temper: Tensor = field(init=False)
    """[W, A] float32: from -1, timid, to 1, aggressive."""

    lane: Tensor = field(init=False)
    """[W, A] int64."""
    following: Tensor = field(init=False)
    """[W, A] int64: the lane that it takes next, or -1."""
    later: Tensor = field(init=False)
    """[W, A] int64: the lane after that, or -1."""
    previous: Tensor = field(init=False)
    """[W, A] int64: the lane that it came from, while it is in the way of those who leave that for another; or -1."""
    beside: Tensor = field(init=False)
    """[W, A] int64: another lane that it touches, or -1."""
    leader: Tensor = field(init=False)
    """[W, A] int64: the vehicle that it follows; itself where nobody is ahead."""

    alive: Tensor = field(init=False)
    """[W, A] bool: it exists."""
    halted: Tensor = field(init=False)
    """[W, A] bool: it has stood at the stop sign that it is at."""
    coming: Tensor = field(init=False)
    """[W, A] bool: no signal or stop sign holds it before its lane's end."""

    def __post_init__(self) -> None:
        for names, pool in ((REALS, self.reals), (WHOLES, self.wholes), (FLAGS, self.flags)):
            for name, view in zip(names, pool, strict=True):
                setattr(self, name, view)


@dataclass(slots=True)
class Ego:
    """What only the ego has, one row a world."""

    pedal: Tensor
    """[W] float32: what its engine and brakes do now, as a share, in [-1, 1]."""
    steer: Tensor
    """[W] float32: where its wheels stand now, as a share, in [-1, 1], positive to the right."""
    action: Tensor
    """[W, 2] float32: the last action, clipped."""
    yaw_rate: Tensor
    """[W] float32, rad/s, positive to the left."""
    side_acceleration: Tensor
    """[W] float32, m/s², positive to the left."""
    pointer: Tensor
    """[W] int64: the nearest point of its route."""
    progress: Tensor
    """[W] float32: the furthest station that it has reached on its route, metres."""
    lateral: Tensor
    """[W] float32: metres to the left of the route."""
    heading: Tensor
    """[W] float32: its yaw less the route's, in [-π, π]."""
    halted: Tensor
    """[W] bool: it has stood at the stop sign ahead."""
    still: Tensor
    """[W] float32: seconds since it last moved."""


@dataclass(slots=True)
class Walkers:
    """B walkers a world; each belongs to a crosswalk and goes to and fro."""

    x: Tensor
    """[W, B] float32."""
    y: Tensor
    """[W, B] float32."""
    crosswalk: Tensor
    """[W, B] int64; 0 where there is none and nobody walks."""
    share: Tensor
    """[W, B] float32: where it is between the crosswalk's two ends, in [0, 1]."""
    pace: Tensor
    """[W, B] float32: metres a second when it walks; its sign is the direction in which it walks next."""
    walking: Tensor
    """[W, B] bool: it is on the road."""
    alive: Tensor
    """[W, B] bool."""


@dataclass(slots=True)
class Past:
    """The last `FRAMES` moments as a ring."""

    vehicles: Tensor
    """[FRAMES, W, A, 4] float32: x, y, cos, sin."""
    walkers: Tensor
    """[FRAMES, W, B, 2] float32: x, y."""
    cursor: int = 0
    """Where now is; `(cursor - k) % FRAMES` is k steps ago. A new episode's past repeats its start."""

    def slot(self, steps_ago: int) -> int:
        """Return where the moment so many steps ago is kept."""
        return (self.cursor - steps_ago) % FRAMES


@dataclass(slots=True)
class State:
    """W worlds."""

    clocks: Clocks
    vehicles: Vehicles
    ego: Ego
    walkers: Walkers
    past: Past

    @property
    def worlds(self) -> int:
        """How many worlds there are."""
        return len(self.clocks.seed)

    def write(self, rows: Tensor, other: State) -> None:
        """Overwrite some worlds ([N] int64) with the N worlds of another state, and their past with their present."""
        for mine, theirs in ((self.clocks, other.clocks), (self.ego, other.ego), (self.walkers, other.walkers)):
            for entry in fields(mine):
                getattr(mine, entry.name).index_copy_(0, rows, getattr(theirs, entry.name))
        for pool in ("reals", "wholes", "flags"):
            getattr(self.vehicles, pool).index_copy_(1, rows, getattr(other.vehicles, pool))
        now = other.frame()
        self.past.vehicles[:, rows] = now[0]
        self.past.walkers[:, rows] = now[1]

    def frame(self) -> tuple[Tensor, Tensor]:
        """Return what the past keeps of now: vehicles [W, A, 4] and walkers [W, B, 2]."""
        v, w = self.vehicles, self.walkers
        return torch.stack((v.x, v.y, v.cos, v.sin), 2), torch.stack((w.x, w.y), 2)

    def remember(self) -> None:
        """Turn the past by one step and put the present there."""
        self.past.cursor = (self.past.cursor + 1) % FRAMES
        v, w = self.vehicles, self.walkers
        torch.stack((v.x, v.y, v.cos, v.sin), 2, out=self.past.vehicles[self.past.cursor])
        torch.stack((w.x, w.y), 2, out=self.past.walkers[self.past.cursor])


def blank(worlds: int, vehicles: int, walkers: int, device: torch.device | str) -> State:
    """Return worlds in which nothing exists; `vehicles` counts the ego."""

    def real(*shape: int, value: float = 0.0) -> Tensor:
        return torch.full(shape, value, device=device)

    def whole(*shape: int, value: int = 0) -> Tensor:
        return torch.full(shape, value, dtype=torch.int64, device=device)

    def no(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.bool, device=device)

    w, a, b = worlds, vehicles, walkers
    cars = Vehicles(real(len(REALS), w, a), whole(len(WHOLES), w, a, value=-1), no(len(FLAGS), w, a))
    for view, value in ((cars.x, FAR), (cars.y, FAR), (cars.cos, 1.0), (cars.length, 4.5), (cars.width, 1.9)):
        view.fill_(value)
    cars.beside_scale.fill_(1.0)
    cars.leader_gap.fill_(torch.inf)
    cars.stop_at.fill_(torch.inf)
    cars.lane.fill_(0)
    cars.leader[:] = torch.arange(a, device=device)
    return State(
        Clocks(seed=whole(w), tick=whole(w), shift=real(w), map=whole(w), route=whole(w)),
        cars,
        Ego(
            pedal=real(w), steer=real(w), action=real(w, 2), yaw_rate=real(w), side_acceleration=real(w),
            pointer=whole(w), progress=real(w), lateral=real(w), heading=real(w), halted=no(w), still=real(w),
        ),
        Walkers(
            x=real(w, b, value=FAR), y=real(w, b, value=FAR), crosswalk=whole(w, b), share=real(w, b),
            pace=real(w, b, value=1.0), walking=no(w, b), alive=no(w, b),
        ),
        Past(real(FRAMES, w, a, 4, value=FAR), real(FRAMES, w, b, 2, value=FAR)),
    )


def lights(signals: Tensor, group: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
    """Return what signal groups show at a time; the shapes of groups and times broadcast.

    Args:
        signals: [G + 1, 5] float32, `tables.Tables.signals`.
        group: int64, -1 for none.
        seconds: float32.

    Returns:
        A `Light` each, int64, and the share of that phase that is still to come, float32 in (0, 1].
    """
    row = signals.index_select(0, (group + 1).flatten()).view(*group.shape, 5)
    begin, cycle, green, dark, base = row.unbind(-1)
    phase = torch.remainder(seconds - begin, cycle)
    lit, bright = phase < dark, phase < green
    end = torch.where(bright, green, torch.where(lit, dark, cycle))
    length = torch.where(bright, green, torch.where(lit, dark - green, cycle - dark))
    return base.long() + lit + bright, (end - phase) / length


def wrapped(angle: Tensor) -> Tensor:
    """Return angles in [-π, π]; unlike `atan2`, bit for bit the same at every count."""
    return angle - 2 * math.pi * (angle * (0.5 / math.pi)).round()
