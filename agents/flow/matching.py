"""Flow matching: the loss that teaches a network the velocity from noise to demonstrated actions."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.agents.flow.network import C, FlowNetwork


def flow_time(count: int, device: torch.device | None = None) -> Tensor:
    """Draw training times: Beta(1.5, 1) scaled to (0.001, 1), more mass near the noise (π0, openpi)."""
    # Beta(a, 1) is U^(1/a): one uniform number, reproducible from torch's generator.
    return torch.rand(count, device=device) ** (1 / 1.5) * 0.999 + 0.001


def flow_matching_loss(
    network: FlowNetwork[C], context: C, action: Tensor, mask: Tensor, noise: Tensor, t: Tensor
) -> Tensor:
    """Return the mean of |v(x_t, t) - (ε - A)|² over demonstrated entries, shape [] (Lipman et al. 2023; π0 eq. 1).

    Args:
        network: Predicts the velocity.
        context: What the network made of the N observations.
        action: [N, H, D], normalised and padded.
        mask: [N, H] bool.
        noise: [N, H, D], ε.
        t: [N].
    """
    time = t[:, None, None]
    velocity = network.field(context, time * noise + (1 - time) * action, t).velocity
    error = ((velocity - (noise - action)) ** 2).mean(-1)
    return (error * mask).sum() / mask.sum()
