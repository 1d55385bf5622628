"""Which worlds a run plays in."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WorldConfig:
    """Which worlds, and how many."""

    id: str = "toy/reach-v0"
    """Name of the world: see `palaestra list`, any Gymnasium id, or package.module:function."""
    count: int = 64
    """Worlds that are stepped in parallel."""
    chunk: int = 4
    """Actions that a decision plays before the policy looks again."""
    workers: int | None = None
    """Processes that share worlds which cannot be vectorised; the number of cores where not given."""
    device: str = "cpu"
    """Where vectorised worlds and the policy live: cpu or cuda."""
    options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Further arguments of the world itself, such as ManiSkill's control mode."""
