"""The networks: what is seen becomes features, an actor decides on them, and an ensemble of critics judges."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from palaestra.agents.normalise import Normaliser
from palaestra.envs.core import Observation, WorldSpec

FARTHEST = 10.0
"""Standard deviations beyond which a number of the state tells nothing more."""
LOG_STD = (-5.0, 1.0)
"""Bounds of the actor's log-standard deviation."""


class Encoder(nn.Module):
    """Observations to features [N, width]: the normalised state vector, and pictures through convolutions."""

    def __init__(self, spec: WorldSpec, picture_features: int = 64) -> None:
        """Make one for some worlds.

        Args:
            spec: Of the worlds, which show a state vector, pictures or both.
            picture_features: Numbers that a picture becomes.

        Raises:
            ValueError: The worlds show neither.
        """
        super().__init__()
        if spec.state is None and not spec.images:
            raise ValueError(f"{spec.id} shows neither a state vector nor pictures, which Found-RL's learner reads.")
        self.width = (spec.state or 0) + picture_features * len(spec.images)
        self.scale = Normaliser(spec.state or 0)
        self.cameras = nn.ModuleDict({name: _camera(shape, picture_features) for name, shape in spec.images.items()})

    def forward(self, observation: Observation) -> Tensor:
        """Return features, [N, width]."""
        parts = []
        if observation.state is not None:
            parts.append(self.scale(observation.state).clamp(-FARTHEST, FARTHEST))
        for name, camera in self.cameras.items():
            picture = observation.images[name].permute(0, 3, 1, 2)
            parts.append(camera(picture.float() / 255 - 0.5))
        return torch.cat(parts, 1)


def _camera(shape: tuple[int, int, int], features: int) -> nn.Sequential:
    """Return halving convolutions, of 16, 32, 32 … channels, down to at most 4 pixels a side, then a bounded vector."""
    height, width, channels = shape
    layers: list[nn.Module] = []
    wide = 16
    while max(height, width) > 4:
        layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1), nn.ReLU()]
        channels, wide = wide, 32
        height, width = (height + 1) // 2, (width + 1) // 2
    flat = channels * height * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, features), nn.LayerNorm(features), nn.Tanh())


class Actor(nn.Module):
    """Features to a Gaussian before the tanh that bounds the action."""

    def __init__(self, features: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.leave = nn.Linear(hidden, 2 * actions)
        # A large first action saturates the tanh, whose gradient then never brings it back.
        nn.init.normal_(self.leave.weight, std=0.01 / math.sqrt(hidden))
        nn.init.constant_(self.leave.bias[:actions], 0.0)
        nn.init.constant_(self.leave.bias[actions:], 0.35)  # a standard deviation of about 0.37

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-standard deviation, [N, A] each."""
        mean, log_std = self.leave(self.body(features)).chunk(2, 1)
        low, high = LOG_STD
        return mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)


class Critics(nn.Module):
    """E critics computed together: features and actions to values [E, N]."""

    def __init__(self, features: int, actions: int, hidden: int, count: int = 2) -> None:
        super().__init__()
        widths = [features + actions, hidden, hidden, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(widths):
            bound = 1 / math.sqrt(inputs)
            self.weights.append(nn.Parameter(torch.empty(count, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(count, 1, outputs)))

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """Return values, [E, N]."""
        count, last = self.weights[0].shape[0], len(self.weights) - 1
        x = torch.cat((features, action), 1).expand(count, -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                # Without it values of actions that were never taken grow without bound.
                x = functional.relu(functional.layer_norm(x, x.shape[-1:]))
        return x[..., 0]


def shifted(picture: Tensor, pad: int) -> Tensor:
    """Return pictures [N, H, W, C], each moved by up to `pad` pixels either way, its edge repeated (DrQ's shift)."""
    count, height, width, _ = picture.shape
    device = picture.device
    move = torch.randint(-pad, pad + 1, (2, count, 1), device=device)
    row = (torch.arange(height, device=device) + move[0]).clamp(0, height - 1)
    column = (torch.arange(width, device=device) + move[1]).clamp(0, width - 1)
    return picture[torch.arange(count, device=device)[:, None, None], row[:, :, None], column[:, None, :]]


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Move a target network towards its source: θ̄ ← (1 - τ) θ̄ + τ θ."""
    mine: list[Tensor] = list(target.parameters())
    theirs: list[Tensor] = list(source.parameters())
    torch._foreach_lerp_(mine, theirs, rate)
