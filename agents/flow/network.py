"""The networks of a flow policy: what reads an observation, and the action expert that denoises.

`FlowNetwork` is all that the samplers, imitation and π_RL know. Images and vision-language backbones plug in here.
"""

from __future__ import annotations

import itertools
import math
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from palaestra.agents.flow.samplers import Field
from palaestra.agents.normalise import Normaliser
from palaestra.envs.core import Observation


class Context(Protocol):
    """What a network made of N observations: a tensor [N, …], or something that holds several."""

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> Self:
        """Return some observations' parts; rows are [N] int64."""
        ...

    def repeat_interleave(self, repeats: int, dim: int, /) -> Self:
        """Return each observation's part `repeats` times in a row; `dim` is 0."""
        ...


C = TypeVar("C", bound=Context)


class FlowNetwork(Protocol[C]):
    """Reads observations once a decision, then answers for points of the denoising."""

    horizon: int
    """H, the actions of a chunk that the network predicts."""
    width: int
    """D, the numbers of an action."""

    @property
    def settled(self) -> bool:
        """Whether nothing of `observe` is trained, so that what it returned stays true while the rest learns."""
        ...

    def observe(self, observation: Observation) -> C:
        """Return what the expert and the critic need of N observations."""
        ...

    def field(self, context: C, x: Tensor, t: Tensor) -> Field:
        """Return velocity, standard deviation and features at points x [N, H, D] and times t [N]."""
        ...

    def summary(self, context: C) -> Tensor:
        """Return what a critic of the observation reads, [N, F]."""
        ...


def mlp(widths: list[int], activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Return linear layers of these widths with the activation between them."""
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(before, after)] + ([activation()] if index < len(widths) - 2 else [])
    return nn.Sequential(*layers)


def time_embedding(t: Tensor, width: int = 32) -> Tensor:
    """Return sines and cosines of t at geometric frequencies from ¼ to 25 cycles over [0, 1], [N, width]."""
    half = width // 2
    frequency = torch.exp(torch.linspace(0, math.log(100), half, device=t.device)) * (2 * math.pi / 4)
    angle = t[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


class NoiseHead(nn.Module):
    """A bounded standard deviation for each entry of a transition (Flow-Noise, π_RL §4.1).

    σ is the geometric interpolation between the bounds at (tanh(out) + 1) / 2, so it can leave neither.
    """

    def __init__(self, features: int, horizon: int, width: int, bounds: tuple[float, float]) -> None:
        super().__init__()
        if not 0 < bounds[0] <= bounds[1]:
            raise ValueError(f"the noise bounds are {bounds}; take 0 < low <= high, such as (0.08, 0.16).")
        self.shape = (horizon, width)
        self.bounds = bounds
        leave = nn.Linear(64, horizon * width)
        nn.init.zeros_(leave.weight)
        nn.init.zeros_(leave.bias)
        self.layers = nn.Sequential(mlp([features, 128, 64], nn.Tanh), nn.Tanh(), leave)

    def forward(self, features: Tensor) -> Tensor:
        """Return standard deviations [N, H, D] in the bounds."""
        low, high = (math.log(bound) for bound in self.bounds)
        position = (torch.tanh(self.layers(features)) + 1) / 2
        std = torch.exp(low + (high - low) * position)
        return std.reshape(-1, *self.shape)


class StateNetwork(nn.Module):
    """A flow network for worlds with a state vector: residual layers over (state, x_t, t)."""

    def __init__(
        self,
        state: int,
        horizon: int,
        width: int,
        hidden: int = 256,
        layers: int = 3,
        noise_bounds: tuple[float, float] = (0.08, 0.16),
    ) -> None:
        super().__init__()
        self.horizon, self.width = horizon, width
        self.normaliser = Normaliser(state)
        self.enter = nn.Linear(state + horizon * width + 32, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.leave = nn.Linear(hidden, horizon * width)
        self.noise = NoiseHead(hidden, horizon, width, noise_bounds)
        nn.init.zeros_(self.leave.bias)

    @property
    def settled(self) -> bool:
        """True: a state is only normalised."""
        return True

    def observe(self, observation: Observation) -> Tensor:
        """Return the normalised state, [N, S]."""
        if observation.state is None:
            raise ValueError(
                "StateNetwork reads Observation.state, but these worlds show none; use a network for images."
            )
        normal: Tensor = self.normaliser(observation.state)
        return normal.clamp(-10, 10)

    def field(self, context: Tensor, x: Tensor, t: Tensor) -> Field:
        """Return velocity [N, H, D], standard deviation [N, H, D] and features [N, hidden]."""
        hidden = nn.functional.silu(self.enter(torch.cat([context, x.flatten(1), time_embedding(t)], 1)))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = hidden + nn.functional.silu(layer(norm(hidden)))
        velocity = self.leave(hidden).reshape(-1, self.horizon, self.width)
        return Field(velocity, self.noise(hidden), hidden)

    def summary(self, context: Tensor) -> Tensor:
        """Return the normalised state itself, [N, S]: a critic of it is a network of its own."""
        return context
