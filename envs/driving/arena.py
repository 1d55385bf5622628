"""What a set of maps compiles to: flat arrays, on the worlds' device, that thousands of worlds read at once.

Conventions: metres, seconds, radians; x to the east, y to the north, yaw counter-clockwise from x. A lane is a chain
of points about `SPACING` apart; a position on it is (lane, station), the station being metres from the lane's start.
"Left" and "right" are the driver's. All indices are global over the arena; -1 means none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag

import torch
from torch import Tensor

SPACING = 1.0
"""Metres between the points of a lane, about: each lane divides its length evenly. Exact for routes."""
PIXELS_A_METRE = 4
"""Resolution of the baked textures."""


class Control(IntEnum):
    """What a driver meets at the end of a lane."""

    NONE = 0
    SIGNAL = 1
    STOP = 2
    YIELD = 3


class Command(IntEnum):
    """Navigation, in the order of Found-RL's prompts."""

    LEFT = 0
    RIGHT = 1
    STRAIGHT = 2
    FOLLOW = 3
    CHANGE_LEFT = 4
    CHANGE_RIGHT = 5


class Ground(IntFlag):
    """Bits of a texture's pixel."""

    ROAD = 1
    SOLID = 2
    BROKEN = 4
    STOP_LINE = 8
    CROSSWALK = 16
    JUNCTION = 32


@dataclass(frozen=True, slots=True)
class Arena:
    """M maps, L lanes, P points, R routes, G signal groups, X crosswalks."""

    # Points of lanes, lane after lane.
    position: Tensor
    """[P, 2] float32."""
    yaw: Tensor
    """[P] float32, of the lane's direction."""
    curvature: Tensor
    """[P] float32, 1/m, positive to the left."""
    half_width: Tensor
    """[P] float32: from the centre line to the lane's edge."""
    limit: Tensor
    """[P] float32: speed limit, m/s."""

    # Lanes.
    lane_map: Tensor
    """[L] int64."""
    first: Tensor
    """[L] int64: index of the lane's first point."""
    count: Tensor
    """[L] int64: how many points it has, at least 2."""
    length: Tensor
    """[L] float32; its points are length / (count - 1) apart."""
    successors: Tensor
    """[L, 3] int64: lanes that begin where this one ends, those that exist first."""
    left: Tensor
    """[L] int64: the lane beside it, in the same direction, that one may change to at the same share of the length."""
    right: Tensor
    """[L] int64."""
    junction: Tensor
    """[L] bool: it leads through a junction; nobody starts or changes lanes there."""
    control: Tensor
    """[L] int64, a `Control`: what rules its end, where the stop line is."""
    signal: Tensor
    """[L] int64: the group of the signal at its end."""
    conflict: Tensor
    """[L, C] int64: lanes that cross it or merge into it inside a junction."""
    conflict_here: Tensor
    """[L, C, 2] float32: stations of this lane between which both may touch."""
    conflict_there: Tensor
    """[L, C, 2] float32: the same stretch in stations of the other lane."""
    gives_way: Tensor
    """[L, C] bool: this lane waits for the other where no signal rules between them."""
    crossing: Tensor
    """[L, W] int64: crosswalks that it crosses."""
    crossing_at: Tensor
    """[L, W] float32: their stations."""

    # Signals. A group is green for `green` seconds from `start` on in each cycle, then yellow, then red.
    cycle: Tensor
    """[G] float32, seconds."""
    start: Tensor
    """[G] float32."""
    green: Tensor
    """[G] float32."""
    yellow: Tensor
    """[G] float32."""

    # Crosswalks.
    crosswalk: Tensor
    """[X, 2, 2] float32: its two ends, on the kerbs."""
    crosswalk_map: Tensor
    """[X] int64."""

    # Routes for the ego: dense points, exactly `SPACING` apart, lane changes drawn as smooth shifts.
    route_map: Tensor
    """[R] int64."""
    route_count: Tensor
    """[R] int64: how many of the Q points are the route's; the rest repeat its last."""
    route_position: Tensor
    """[R, Q, 2] float32."""
    route_yaw: Tensor
    """[R, Q] float32."""
    route_curvature: Tensor
    """[R, Q] float32."""
    route_limit: Tensor
    """[R, Q] float32."""
    route_half_width: Tensor
    """[R, Q] float32."""
    route_lane: Tensor
    """[R, Q] int64: the lane that the point lies on."""
    route_station: Tensor
    """[R, Q] float32: its station there."""
    route_command: Tensor
    """[R, Q] int64, a `Command`: what the navigation says there, from 30 m before a manoeuvre to its end."""

    # Maps.
    lane_range: Tensor
    """[M, 2] int64: first lane of a map and the one after its last; lanes of a map are contiguous."""
    route_range: Tensor
    """[M, 2] int64."""
    crosswalk_range: Tensor
    """[M, 2] int64."""
    texture: Tensor
    """Flat uint8, `Ground` bits, map after map, row-major, row 0 at the south. Every map's border pixels are 0."""
    texture_first: Tensor
    """[M] int64."""
    texture_shape: Tensor
    """[M, 2] int64: rows and columns."""
    texture_origin: Tensor
    """[M, 2] float32: x and y of the south-west corner of pixel (0, 0)."""
    spawn_lane: Tensor
    """[S] int64: where traffic may start, map after map; not in junctions, at least 10 m apart on a lane."""
    spawn_station: Tensor
    """[S] float32."""
    spawn_range: Tensor
    """[M, 2] int64."""

    def to(self, device: torch.device | str) -> Arena:
        """Return the arena on another device."""
        return Arena(*(getattr(self, entry.name).to(device) for entry in fields(self)))

    @property
    def maps(self) -> int:
        """How many maps there are."""
        return len(self.lane_range)
