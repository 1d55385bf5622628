"""What every vision-language-action network begins with: a backbone, and proprioception beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palaestra.agents.normalise import Normaliser
from palaestra.agents.vla.adapters import Tuning
from palaestra.agents.vla.backbone import Backbone, Prefix
from palaestra.envs.core import Observation


class Reader(nn.Module):
    """Reads observations once a decision; subclasses say what follows the prefix."""

    def __init__(self, backbone: Backbone, state: int) -> None:
        """Take a backbone and the numbers of the proprioception, 0 for none."""
        super().__init__()
        self.backbone = backbone
        self.normaliser = Normaliser(state)

    @property
    def settled(self) -> bool:
        """Whether the backbone is frozen: then a prefix stays true while the rest learns."""
        return self.backbone.tuning == "frozen"

    def tune(self, tuning: Tuning) -> None:
        """Choose what of the backbone is trained from now on."""
        self.backbone.tune(tuning)

    def observe(self, observation: Observation) -> Prefix:
        """Return the prefix of N observations, once a decision.

        Raises:
            ValueError: The observation lacks what the policy was made for, see `Backbone.forward`.
        """
        state = observation.state
        count = len(self.normaliser.mean)
        if (0 if state is None else state.shape[1]) != count:
            shown = "none" if state is None else str(state.shape[1])
            raise ValueError(f"the policy reads {count} numbers of proprioception; the observation holds {shown}.")
        if state is None:
            state = self.normaliser.mean.new_zeros(len(observation), 0)
        prefix: Prefix = self.backbone(observation, self.normaliser(state).clamp(-10, 10))
        return prefix

    def size(self, observation: Observation) -> int:
        """Return how many words' tokens the longest instruction has; pictures are alike in all worlds.

        Raises:
            ValueError: An instruction is empty or too long.
        """
        return max(len(self.backbone.tokens(line)) for line in observation.text)

    def summary(self, context: Prefix) -> Tensor:
        """Return what V_vlm reads, [N, F]: what the backbone concluded, and proprioception.

        That is the mean of the backbone's outputs, padding masked, and where it points.
        """
        return torch.cat([context.mean().float(), context.points(), context.state], 1)
