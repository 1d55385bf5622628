"""The policy-gradient family as four switches: advantage, level of the ratio, clip rule, aggregation; and a KL term.

Pure functions on padded tensors: N conversations of L tokens, of which `mask` says which the policy chose. What a mask
leaves out has no influence and no gradient. The names of papers are presets (`presets.py`), not losses of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Advantage = Literal[
    "grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++-baseline", "lite_ppo", "gdpo", "gigpo", "gae"
]
Ratio = Literal["token", "sequence", "product"]
Clip = Literal["clip", "dual", "cispo", "sapo"]
Aggregate = Literal["sequence", "sum", "token", "constant"]
KL = Literal["none", "k1", "k2", "k3", "unbiased", "forward"]

LARGEST_KL = 10.0
"""Bound of a token's k3, as verl and VRAG have it."""


@dataclass(frozen=True)
class Objective:
    """Which member of the family."""

    advantage: Advantage = "grpo"
    """How rewards become advantages: see `advantages.py` of this folder."""
    ratio: Ratio = "token"
    """ρ_t of each token; GSPO's ρ = exp(mean log ρ_t) of the whole conversation (Zheng et al. 2025); or exp(Σ log ρ_t),
    which takes the conversation for one action (RLOO)."""
    clip: Clip = "clip"
    """PPO's rule, with dual clip (Ye et al. 2020), CISPO (MiniMax-M1, 2025), or SAPO's soft gate (2025)."""
    low: float = 0.2
    """ε below 1."""
    high: float = 0.2
    """ε above 1, larger in clip-higher (DAPO); cispo: the largest weight itself."""
    dual: float = 3.0
    """dual: the loss of a bad token stops growing at this ratio."""
    temperatures: tuple[float, float] = (1.0, 1.05)
    """sapo: τ of good and of bad tokens."""
    aggregate: Aggregate = "sequence"
    """Mean over tokens, then conversations; sum over tokens, mean over conversations (LUSPO with ratio=sequence); mean
    over all tokens (DAPO); or sum over tokens by `length`, mean over conversations (Dr. GRPO)."""
    length: int = 64
    """constant: the divisor."""
    kl: KL = "k3"
    """Estimator of the divergence from the reference."""
    kl_weight: float = 0.01
    """β."""
    entropy: float = 0.0
    """Bonus on the mean entropy of a token."""


def log_ratio(logprob: Tensor, old: Tensor, mask: Tensor, level: Ratio) -> Tensor:
    """Return log ρ, [N, L]: each token's, or the conversation's mean or sum in all of its tokens."""
    difference = torch.where(mask, logprob - old, 0.0)
    if level == "token":
        return difference
    whole = difference.sum(1, keepdim=True)
    if level == "sequence":
        whole = whole / mask.sum(1, keepdim=True).clamp(min=1)
    return whole.expand_as(difference)


def surrogate(ratio: Tensor, advantage: Tensor, logprob: Tensor, objective: Objective) -> Tensor:
    """Return each token's loss, [N, L], to be minimised.

    Args:
        ratio: [N, L], ρ.
        advantage: [N, L].
        logprob: [N, L], log π of the tokens now; only cispo reads it.
        objective: Which clip rule.
    """
    if objective.clip == "cispo":
        return -ratio.detach().clamp(max=objective.high) * advantage * logprob
    if objective.clip == "sapo":
        good, bad = objective.temperatures
        tau = torch.where(advantage > 0, good, bad)
        return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantage
    clipped = ratio.clamp(1 - objective.low, 1 + objective.high)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    if objective.clip == "dual":
        gain = torch.where(advantage < 0, torch.maximum(gain, objective.dual * advantage), gain)
    return -gain


def clipped(ratio: Tensor, advantage: Tensor, objective: Objective) -> Tensor:
    """Return which tokens the clip rule keeps from pushing further, [N, L] bool; sapo has no such edge."""
    if objective.clip == "sapo":
        return torch.zeros_like(ratio, dtype=torch.bool)
    if objective.clip == "cispo":
        return ratio > objective.high
    outside = ((ratio > 1 + objective.high) & (advantage > 0)) | ((ratio < 1 - objective.low) & (advantage < 0))
    return outside | ((ratio > objective.dual) & (advantage < 0)) if objective.clip == "dual" else outside


def divergence(logprob: Tensor, old: Tensor, reference: Tensor, kind: KL) -> Tensor:
    """Return an estimate of each token's KL divergence between policy π and reference, [N, L] (Schulman 2020).

    With d = log π_ref - log π at a token that the old policy drew: k1 = -d, k2 = d²/2, k3 = e^d - d - 1 (cut at 10),
    "unbiased" = ρ k3, whose gradient is that of KL(π‖π_ref) off the old policy too, and "forward" =
    (π_ref / π_old) d, whose mean is KL(π_ref‖π): that one covers what the reference covers (RAPO).
    """
    d = reference - logprob
    if kind == "none":
        return torch.zeros_like(d)
    if kind == "k1":
        return -d
    if kind == "k2":
        return d.square() / 2
    if kind == "forward":
        return (reference - old).exp() * d
    k3 = (d.exp() - d - 1).clamp(max=LARGEST_KL)
    return (logprob - old).exp() * k3 if kind == "unbiased" else k3


def aggregate(value: Tensor, mask: Tensor, how: Aggregate, length: int = 1) -> Tensor:
    """Return one number of each token's [N, L], shape []; conversations in which nothing is masked in do not count."""
    kept = torch.where(mask, value, 0.0)
    lengths = mask.sum(1)
    count = (lengths > 0).sum().clamp(min=1)
    if how == "token":
        return kept.sum() / lengths.sum().clamp(min=1)
    if how == "sequence":
        return (kept.sum(1) / lengths.clamp(min=1)).sum() / count
    return kept.sum() / count / (length if how == "constant" else 1)


def loss(
    logprob: Tensor,
    old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    objective: Objective,
    reference: Tensor | None = None,
    entropy: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss, shape [], and what to watch beside it.

    Args:
        logprob: [N, L], log π of the tokens, with gradient.
        old: [N, L], the same when they were sampled.
        advantage: [N, L].
        mask: [N, L] bool: tokens that the policy chose.
        objective: Which member of the family.
        reference: [N, L], log π_ref; needed unless `objective.kl` is none.
        entropy: [N, L], with gradient; needed where the objective has a bonus on it.
    """
    ratio = log_ratio(logprob, old, mask, objective.ratio).exp()
    token = surrogate(ratio, advantage, logprob, objective)
    watched = {
        "clip_fraction": aggregate(clipped(ratio, advantage, objective).float(), mask, "token"),
        "ratio": aggregate(ratio, mask, "token"),
        "approximate_kl": aggregate(divergence(logprob, old, old, "k3"), mask, "token"),
    }
    if objective.kl != "none":
        if reference is None:
            raise ValueError(f"kl={objective.kl!r} compares with a reference policy: give its log-probabilities.")
        distance = divergence(logprob, old, reference, objective.kl)
        token = token + objective.kl_weight * distance
        watched["kl"] = aggregate(distance, mask, "token")
    if entropy is not None:
        watched["entropy"] = aggregate(entropy, mask, "token")
        token = token - objective.entropy * entropy
    elif objective.entropy:
        raise ValueError(f"the objective has an entropy bonus of {objective.entropy}: give each token's entropy.")
    return aggregate(token, mask, objective.aggregate, objective.length), watched
