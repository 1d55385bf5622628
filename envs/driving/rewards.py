"""Rewards: Found-RL's, which are Roach's, and a plain one for the way made."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.rules import Infraction, Verdict
from palaestra.envs.driving.state import Light, State
from palaestra.envs.driving.surroundings import Surroundings
from palaestra.envs.driving.tables import OfRoute

SIGHT = 9.5
"""Metres within which vehicles and walkers ahead are hazards."""
LIGHT_SIGHT = 18.0
"""Metres within which a red or yellow light is one."""
_SIDE = math.cos(math.radians(45))
_OPPOSED = math.cos(math.radians(150))


def slowed(distance: Tensor, keep: float) -> Tensor:
    """Return the share of the cruising speed that suits a hazard: 0 at `keep` metres, 1 from 5 metres further on."""
    return (distance - keep).clamp(0, 5) / 5


def wanted_share(state: State, around: Surroundings, row: Tensor, light: Tensor) -> Tensor:
    """Return the share of the cruising speed that Roach's hazards leave, [W] float32 in [0, 1].

    Vehicles within 9.5 m and 45° that do not head the other way; walkers within 9.5 m in a cone that narrows with
    distance; a red or yellow light within 18 m; a stop sign at which the ego has yet to stand.

    Args:
        state: Worlds.
        around: The egos' surroundings.
        row: [W, 23] the routes' rows.
        light: [W] int64, a `Light`: what the next signal shows.
    """
    away = (around.forward.square() + around.left.square()).sqrt()
    ahead = (around.forward > _SIDE * away) & (around.cos > _OPPOSED) & (away <= SIGHT)
    share = slowed(torch.where(ahead, away, 100.0).amin(1), 8.0)
    if around.walker_forward.shape[1]:
        walk = (around.walker_forward.square() + around.walker_left.square()).sqrt()
        cone = torch.deg2rad(162 / (walk.clamp(1.5, 10.5) + 0.3))
        facing = around.walker_forward > torch.cos(cone) * walk
        share = torch.minimum(share, slowed(torch.where(facing & (walk <= SIGHT), walk, 100.0).amin(1), 6.0))
    line = row[:, OfRoute.LINE] - state.ego.progress
    halt = ((light.eq(Light.RED) | light.eq(Light.YELLOW)) & (line < LIGHT_SIGHT)) | (
        row[:, OfRoute.CONTROL].eq(Control.STOP) & ~state.ego.halted & (line > 0)
    )
    return torch.minimum(share, slowed(torch.where(halt, line, 100.0), 5.0))


def found_rl(
    state: State, share: Tensor, verdict: Verdict, ended: Tensor, steered: Tensor, cruise: float
) -> Tensor:
    """Return Found-RL's reward, at most 1 a step, [W] float32.

    1 - |v - v*| / cruise - |lateral| / 2 - |heading| - 0.1 where the steering changed - 1 at an end other than
    arrival - v at an infraction.

    Args:
        state: Worlds after the step.
        share: What `wanted_share` returned; v* = share · cruise.
        verdict: Of the rules.
        ended: [W] bool: the episode ended badly.
        steered: [W] float32: by how much the steering action changed.
        cruise: m/s; Roach's is 6.
    """
    speed = state.vehicles.speed[:, 0]
    reward = 1 - (speed - share * cruise).abs() / cruise
    reward = reward - 0.5 * state.ego.lateral.abs() - state.ego.heading.abs() - 0.1 * (steered.abs() > 0.01)
    wrong = verdict.infractions.any(1)
    return reward - ended.float() - speed * wrong


def completion(progress: Tensor, length: Tensor, verdict: Verdict, ended: Tensor) -> Tensor:
    """Return a plain reward: the share of the route made in this step in percent, -5 at an infraction or bad end.

    Args:
        progress: [W] float32: metres made in the step.
        length: [W] float32: of the routes.
        verdict: Of the rules.
        ended: [W] bool: the episode ended badly.
    """
    wrong = verdict.infractions.any(1) | ended
    return 100 * progress / length - 5.0 * wrong


__all__ = ["Infraction", "completion", "found_rl", "slowed", "wanted_share"]
