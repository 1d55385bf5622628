"""What a teacher's labels add to the losses: value margins, guided actions, and how both fade. Pure functions.

Written from the formulas of Found-RL (arXiv 2602.10458), with N transitions and E critics. The released code differs
from them in places; `literal` is its form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def value_margin(advised: Tensor, taken: Tensor, labelled: Tensor, margin: float, literal: bool = False) -> Tensor:
    """Return Value-Margin Regularization: the teacher's action is to be worth `margin` more than the one taken.

    Σ over critics of mean_i h_i (Q(s_i, ã_i) - sg[Q(s_i, a_i)] - m)². Only Q(s, ã) is moved.

    Args:
        advised: [E, N]: Q(s, ã); whatever it is where there is no label.
        taken: [E, N]: Q(s, a).
        labelled: [N] bool: h.
        margin: m, in units of the return.
        literal: The released form, whose mask multiplies a mean that has been taken already: rows without a label are
            moved too, towards whatever their ã is.

    Returns:
        Shape [].
    """
    square = (advised - taken.detach() - margin).square()
    if literal:
        return square.mean(1).sum() * labelled.float().mean()
    return (square * labelled).mean(1).sum()


def advice_weight(
    advantage: Tensor, labelled: Tensor, temperature: float = 2.0, most: float = 20.0, normalised: bool = True
) -> Tensor:
    """Return AWAG's weights of the teacher's actions, [N]: min(exp(A / β), most) where A > 0, else 0. No gradient.

    Args:
        advantage: [N]: min Q(s, ã) - min Q(s, μ(s)).
        labelled: [N] bool.
        temperature: β.
        most: The largest weight.
        normalised: Divide A by its mean magnitude over the labels first, so that β does not depend on the scale of
            returns. The released code does not.
    """
    advantage = advantage.detach()
    if normalised:
        size = (advantage.abs() * labelled).sum() / labelled.sum().clamp(min=1)
        advantage = advantage / size.clamp(min=1e-6)
    weight = (advantage / temperature).exp().clamp(max=most)
    return torch.where(labelled & (advantage > 0), weight, torch.zeros_like(weight))


def guided_action(weight: Tensor, cost: Tensor) -> Tensor:
    """Return the mean of weight · cost over the rows with a weight, shape []; 0 where none has one.

    Args:
        weight: [N], from `advice_weight`.
        cost: [N]: -log π(ã | s) (the released form), or the squared distance of the policy's action to ã.
    """
    return torch.where(weight > 0, weight * cost, 0.0).sum() / (weight > 0).sum().clamp(min=1)


def gaussian_cost(mean: Tensor, std: float, advised: Tensor) -> Tensor:
    """Return -log N(ã; μ, σ²) summed over the action's numbers, [N], with ã kept just inside the box (DrQ-v2's form).

    Args:
        mean: [N, A]: μ(s), in [-1, 1].
        std: σ: what exploration has now. At a tenth of it the pull is a hundred times stronger.
        advised: [N, A].
    """
    inside = advised.clamp(-1 + 1e-6, 1 - 1e-6)
    square = ((inside - mean) / std).square()
    return (0.5 * square + math.log(std) + 0.5 * math.log(2 * math.pi)).sum(1)


def squashed_cost(mean: Tensor, log_std: Tensor, advised: Tensor) -> Tensor:
    """Return -log π(ã | s) of a tanh-Gaussian, [N] (SAC's form), with ã clamped to ±0.999.

    Args:
        mean: [N, A], before the tanh.
        log_std: [N, A].
        advised: [N, A], after it.
    """
    return surprise(torch.atanh(advised.clamp(-0.999, 0.999)), mean, log_std)


def surprise(before: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return -log π(tanh(x) | s) of a tanh-Gaussian, [N], for x, mean and log-standard deviation [N, A].

    log(1 - tanh(x)²) is written as 2 (log 2 - x - softplus(-2 x)), which stays finite far out.
    """
    gaussian = 0.5 * ((before - mean) / log_std.exp()).square() + log_std + 0.5 * math.log(2 * math.pi)
    squash = 2 * (math.log(2) - before - functional.softplus(-2 * before))
    return (gaussian + squash).sum(1)


def hold_then_fall(progress: float, hold: float, end: float) -> float:
    """Return 1 up to `hold`, then linearly less, and 0 from `end` on; all are shares of the run (VMR's λ)."""
    if progress <= hold:
        return 1.0
    return max(0.0, (end - progress) / (end - hold)) if end > hold else 0.0


def cosine(progress: float, end: float, power: float = 0.7) -> float:
    """Return ½ (1 + cos(π p)) with p = min(progress / end, 1)^power (AWAG's η, as a share of its start)."""
    return 0.5 * (1 + math.cos(math.pi * min(progress / end, 1.0) ** power)) if end > 0 else 0.0
