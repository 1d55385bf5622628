"""An episode's record, on the device, and the metrics that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from palaestra.envs.driving.state import DT, State
from palaestra.envs.driving.tables import Tables

CLASSES = ("vehicle", "walker", "static", "red_light", "stop_sign")
"""Names of the infractions, in the order of `rules.Infraction`."""
PENALTY = (0.60, 0.50, 0.65, 0.70, 0.80)
"""What each infraction leaves of the driving score (CARLA's leaderboard)."""
SUMS = ("metres", "outside", "acceleration", "side_acceleration", "jerk", "yaw_rate")
METRICS = (
    *("route_completion", "driving_score", "arrival", "success"),
    *(f"{name}_a_km" for name in CLASSES),
    *(*SUMS[2:], "speed", "time_to_collision"),
)


@dataclass(slots=True)
class Record:
    """What happened in each world's episode so far."""

    counts: Tensor
    """[W, 5] float32: infractions."""
    touching: Tensor
    """[W, 3] bool: in contact with a vehicle, with a walker, off the road."""
    sums: Tensor
    """[W, 6] float32: metres travelled, metres off the road or on its wrong side, then magnitudes, see `SUMS`."""
    closest: Tensor
    """[W] float32: the least time to collision, seconds."""
    acceleration: Tensor
    """[W] float32: of the last step."""
    arrived: Tensor
    """[W] bool."""

    @staticmethod
    def blank(worlds: int, device: torch.device | str) -> Record:
        """Return records of episodes that have just begun."""
        return Record(
            counts=torch.zeros(worlds, len(CLASSES), device=device),
            touching=torch.zeros(worlds, 3, dtype=torch.bool, device=device),
            sums=torch.zeros(worlds, len(SUMS), device=device),
            closest=torch.full((worlds,), torch.inf, device=device),
            acceleration=torch.zeros(worlds, device=device),
            arrived=torch.zeros(worlds, dtype=torch.bool, device=device),
        )

    def clear(self, rows: Tensor) -> None:
        """Begin the records of some worlds ([N] int64) anew."""
        begun = Record.blank(len(rows), rows.device)
        for entry in fields(self):
            getattr(self, entry.name).index_copy_(0, rows, getattr(begun, entry.name))

    def add(self, state: State, infractions: Tensor, outside: Tensor, arrived: Tensor, closest: Tensor) -> None:
        """Count a step.

        Args:
            state: Worlds after it.
            infractions: [W, 5] bool.
            outside: [W] bool: off the road or on its wrong side.
            arrived: [W] bool.
            closest: [W] float32: time to collision, seconds.
        """
        speed, push = state.vehicles.speed[:, 0], state.vehicles.acceleration[:, 0]
        way = speed * DT
        jerk = (push - self.acceleration) / DT
        magnitudes = (way, way * outside, push, state.ego.side_acceleration, jerk, state.ego.yaw_rate)
        self.sums = self.sums + torch.stack(magnitudes, 1).abs()
        self.counts = self.counts + infractions
        self.closest = torch.minimum(self.closest, closest)
        self.acceleration = push.clone()
        self.arrived = self.arrived | arrived

    def metrics(self, state: State, tables: Tables) -> dict[str, Tensor]:
        """Return the metrics of the episodes so far, each [W]; all float32 but `arrival` and `success` (bool).

        `route_completion`, `driving_score`: shares. `arrival`: the route was driven. `success`: and nothing went wrong.
        `<infraction>_a_km`: a kilometre of way. `acceleration`, `side_acceleration` (m/s²), `jerk` (m/s³), `yaw_rate`
        (rad/s): mean magnitudes. `speed`: mean, m/s. `time_to_collision`: the least, seconds, infinite if never.

        The driving score is completion × the share of the way inside its lanes × Π penalty^count (CARLA's).
        """
        completion = state.ego.progress / tables.route_length.take(state.clocks.route)
        metres, outside = self.sums[:, 0], self.sums[:, 1]
        inside = 1 - outside / metres.clamp(min=1e-3)
        left = torch.stack([math.log(share) * self.counts[:, at] for at, share in enumerate(PENALTY)]).sum(0)
        means = self.sums / state.clocks.tick.clamp(min=1)[:, None]
        rates = self.counts / (metres.clamp(min=1.0) / 1000)[:, None]
        numbers = (
            *(completion, completion * inside * left.exp(), self.arrived, self.success()),
            *rates.unbind(1),
            *(*means.unbind(1)[2:], means[:, 0] / DT, self.closest),
        )
        return dict(zip(METRICS, numbers, strict=True))

    def success(self) -> Tensor:
        """Return strict success, [W] bool: arrival without any infraction."""
        return self.arrived & (self.counts.amax(1) == 0)
