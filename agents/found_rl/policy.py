"""The policy as it is deployed: an encoder and an actor, and nothing of the teacher."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from palaestra.agents.core import Decision
from palaestra.agents.found_rl.networks import Actor, Encoder
from palaestra.envs.core import Observation, WorldSpec


class DrivingPolicy(nn.Module):
    """Decides by the middle of its Gaussian; a decision is held for the worlds' whole chunk."""

    def __init__(self, spec: WorldSpec, hidden: int) -> None:
        """Make an untrained one.

        Args:
            spec: Of the worlds, whose actions are a box [-1, 1].
            hidden: Width of the actor.

        Raises:
            ValueError: The worlds' actions are something else, or they show nothing that can be read.
        """
        super().__init__()
        action = spec.action
        if (
            not isinstance(action, spaces.Box)
            or len(action.shape) != 1
            or (action.low != -1).any()
            or (action.high != 1).any()
        ):
            raise ValueError(f"{spec.id} takes actions {action}; Found-RL's learner needs a Box of numbers in [-1, 1].")
        self.chunk, self.width = spec.chunk, int(action.shape[0])
        self.encoder = Encoder(spec)
        self.actor = Actor(self.encoder.width, self.width, hidden)

    def forward(self, observation: Observation) -> Tensor:
        """Return actions, [N, A]."""
        mean, _ = self.actor(self.encoder(observation))
        return torch.tanh(mean)

    @torch.no_grad()
    def act(self, observation: Observation) -> Decision:
        """Decide for N worlds, without exploration."""
        return Decision(self.held(self(observation)))

    def held(self, action: Tensor) -> Tensor:
        """Return actions [N, A] as chunks [N, C, A] that repeat them."""
        return action[:, None].expand(-1, self.chunk, -1)
