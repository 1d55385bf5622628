"""A critic of conversations, for PPO: how much is still to come at each token that the agent chooses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.agents.grpo.advantages import gae_tokens
from palaestra.agents.grpo.batch import Batch
from palaestra.agents.grpo.speaker import Speaker
from palaestra.agents.losses import clipped_value, weighted_mean
from palaestra.agents.metrics import require_finite
from palaestra.agents.optimiser import load_optimiser_tensors, optimiser_tensors, under


@dataclass(frozen=True)
class CriticConfig:
    """PPO's critic; only the advantage "gae" has one."""

    discount: float = 1.0
    """γ, a token."""
    decay: float = 0.95
    """λ."""
    learning_rate: float = 1e-3
    """AdamW's."""
    clip: float = 0.5
    """By how much a value may move in one batch."""


class Critic:
    """A copy of the model with a value head in place of its own. The two share nothing: values cost words nothing."""

    def __init__(self, speaker: Speaker, config: CriticConfig) -> None:
        """Begin with the model as it is and values of 0; what is frozen in it stays frozen."""
        self.config = config
        self._trunk = copy.deepcopy(speaker)
        trained = [one for one in self._trunk.parameters() if one.requires_grad]
        self._head = nn.Linear(speaker.width, 1).to(trained[0].device)
        nn.init.zeros_(self._head.weight)
        nn.init.zeros_(self._head.bias)
        self._weights = [*trained, *self._head.parameters()]
        self._optimiser = torch.optim.AdamW(self._weights, lr=config.learning_rate)

    def value(self, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Return V before each token is chosen, [N, L]: of what was said and shown before it; 0 at the first."""
        value = self._head(self._trunk.hidden(ids, real, images)[:, :-1]).squeeze(-1).cpu()
        return F.pad(value, (1, 0))

    def judge(self, batch: Batch, score: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return advantages, value targets and values of tokens, [N, L] each, observations skipped."""
        with torch.no_grad():
            value = self.value(batch.ids, batch.real, batch.images)
        advantage, target = gae_tokens(score, value, mask, self.config.discount, self.config.decay)
        return advantage, target, value

    def step(
        self, batch: Batch, rows: Tensor, images: Sequence[Tensor], target: Tensor, old: Tensor, mask: Tensor
    ) -> Tensor:
        """Take one gradient step towards the targets of some rows; return the loss, shape []."""
        value = self.value(batch.ids[rows], batch.real[rows], images)
        loss = weighted_mean(clipped_value(value, old[rows], target[rows], self.config.clip), mask[rows].float())
        require_finite(loss, "the critic's loss", "lower critic.learning_rate")
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimiser.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights and the optimiser's state."""
        state = {f"weight.{number}": weight.detach() for number, weight in enumerate(self._weights)}
        return state | {f"optimiser.{name}": value for name, value in optimiser_tensors(self._optimiser).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`, into a critic that was made from the same model."""
        with torch.no_grad():
            for number, weight in enumerate(self._weights):
                weight.copy_(state[f"weight.{number}"])
        load_optimiser_tensors(self._optimiser, under("optimiser.", state))
