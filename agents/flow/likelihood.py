"""How likely a denoising chain's transitions were: what makes a flow policy trainable by policy gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.agents.flow.network import C, FlowNetwork
from palaestra.agents.flow.samplers import Method, log_density, moments, times


@dataclass(frozen=True, slots=True)
class Transitions:
    """J transitions of N chains, as the current network sees them."""

    log_density: Tensor
    """[N, J, H, D]: of each entry of the point reached; 0 where a transition was deterministic."""
    std: Tensor
    """[N, J, H, D]."""
    features: Tensor
    """[N, J, F]: the action expert's features where each transition started."""


def transitions(
    network: FlowNetwork[C], context: C, points: Tensor, index: Tensor, level: Tensor, method: Method
) -> Transitions:
    """Evaluate some transitions of stored chains.

    Args:
        network: The current network.
        context: What it makes of the N observations.
        points: [N, K + 1, H, D], the stored chains.
        index: [N, J] int64, which transitions.
        level: [N, K], the noise level that each transition was drawn with.
        method: How they explored.
    """
    batch, count = index.shape
    steps = points.shape[1] - 1
    rows = torch.arange(batch, device=index.device)[:, None]
    x = points[rows, index].flatten(0, 1)
    reached = points[rows, index + 1].flatten(0, 1)
    t = times(steps, index.flatten())
    repeated = context.repeat_interleave(count, 0) if count > 1 else context
    field = network.field(repeated, x, t)
    mean, std = moments(method, x, field, t, steps, level[rows, index].flatten())
    density = log_density(reached, mean, std)
    shape = (batch, count)
    return Transitions(density.unflatten(0, shape), std.unflatten(0, shape), field.features.unflatten(0, shape))
