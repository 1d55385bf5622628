"""What DigiRL learns from what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["paper", "code"]
Loss = Literal["cross-entropy", "regression"]


@dataclass(frozen=True)
class DigiRLConfig:
    """What is learnt from what."""

    method: Literal["digirl", "filtered-bc", "awr"] = "digirl"
    """DigiRL; filtered behaviour cloning, which imitates all successes; or soft weights exp(A / beta) in place of the
    filter of steps."""
    form: Form = "paper"
    """Where the paper and its released code differ, which of them."""
    decay: float = 0.5
    """λ: how fast the outcome's weight falls with the distance to the end."""
    share: float = 0.5
    """Trajectories that the filter of instructions keeps; the paper's 0.1 starves a small buffer."""
    instruction_filter: bool = True
    """Filter trajectories online (offline the paper has none)."""
    step_filter: bool = True
    """Filter steps."""
    critic: Loss = "cross-entropy"
    """What the value functions minimise."""
    beta: float = 0.2
    """Temperature of `awr`."""
    batch: int = 32
    """Steps of an update, drawn from the kept ones with replacement."""
    fit: int = 32
    """Of them, how many are in the model at once."""
    value_rate: float = 1e-3
    """Adam's step size for the value functions."""
    offline_values: int = 200
    """Updates of each value function in the offline stage."""
    offline_updates: int = 200
    """Updates of the actor in the offline stage."""
    online_values: int = 10
    """Updates of each value function an iteration."""
    online_updates: int = 20
    """Updates of the actor an iteration."""
    clip: float = 1.0
    """Largest norm of the value functions' gradient."""
