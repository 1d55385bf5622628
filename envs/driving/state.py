"""What W driving worlds are at one moment: arrays with one row a world, on one device.

Vehicle 0 of each world is the ego. Vehicles and walkers that do not exist stand at (`FAR`, `FAR`), so that no
distance test needs a mask. All tensors are written in place or replaced whole by `step`; a reader looks at them between
two steps and keeps copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena

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


@dataclass(slots=True)
class Vehicles:
    """A vehicles a world; number 0 is the ego, the others are drivers on rails along lanes."""

    x: Tensor
    """[W, A] float32, of the middle of the box."""
    y: Tensor
    """[W, A] float32."""
    yaw: Tensor
    """[W, A] float32."""
    cos: Tensor
    """[W, A] float32, of the yaw."""
    sin: Tensor
    """[W, A] float32."""
    speed: Tensor
    """[W, A] float32, m/s, never negative."""
    acceleration: Tensor
    """[W, A] float32, m/s²."""
    length: Tensor
    """[W, A] float32."""
    width: Tensor
    """[W, A] float32."""
    alive: Tensor
    """[W, A] bool: it exists."""
    allowed: Tensor
    """[W, A] float32, m/s: what limit and curves allow from here on."""

    lane: Tensor
    """[W, A] int64."""
    station: Tensor
    """[W, A] float32: where on the lane its middle is."""
    offset: Tensor
    """[W, A] float32: metres to the left of the lane's centre line."""
    beside: Tensor
    """[W, A] int64: another lane that it touches, or -1."""
    beside_scale: Tensor
    """[W, A] float32: its station on that lane, as a multiple of `station`."""
    ahead: Tensor
    """[W, A, 2] int64: the lanes that it takes next, or -1."""
    previous: Tensor
    """[W, A] int64: the lane that it came from, while it is in the way of those who leave that for another; or -1."""
    odometer: Tensor
    """[W, A] float32: metres travelled."""

    leader: Tensor
    """[W, A] int64: the vehicle that it follows; itself where nobody is ahead."""
    leader_gap: Tensor
    """[W, A] float32: free metres to the leader, plus own odometer, less the leader's; infinite without a leader."""
    stop_at: Tensor
    """[W, A] float32: the odometer at which it means to stand, infinite where the way is free."""
    halted: Tensor
    """[W, A] bool: it has stood at the stop sign that it is at."""
    coming: Tensor
    """[W, A] bool: no signal or stop sign holds it before its lane's end."""
    temper: Tensor
    """[W, A] float32: from -1, timid, to 1, aggressive."""


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
        for mine, theirs in (
            (self.clocks, other.clocks),
            (self.vehicles, other.vehicles),
            (self.ego, other.ego),
            (self.walkers, other.walkers),
        ):
            for entry in fields(mine):
                getattr(mine, entry.name).index_copy_(0, rows, getattr(theirs, entry.name))
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
    return State(
        Clocks(seed=whole(w), tick=whole(w), shift=real(w), map=whole(w), route=whole(w)),
        Vehicles(
            x=real(w, a, value=FAR), y=real(w, a, value=FAR), yaw=real(w, a), cos=real(w, a, value=1.0),
            sin=real(w, a), speed=real(w, a), acceleration=real(w, a), length=real(w, a, value=4.5),
            width=real(w, a, value=1.9), alive=no(w, a), allowed=real(w, a),
            lane=whole(w, a), station=real(w, a), offset=real(w, a), beside=whole(w, a, value=-1),
            beside_scale=real(w, a, value=1.0), ahead=whole(w, a, 2, value=-1), previous=whole(w, a, value=-1),
            odometer=real(w, a),
            leader=torch.arange(a, device=device).repeat(w, 1), leader_gap=real(w, a, value=torch.inf),
            stop_at=real(w, a, value=torch.inf), halted=no(w, a), coming=no(w, a),
            temper=real(w, a),
        ),
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


def mixed(number: Tensor) -> Tensor:
    """Return well-mixed 32-bit numbers (in int64), the same on every device: Wellons' lowbias32."""
    low = 0xFFFFFFFF
    number = (number ^ (number >> 32)) & low
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & low
    number = ((number ^ (number >> 15)) * 0x846CA68B) & low
    return number ^ (number >> 16)


def draw(seed: Tensor, counter: Tensor | int) -> Tensor:
    """Return numbers in [0, 1) that depend on a seed and a counter alone (int64, broadcast), float32."""
    return (mixed(seed + counter * 0x9E3779B9) >> 8).float() / 2**24


def lights(arena: Arena, group: Tensor, seconds: Tensor) -> Tensor:
    """Return what signal groups (int64, -1 for none) show at a time, a `Light` each; the shapes broadcast."""
    if not len(arena.cycle):
        return torch.zeros_like(group)
    at = group.clamp(min=0)
    phase = torch.remainder(seconds - arena.start[at], arena.cycle[at])
    green, yellow = arena.green[at], arena.yellow[at]
    shown = (phase < green).long() + (phase < green + yellow).long() + 1
    return torch.where(group < 0, 0, shown)


def light_rest(arena: Arena, group: Tensor, seconds: Tensor) -> Tensor:
    """Return the share of the light's present phase that is still to come, float32 in (0, 1]; 1 without a signal."""
    if not len(arena.cycle):
        return torch.ones_like(seconds)
    at = group.clamp(min=0)
    cycle, green = arena.cycle[at], arena.green[at]
    phase = torch.remainder(seconds - arena.start[at], cycle)
    dark = green + arena.yellow[at]
    begin = torch.where(phase < green, 0.0, torch.where(phase < dark, green, dark))
    end = torch.where(phase < green, green, torch.where(phase < dark, dark, cycle))
    return torch.where(group < 0, 1.0, (end - phase) / (end - begin).clamp(min=1e-3))


def wrapped(angle: Tensor) -> Tensor:
    """Return angles in [-π, π]; unlike `atan2`, bit for bit the same at every count."""
    return angle - 2 * math.pi * (angle * (0.5 / math.pi)).round()
