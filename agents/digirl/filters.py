"""What DigiRL learns from: which trajectories, and which of their steps. Pure functions.

Equations are those of the paper (Bai et al., 2024, arXiv:2406.11896). Its released code differs in places; where a
function has a second form, `code` is what that code computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.agents.digirl.config import Form

STEP_COST = 0.05
"""The released code's threshold, whatever the horizon."""


def outcomes_to_go(rewards: Tensor, steps_left: Tensor, decay: float) -> Tensor:
    """Return λ^(H-h) · r(s_H, a_H, c): what a step's trajectory came to, discounted by how far its end was.

    Args:
        rewards: [N] 1 for each step of a trajectory that succeeded, 0 for the others.
        steps_left: [N] steps that followed in the same trajectory; 0 for its last one.
        decay: λ in [0, 1].
    """
    return rewards * decay**steps_left


def step_advantages(
    value: Tensor, next_value: Tensor, reward: Tensor, outcome: Tensor, form: Form = "paper"
) -> Tensor:
    """Return the doubly robust advantage of each step (eq. 4.3).

    A = m + (1 - m) · (V(s') + r - V(s)) with m = `outcome`: where the trajectory succeeded and its end is near, what
    happened counts; elsewhere the change of the value does. The released code sums instead,
    clamp(V(s') - V(s) - 0.05 + r + m, 0, 1), so that a last step's success counts twice.

    Args:
        value: [N] V_step(s, c), in [0, 1].
        next_value: [N] V_step(s', c); 0 behind the last step of a trajectory that ended, or its success would count
            twice (the paper leaves this open).
        reward: [N] 1 on the step on which the task succeeded.
        outcome: [N] from `outcomes_to_go`.
        form: Which of the two.

    Returns:
        [N].
    """
    if form == "code":
        return (next_value - value - STEP_COST + reward + outcome).clamp(0.0, 1.0)
    return outcome + (1 - outcome) * (next_value + reward - value)


def kept_steps(advantage: Tensor, horizon: int, form: Form = "paper") -> Tensor:
    """Return [N] bool, the steps to learn from: A > 1/H; the released code, whose A has its threshold in it, A > 0."""
    return advantage > (0.0 if form == "code" else 1 / horizon)


def instruction_advantages(success: Tensor, value: Tensor) -> Tensor:
    """Return r(s_H, a_H, c) - V_instruct(c) of trajectories [N] (eq. 4.4): unexpected success ranks first."""
    return success - value


def top_share(scores: Tensor, share: float) -> Tensor:
    """Return [N] bool: the scores that reach the (1 - share)-quantile, ties included.

    Raises:
        ValueError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be above 0 and at most 1.")
    exact = scores.double()
    return exact >= torch.quantile(exact, 1 - share)


def successes_or_all(success: Tensor, share: float) -> Tensor:
    """Return [N] bool, the trajectories that filtered behaviour cloning imitates.

    The released code keeps returns that reach the (1 - share)-quantile. With returns of 0 and 1 that is: the
    successes, unless fewer than `share` succeed; then everything, which is plain self-imitation.
    """
    enough = success.double().mean() >= share
    return success.bool() | ~enough


def advantage_weights(advantage: Tensor, temperature: float) -> Tensor:
    """Return exp(A / β), mean 1: advantage-weighted regression, in whose place DigiRL puts a hard filter.

    Raises:
        ValueError: `temperature` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive.")
    return (advantage / temperature).softmax(0) * len(advantage)
