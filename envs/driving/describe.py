"""The worlds in words: Found-RL's prompt for a vision-language model, and its captions of actions."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.driving.state import State
from palaestra.envs.driving.tables import OfRoute, Tables

TARGET = 12
"""Metres ahead on the route of the point that the prompt's forward vector leads to."""
COMMANDS = (
    "turn left at the intersection",
    "turn right at the intersection",
    "go straight at the intersection",
    "follow the current lane",
    "change to the left lane",
    "change to the right lane",
)
"""In the order of `arena.Command`."""
SPEEDS = ("currently stopped", "moving slowly", "driving at a moderate speed", "driving at a high speed")
SPEED_EDGES = (0.1, 2.0, 4.5)
"""m/s at which the next of `SPEEDS` begins."""
LONGITUDINAL = ("braking hard", "braking", "accelerating fast", "accelerating", "accelerating gently", "idling")
LATERAL = ("going straight", "turning right", "turning right sharply", "turning left", "turning left sharply")
PROMPT = (
    "You are a driving agent in a simulated environment.\n"
    "Current speed: {speed:.1f} m/s\n"
    "Forward vector: ({forward:.2f}, {right:.2f})\n"
    'Navigation command: "{command}"\n'
    'Answer with JSON only: {{"throttle": 0 to 1, "steer": -1 to 1, "brake": 0 to 1}}'
)


def describe(state: State, tables: Tables, rows: Tensor) -> list[str]:
    """Return the prompts of some worlds: speed, the way to a point of the route, and the navigation command.

    Args:
        state: Worlds.
        tables: Of their arena.
        rows: [N] int64.

    Returns:
        N texts. The forward vector is in the ego's frame, metres forward and to the right, as steering counts.
    """
    cars, ego = state.vehicles, state.ego
    base = state.clocks.route[rows] * tables.most
    point = tables.route_points[base + (ego.pointer[rows] + TARGET).clamp(max=tables.most - 1)]
    x, y = point[:, 0] - cars.x[rows, 0], point[:, 1] - cars.y[rows, 0]
    cos, sin = cars.cos[rows, 0], cars.sin[rows, 0]
    command = tables.routes[base + ego.pointer[rows], OfRoute.COMMAND]
    numbers = torch.stack((cars.speed[rows, 0], x * cos + y * sin, x * sin - y * cos, command), 1)
    return [
        PROMPT.format(speed=speed, forward=forward, right=right, command=COMMANDS[int(number)])
        for speed, forward, right, number in numbers.tolist()
    ]


def speed_bin(speed: Tensor) -> Tensor:
    """Return which of `SPEEDS` speeds in m/s are, int64."""
    return torch.bucketize(speed.contiguous(), torch.tensor(SPEED_EDGES, device=speed.device), right=True)


def longitudinal_bin(acceleration: Tensor) -> Tensor:
    """Return which of `LONGITUDINAL` actions in [-1, 1] are, int64: throttle, or below 0 brake."""
    brake = -acceleration
    bins = torch.full_like(acceleration, 5, dtype=torch.int64)
    for edge, number in ((0.05, 4), (0.3, 3), (0.8, 2)):
        bins = torch.where(acceleration > edge, number, bins)
    return torch.where(brake > 0.5, 0, torch.where(brake > 0.05, 1, bins))


def lateral_bin(steer: Tensor) -> Tensor:
    """Return which of `LATERAL` steering actions in [-1, 1] are, int64; positive is to the right."""
    sharp = (steer.abs() > 0.3).long()
    turns = torch.where(steer > 0, 1 + sharp, 3 + sharp)
    return torch.where(steer.abs() < 0.05, 0, turns)


def action_bin(action: Tensor) -> Tensor:
    """Return which of the 30 behaviours actions [N, 2] are, [N] int64: 5 · longitudinal + lateral."""
    return longitudinal_bin(action[:, 0]) * len(LATERAL) + lateral_bin(action[:, 1])


def sentence(command: int, speed: int, behaviour: int) -> str:
    """Return the caption of a command, one of `SPEEDS` and one of the 30 behaviours, all by number."""
    longitudinal, lateral = divmod(behaviour, len(LATERAL))
    return (
        f"Command is to {COMMANDS[command]}. The car is {SPEEDS[speed]}. "
        f"Action behavior: The car is {LONGITUDINAL[longitudinal]} and {LATERAL[lateral]}."
    )


def caption(command: int, speed: float, action: Tensor) -> str:
    """Return the caption of an action.

    Args:
        command: An `arena.Command`.
        speed: m/s.
        action: [2]: acceleration and steer in [-1, 1].
    """
    number = int(speed_bin(torch.tensor(speed)))
    return sentence(command, number, int(action_bin(action[None])))


def captions() -> list[str]:
    """Return all 720 captions: commands × speeds × behaviours, the last one fastest."""
    behaviours = len(LONGITUDINAL) * len(LATERAL)
    return [
        sentence(command, speed, behaviour)
        for command in range(len(COMMANDS))
        for speed in range(len(SPEEDS))
        for behaviour in range(behaviours)
    ]
