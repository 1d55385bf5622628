"""Advantages of whole conversations, of their turns and of their tokens, without a critic but for one.

Conversations come in groups: `group` consecutive ones answer one prompt. A void one (its world or judge broke) is left
out: its advantage is 0 and the others are compared among themselves. A group whose scores are all equal gets zeros.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from palaestra.agents.advantages import normalise

EPSILON = 1e-6


def _moments(score: Tensor, group: int, valid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scores and validity [P, G], means [P, 1], and the number of valid members [P, 1]."""
    if score.numel() % group:
        raise ValueError(f"{score.numel()} conversations do not divide into groups of {group}.")
    kept = valid.reshape(-1, group)
    scores = torch.where(kept, score.reshape(-1, group), 0.0)
    count = kept.sum(1, keepdim=True)
    return scores, kept, scores.sum(1, keepdim=True) / count.clamp(min=1), count


def centred(score: Tensor, group: int, valid: Tensor) -> Tensor:
    """Return r - mean of the group, [N] (Dr. GRPO, Liu et al. 2025)."""
    scores, kept, mean, _ = _moments(score, group, valid)
    # The mean of equal numbers may differ from them by a rounding error, which a division would blow up.
    return torch.where(kept & ~equal_groups(score, group, valid)[:, None], scores - mean, 0.0).flatten()


def grpo(score: Tensor, group: int, valid: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return (r - mean) / (std + ε) of the group, [N], with the unbiased std (Shao et al. 2024; VRAG and TRL)."""
    difference = centred(score, group, valid).reshape(-1, group)
    count = valid.reshape(-1, group).sum(1, keepdim=True)
    std = (difference.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return (difference / (std + epsilon)).flatten()


def rloo(score: Tensor, group: int, valid: Tensor) -> Tensor:
    """Return r minus the mean of the others of the group, [N] (Kool et al. 2019, Ahmadian et al. 2024)."""
    count = valid.reshape(-1, group).sum(1, keepdim=True)
    return (centred(score, group, valid).reshape(-1, group) * count / (count - 1).clamp(min=1)).flatten()


def lite_ppo(score: Tensor, group: int, valid: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return (r - mean of the group) / (std of the batch + ε), [N] (Liu et al. 2025, "Tricks or Traps")."""
    some = score[valid]
    std = some.std() if len(some) > 1 else torch.zeros(())
    return centred(score, group, valid) / (std + epsilon)


def reinforce_baseline(score: Tensor, group: int, valid: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return r - mean of the group, whitened over the batch, [N] (REINFORCE++-baseline, Hu et al. 2025)."""
    return normalise(centred(score, group, valid), valid, epsilon)


def gdpo(parts: Tensor, weights: Tensor, group: int, valid: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return the weighted sum of each reward's own GRPO advantage, whitened over the batch, [N] (GDPO, 2026).

    Args:
        parts: [N, K], the rewards before they are weighed.
        weights: [K].
        group: Conversations that answer one prompt.
        valid: [N] bool.
        epsilon: Guards both divisions.
    """
    alone = torch.stack([grpo(part, group, valid, epsilon) for part in parts.unbind(1)], 1)
    return normalise((alone * weights).sum(1), valid, epsilon)


def reinforce_plus_plus(
    score: Tensor, valid: Tensor, mask: Tensor, kl: Tensor, kl_weight: float, discount: float = 1.0
) -> Tensor:
    """Return whitened discounted returns of tokens, [N, L] (REINFORCE++, Hu et al. 2025).

    A token earns -k KL_t, and the last one of a conversation its score besides; returns have mean 0 and standard
    deviation 1 over all tokens of the batch that the policy chose.
    """
    mask = mask & valid[:, None]
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    reward = torch.where(mask, -kl_weight * kl, 0.0) + last * torch.where(valid, score, 0.0)[:, None]
    returns, carried = torch.zeros_like(reward), torch.zeros_like(reward[:, 0])
    for t in reversed(range(reward.shape[1])):
        carried = torch.where(mask[:, t], reward[:, t] + discount * carried, carried)
        returns[:, t] = carried
    return normalise(returns, mask, EPSILON)


def gae_tokens(
    score: Tensor, value: Tensor, mask: Tensor, discount: float = 1.0, decay: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and value targets of tokens, [N, L] each, skipping what the policy did not choose.

    Walking backwards, the next value and the running sum are carried through observations unchanged: the last token
    before an observation bootstraps from the first one of the policy's after it (as in verl). Leaving that out
    silently bootstraps from the value of words that the world said.

    Args:
        score: [N], earned with the last token of each conversation.
        value: [N, L].
        mask: [N, L] bool: tokens that the policy chose.
        discount: γ, a token.
        decay: λ.
    """
    advantage = torch.zeros_like(value)
    carried, following = torch.zeros_like(score), torch.zeros_like(score)
    waiting = score
    for t in reversed(range(value.shape[1])):
        chosen = mask[:, t]
        error = waiting + discount * following - value[:, t]
        carried = torch.where(chosen, error + discount * decay * carried, carried)
        following = torch.where(chosen, value[:, t], following)
        waiting = torch.where(chosen, torch.zeros_like(waiting), waiting)
        advantage[:, t] = torch.where(chosen, carried, 0.0)
    return advantage, torch.where(mask, advantage + value, 0.0)


def step_groups(
    anchors: Sequence[Sequence[Hashable]], score: Tensor, valid: Tensor, discount: float = 0.95
) -> list[list[float]]:
    """Return the advantages of turns among all turns that began in one state (GiGPO, Feng et al. 2025), row by row.

    A turn's return is the score, earned by the last turn, discounted by the turns that were still to come. Its
    advantage is (R - mean) / (std or 1) among turns of equal anchors; a state seen once gives 0. Anchors hold what
    names the task, so turns of different prompts do not meet.
    """
    groups: dict[Hashable, list[tuple[int, int, float]]] = {}
    for row, of_row in enumerate(anchors):
        if bool(valid[row]):
            for turn, anchor in enumerate(of_row):
                worth = float(score[row]) * discount ** (len(of_row) - 1 - turn)
                groups.setdefault(anchor, []).append((row, turn, worth))
    found = [[0.0] * len(of_row) for of_row in anchors]
    for members in groups.values():
        worths = torch.tensor([worth for _, _, worth in members])
        if len(members) > 1 and bool((worths != worths[0]).any()):
            std = worths.std().item()
            for (row, turn, _), difference in zip(members, (worths - worths.mean()).tolist(), strict=True):
                found[row][turn] = difference / (std + EPSILON)
    return found


def equal_groups(score: Tensor, group: int, valid: Tensor) -> Tensor:
    """Return which groups teach nothing, [P] bool: fewer than two valid members, or all of them scored alike."""
    kept = valid.reshape(-1, group)
    scores = score.reshape(-1, group)
    low = torch.where(kept, scores, torch.inf).amin(1)
    high = torch.where(kept, scores, -torch.inf).amax(1)
    return (kept.sum(1) < 2) | (low == high)
