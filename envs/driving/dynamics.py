"""The ego as a kinematic bicycle whose actuators lag and whose tyres hold no more than friction allows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from palaestra.envs.driving.state import DT, State, wrapped

AXLE = 1.35
"""Metres from the middle to either axle."""
LOCK = 0.7
"""Radians: the wheels' largest angle."""
STEER_RATE = 4.0
"""Shares of the lock a second."""
PEDAL_LAG = 0.2
"""Seconds: time constant of engine and brakes."""
PUSH, BRAKE = 4.0, 8.0
"""m/s²: acceleration of full throttle from rest, and of full brakes."""
TOP_SPEED = 40.0
"""m/s: where full throttle stops pushing."""
DRAG = 0.03
"""1/s: what rolling takes from the speed."""
GRIP = 0.9 * 9.81
"""m/s²: friction's limit."""
_FOLLOW = 1 - math.exp(-DT / PEDAL_LAG)


def move_ego(state: State, action: Tensor) -> None:
    """Drive the egos one step.

    The bicycle's middle moves at yaw + β, with β = atan(½ tan δ) for axles that are equally far, along an exact arc:
    ω = v sin β / `AXLE`. Where v ω would exceed what friction leaves beside the longitudinal acceleration, ω is cut
    and the car understeers. Speed does not go below 0, and a car that stands does not turn.

    Args:
        state: Worlds; column 0 of the vehicles and `ego` are overwritten.
        action: [W, 2] float32 in [-1, 1]: acceleration (throttle or, negative, brake) and steer (positive: right).
    """
    ego, cars = state.ego, state.vehicles
    speed, yaw = cars.speed[:, 0], cars.yaw[:, 0]
    ego.pedal = ego.pedal + (action[:, 0] - ego.pedal) * _FOLLOW
    turn = STEER_RATE * DT
    ego.steer = ego.steer + (action[:, 1] - ego.steer).clamp(-turn, turn)
    ego.action = action

    push = ego.pedal.clamp(min=0) * (PUSH - PUSH / TOP_SPEED * speed) + ego.pedal.clamp(max=0) * BRAKE
    after = (speed + (push - DRAG * speed) * DT).clamp(min=0)
    mean = 0.5 * (speed + after)
    forward = (after - speed) / DT

    slip = torch.atan(0.5 * torch.tan(-LOCK * ego.steer))
    hold = (GRIP**2 - forward.square()).clamp(min=0.0).sqrt()
    most = hold / mean.clamp(min=0.1)
    rate = (mean * torch.sin(slip) / AXLE).clamp(-most, most)
    slip = torch.asin((rate * AXLE / mean.clamp(min=1e-3)).clamp(-1, 1))
    half = 0.5 * DT * rate
    reach = mean * DT * torch.sinc(half / math.pi)
    way = yaw + slip + half
    yaw = wrapped(yaw + DT * rate)

    cars.x[:, 0].addcmul_(reach, torch.cos(way))
    cars.y[:, 0].addcmul_(reach, torch.sin(way))
    cars.reals[2:5, :, 0] = torch.stack((yaw, torch.cos(yaw), torch.sin(yaw)))
    cars.reals[6:8, :, 0] = torch.stack((forward, after))
    cars.odometer[:, 0].add_(mean, alpha=DT)
    ego.yaw_rate = rate
    ego.side_acceleration = rate * mean
    ego.still = (ego.still + DT) * (after < 0.1)
