"""Others as the ego sees them: forward and to the left of it, and which of them it touches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.envs.driving.state import FAR, State

WALKER = 0.35
"""Metres: a walker's radius."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is round the egos, in their frames; the ego itself is `FAR` away."""

    forward: Tensor
    """[W, A] float32, metres from middle to middle."""
    left: Tensor
    """[W, A] float32."""
    cos: Tensor
    """[W, A] float32, of the yaw relative to the ego's."""
    sin: Tensor
    """[W, A] float32."""
    walker_forward: Tensor
    """[W, B] float32."""
    walker_left: Tensor
    """[W, B] float32."""


def surroundings(state: State) -> Surroundings:
    """Return what is round the egos."""
    cars, walkers = state.vehicles, state.walkers
    x, y, cos, sin = cars.x[:, :1], cars.y[:, :1], cars.cos[:, :1], cars.sin[:, :1]
    away_x, away_y = cars.x - x, cars.y - y
    forward = away_x * cos + away_y * sin
    forward[:, 0] = FAR
    left = away_y * cos - away_x * sin
    walk_x, walk_y = walkers.x - x, walkers.y - y
    return Surroundings(
        forward=forward,
        left=left,
        cos=cars.cos * cos + cars.sin * sin,
        sin=cars.sin * cos - cars.cos * sin,
        walker_forward=walk_x * cos + walk_y * sin,
        walker_left=walk_y * cos - walk_x * sin,
    )


def touches_vehicle(state: State, around: Surroundings) -> Tensor:
    """Return which egos overlap another vehicle, [W] bool: no side of either box separates the two."""
    cars = state.vehicles
    long, wide = 0.5 * cars.length, 0.5 * cars.width
    own_long, own_wide = long[:, :1], wide[:, :1]
    cos, sin = around.cos.abs(), around.sin.abs()
    there = around.forward * around.cos + around.left * around.sin
    across = around.left * around.cos - around.forward * around.sin
    apart = (
        (around.forward.abs() > own_long + long * cos + wide * sin)
        | (around.left.abs() > own_wide + long * sin + wide * cos)
        | (there.abs() > long + own_long * cos + own_wide * sin)
        | (across.abs() > wide + own_long * sin + own_wide * cos)
    )
    return ~apart.all(1)


def touches_walker(state: State, around: Surroundings) -> Tensor:
    """Return which egos overlap a walker, [W] bool: a circle reaches into the box."""
    cars = state.vehicles
    beyond = (around.walker_forward.abs() - 0.5 * cars.length[:, :1]).clamp(min=0)
    aside = (around.walker_left.abs() - 0.5 * cars.width[:, :1]).clamp(min=0)
    return (beyond.square() + aside.square() < WALKER**2).any(1)


def time_to_collision(state: State, around: Surroundings) -> Tensor:
    """Return the seconds until each ego meets who is in its way if nobody brakes, [W] float32; infinite if nobody."""
    cars = state.vehicles
    gap = around.forward - 0.5 * (cars.length + cars.length[:, :1])
    closing = cars.speed[:, :1] - cars.speed * around.cos
    meets = (around.left.abs() < 0.5 * (cars.width + cars.width[:, :1])) & (gap > 0) & (closing > 0.1)
    return torch.where(meets, gap / closing, torch.inf).amin(1)
