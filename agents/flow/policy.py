"""A flow-matching policy over chunks of actions: deployed, it integrates the ODE."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from palaestra.agents.core import Decision
from palaestra.agents.flow.matching import flow_matching_loss, flow_time
from palaestra.agents.flow.network import FlowNetwork, StateNetwork
from palaestra.agents.flow.samplers import sample
from palaestra.agents.normalise import Normaliser
from palaestra.envs.core import Observation, WorldSpec


class FlowPolicy(nn.Module):
    """Maps noise to the next H actions in K Euler steps, and plays the first C of them.

    The network works on normalised actions, and may pad them to a width of its own (π0, SmolVLA); the statistics and
    the action bounds are buffers, so that a checkpoint carries them.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        network: FlowNetwork[Any],
        low: np.ndarray,
        high: np.ndarray,
        chunk: int,
        steps: int,
        scale: Normaliser | None = None,
    ) -> None:
        """Build a policy.

        Args:
            network: Predicts velocities.
            low: [A], the least that an action may be.
            high: [A].
            chunk: C, how many of the H actions are played.
            steps: K.
            scale: Between actions and what the network denoises; a fresh one by default.

        Raises:
            ValueError: The network cannot serve so wide an action or so long a chunk, or K is no number of steps.
        """
        super().__init__()
        if not 1 <= chunk <= network.horizon:
            raise ValueError(
                f"chunk is {chunk}; the network predicts {network.horizon} actions, so take 1 to {network.horizon}."
            )
        if steps < 1:
            raise ValueError(f"steps is {steps}; a denoising has at least 1 transition.")
        if len(low) > network.width:
            raise ValueError(f"actions have {len(low)} numbers; the network denoises {network.width}.")
        assert isinstance(network, nn.Module)
        self.network: FlowNetwork[Any] = network
        self.chunk = chunk
        self.steps = steps
        self.actions = len(low)
        """A, the numbers of an action: the first of the D that the network denoises."""
        self.scale = scale or Normaliser(self.actions)
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.float32))

    @torch.no_grad()
    def act(self, observation: Observation) -> Decision:
        """Decide by the ODE from fresh noise: the policy as it is deployed and evaluated."""
        context = self.network.observe(observation)
        noise = self.noise(len(context), context.device)
        chain = sample(lambda x, t: self.network.field(context, x, t), noise, self.steps)
        return Decision(self.to_actions(chain.points[:, -1]))

    def size(self, observation: Observation) -> int:
        """Return about how many tokens the network reads of one world: worlds of like size are decided for together.

        Raises:
            ValueError: The network cannot read it, such as an instruction that is too long.
        """
        measure = getattr(self.network, "size", None)
        return 1 if measure is None else int(measure(observation))

    def fit(self, observation: Observation, action: Tensor) -> None:
        """Take the statistics of demonstrated observations [N, …] and actions [M, A]."""
        if observation.state is not None and hasattr(self.network, "normaliser"):
            self.network.normaliser.fit(observation.state)
        self.scale.fit(action)

    def imitation_loss(self, context: Any, action: Tensor, mask: Tensor) -> Tensor:
        """Return the flow-matching loss of demonstrated chunks [N, H, A] of which [N, H] counts, shape []."""
        normal = self.from_actions(action)
        noise, t = torch.randn_like(normal), flow_time(len(normal), normal.device)
        return flow_matching_loss(self.network, context, normal, mask, noise, t)

    def noise(self, batch: int, device: torch.device) -> Tensor:
        """Return the first point of a denoising, [batch, H, D]."""
        return torch.randn(batch, self.network.horizon, self.network.width, device=device)

    def to_actions(self, x: Tensor) -> Tensor:
        """Return the actions that a finished denoising [N, H, D] stands for: [N, C, A], in the action bounds."""
        return self.scale.invert(x[:, : self.chunk, : self.actions]).clamp(self.low, self.high)

    def from_actions(self, action: Tensor) -> Tensor:
        """Return what a denoising should end at, [N, H, D], for actions [N, H, A]: normalised, zeros behind them."""
        return nn.functional.pad(self.scale(action), (0, self.network.width - self.actions))


def state_policy(
    spec: WorldSpec,
    horizon: int,
    steps: int = 4,
    hidden: int = 256,
    layers: int = 3,
    noise_bounds: tuple[float, float] = (0.08, 0.16),
) -> FlowPolicy:
    """Return a fresh flow policy for worlds with a state vector and a box of actions.

    Raises:
        ValueError: The worlds show no state, or their actions are not a one-dimensional box.
    """
    if spec.state is None:
        raise ValueError(f"{spec.id} shows no state vector, which a state policy needs.")
    action = spec.action
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise ValueError(f"{spec.id} takes actions {action}; a flow policy needs a one-dimensional Box.")
    network = StateNetwork(spec.state, horizon, action.shape[0], hidden, layers, noise_bounds)
    return FlowPolicy(network, action.low, action.high, spec.chunk, steps)
