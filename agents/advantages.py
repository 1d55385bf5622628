"""Advantages, as pure functions: GAE with true last views, and groups."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    mask: Tensor,
    discount: float,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and value targets (Schulman et al. 2016), each [T, B].

    δ_t = r_t + γ V'_t (1 - terminated_t) - V_t, and A_t = δ_t + γ λ A_{t+1} unless the episode ended at t.

    Args:
        reward: [T, B].
        value: [T, B], V of what slot t saw.
        next_value: [T, B], V'_t of what followed slot t: the episode's true last view where it ended there, the
            next slot's view elsewhere. A time limit therefore bootstraps, a termination does not.
        terminated: [T, B] bool.
        truncated: [T, B] bool.
        mask: [T, B] bool; a slot without a known outcome (its world broke, or the row has fewer slots) has
            advantage 0 and passes nothing back; the slot before it bootstraps from its value.
        discount: γ, a decision.
        decay: λ.
    """
    advantage = torch.zeros_like(value)
    carried = torch.zeros_like(value[0])
    nothing = torch.zeros_like(carried)
    goes_on = (~(terminated | truncated)).to(value.dtype)
    for t in range(len(reward) - 1, -1, -1):
        # Chosen, not multiplied by zero: what a broken world or a view that does not count says may be NaN.
        following = torch.where(terminated[t], nothing, next_value[t])
        error = reward[t] + discount * following - value[t]
        carried = torch.where(mask[t], error + discount * decay * goes_on[t] * carried, nothing)
        advantage[t] = carried
    return advantage, advantage + value


def normalise(advantage: Tensor, mask: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Return the advantages with mean 0 and standard deviation 1 over the masked slots, 0 elsewhere.

    Args:
        advantage: Any shape.
        mask: Bool, broadcast to it.
        epsilon: Guards the division.
    """
    known = mask.expand_as(advantage)
    nothing = torch.zeros_like(advantage)
    count = known.sum().clamp(min=1)
    mean = torch.where(known, advantage, nothing).sum() / count
    centred = torch.where(known, advantage - mean, nothing)
    return centred / ((centred**2).sum().div(count).sqrt() + epsilon)


def group_advantage(
    score: Tensor, group: int, keep: tuple[float, float] | None = None, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Return GRPO's advantages and which trajectories to keep, each [N].

    A = (score - mean) / (std + ε) within each group of consecutive trajectories that started alike
    (Shao et al. 2024). A group whose scores are all equal gets zeros.

    Args:
        score: [N], one a trajectory.
        group: Trajectories in a group; N is a multiple of it.
        keep: Drop groups whose mean score lies outside [low, high] (π_RL keeps [.1, .9]); None keeps all.
        epsilon: Guards the division.
    """
    if score.numel() % group:
        raise ValueError(f"{score.numel()} trajectories do not divide into groups of {group}.")
    grouped = score.reshape(-1, group)
    mean = grouped.mean(1, keepdim=True)
    std = grouped.std(1, unbiased=False, keepdim=True)
    # The mean of equal numbers may differ from them by a rounding error, which the division would blow up.
    equal = grouped.amax(1, keepdim=True) == grouped.amin(1, keepdim=True)
    advantage = torch.where(equal, torch.zeros_like(grouped), (grouped - mean) / (std + epsilon))
    kept = torch.ones_like(grouped, dtype=torch.bool)
    if keep is not None:
        # A mean of .3 summed in float32 must not fall out of [.3, .9].
        kept &= (mean >= keep[0] - 1e-6) & (mean <= keep[1] + 1e-6)
    return advantage.flatten(), kept.flatten()
