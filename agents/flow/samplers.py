"""Samplers of a flow: deterministic (ODE) and stochastic (Flow-SDE, CPS, Flow-Noise), as pure functions.

Time runs as in openpi and RLinf: noise at t = 1, data at t = 0, x_t = t ε + (1 - t) A, and the velocity is
v = ε - A. Every sampler is x_{t-δ} = w0 x̂0 + w1 x̂1 + std ε with the predictions of data x̂0 = x - t v and of
noise x̂1 = x + (1 - t) v. (π_RL, arXiv 2510.25889, prints its equations 7 to 9 in this convention beside text in the
other one; taken literally with the other they diverge.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["sde", "cps", "noise"]
"""How a transition explores: Flow-SDE, coefficient-preserving sampling, or a learned standard deviation."""


@dataclass(frozen=True, slots=True)
class Field:
    """What the network says at (x, t)."""

    velocity: Tensor
    """[B, H, D]."""
    std: Tensor | None
    """[B, H, D]: the learned standard deviation of a transition (Flow-Noise), or None."""
    features: Tensor
    """[B, F]: the action expert's last features, which critics may read."""


FieldFunction = Callable[[Tensor, Tensor], Field]
"""(x [B, H, D], t [B]) to `Field`, for a fixed observation."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One denoising: K transitions from noise to a chunk of actions."""

    points: Tensor
    """[B, K + 1, H, D]: from noise (index 0) to actions (index K)."""
    features: Tensor
    """[B, K, F]: the features of the K evaluations."""


def times(steps: int, index: Tensor) -> Tensor:
    """Return the time t at which the `index`-th of K = `steps` transitions starts: 1 - index / K."""
    return (steps - index).to(torch.get_default_dtype()) / steps


def noise_level_at(t: Tensor, steps: int, level: Tensor | float) -> Tensor:
    """Return σ_t = a √(t / (1 - t)), with 1 - t replaced by 1 / K at t = 1 (π_RL §4.2; RLinf's grid).

    With the replacement the first transition's standard deviation σ_1 √δ is exactly the level a.
    """
    remaining = torch.where(t >= 1, torch.full_like(t, 1 / steps), 1 - t)
    return level * torch.sqrt(t / remaining)


def weights(method: Method, t: Tensor, steps: int, level: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (w0, w1, std) of a transition from t to t - 1/K, each of t's shape.

    A level of zero gives the ODE's weights, whatever the method. `noise` gives the ODE's weights too: its
    standard deviation is the network's.
    """
    delta = 1 / steps
    later = t - delta
    if method == "sde":
        sigma = noise_level_at(t, steps, level)
        # The last w1 is negative: that is Euler-Maruyama, not an error to clamp.
        return 1 - later, later - sigma**2 * delta / (2 * t), sigma * math.sqrt(delta)
    if method == "cps":
        angle = torch.as_tensor(level, dtype=t.dtype, device=t.device) * (math.pi / 2)
        return 1 - later, later * torch.cos(angle), later * torch.sin(angle)
    return 1 - later, later, torch.zeros_like(t)


def moments(
    method: Method, x: Tensor, field: Field, t: Tensor, steps: int, level: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return (mean, std) of x_{t-1/K} given x_t, each [B, H, D].

    Args:
        method: How the transition explores.
        x: [B, H, D].
        field: The network's answer at (x, t).
        t: [B].
        steps: K, the number of transitions of the whole denoising.
        level: The noise level a, a number or [B]; rows of zero follow the ODE. With `noise` it only says which
            rows explore (positive) and the standard deviation is `field.std`.
    """
    w0, w1, std = (part[:, None, None] for part in weights(method, t, steps, level))
    time = t[:, None, None]
    clean = x - time * field.velocity
    noise = x + (1 - time) * field.velocity
    mean = w0 * clean + w1 * noise
    if method == "noise":
        if field.std is None:
            raise ValueError("the 'noise' sampler needs a network with a noise head; build it with noise='learned'.")
        exploring = torch.as_tensor(level, device=x.device).expand(len(x))[:, None, None] > 0
        return mean, torch.where(exploring, field.std, torch.zeros_like(field.std))
    return mean, std.expand_as(mean)


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return log N(x; mean, std²) elementwise; 0 by definition where std is 0 (a deterministic transition)."""
    still = std == 0
    safe = torch.where(still, torch.ones_like(std), std)
    density = -0.5 * ((x - mean) / safe) ** 2 - safe.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(still, torch.zeros_like(density), density)


def gaussian_entropy(std: Tensor) -> Tensor:
    """Return ½ log(2πe σ²) elementwise."""
    return std.log() + 0.5 * math.log(2 * math.pi * math.e)


def sample(
    field: FieldFunction, noise: Tensor, steps: int, method: Method = "sde", level: Tensor | None = None
) -> Chain:
    """Denoise from `noise` in K = `steps` transitions.

    Args:
        field: The network, for a fixed observation.
        noise: [B, H, D], the chain's first point.
        steps: K.
        method: How the exploring transitions explore.
        level: [B, K], the noise level of each transition; zeros (or None) follow the ODE.
    """
    batch = len(noise)
    points, features = [noise], []
    for index in range(steps):
        x = points[-1]
        t = times(steps, torch.full((batch,), index, device=x.device))
        answer = field(x, t)
        if level is None:
            points.append(x - answer.velocity / steps)
        else:
            mean, std = moments(method, x, answer, t, steps, level[:, index])
            points.append(mean + std * torch.randn_like(mean))
        features.append(answer.features)
    return Chain(torch.stack(points, 1), torch.stack(features, 1))
