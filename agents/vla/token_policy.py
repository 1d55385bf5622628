"""A vision-language-action policy that says its actions token by token (RT-2, OpenVLA).

Actions are discretised (`tokens.py`); their tokens are words that the backbone's language model reads and says besides
its own. It can say nothing else: decoding is constrained to them, one dimension after the other, the chunk's first
action first. Proprioception, with the mean of the prefix's outputs, is a token of its own between the prefix and the
actions, from which the first is said.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.agents.core import Decision
from palaestra.agents.vla.backbone import Backbone, Prefix
from palaestra.agents.vla.reader import Reader
from palaestra.agents.vla.tokens import BINS, log_probability, to_actions, to_tokens
from palaestra.envs.core import Observation


class TokenNetwork(Reader):
    """Pictures, an instruction and proprioception to the tokens of a chunk of actions."""

    def __init__(self, backbone: Backbone, state: int, horizon: int, width: int, bins: int = BINS) -> None:
        """Build the words for actions, untrained.

        Args:
            backbone: What reads pictures and instructions, and says actions.
            state: Numbers of the proprioception, 0 for none.
            horizon: H.
            width: Numbers of an action.
            bins: Tokens that a number may become.
        """
        super().__init__(backbone, state)
        self.horizon, self.width, self.bins = horizon, width, bins
        size = backbone.text.hidden_size
        self.codes = nn.Embedding(bins, size)
        nn.init.normal_(self.codes.weight, std=0.05)
        self.enter_state = nn.Linear(backbone.width + state, size)

    @property
    def length(self) -> int:
        """Tokens of a chunk."""
        return self.horizon * self.width

    def logits(self, context: Prefix, tokens: Tensor) -> Tensor:
        """Return the logits [N, L, bins] of each token of chunks [N, L], given those before it."""
        embedded = torch.cat([self.enter_state(self.summary(context))[:, None], self.codes(tokens[:, :-1])], 1)
        return self._say(self.backbone.follow(self.backbone.memory(context), context.real, embedded))

    def decode(self, context: Prefix, greedy: bool) -> Tensor:
        """Return the tokens of chunks [N, L], the likeliest or drawn ones, one after the other."""
        memory, said = self.backbone.memory(context), self.enter_state(self.summary(context))[:, None]
        tokens: list[Tensor] = []
        for _ in range(self.length):
            logits = self._say(self.backbone.follow(memory, context.real, said))[:, 0]
            tokens.append(logits.argmax(1) if greedy else torch.multinomial(logits.softmax(1), 1)[:, 0])
            said = self.codes(tokens[-1])[:, None]
        return torch.stack(tokens, 1)

    def _say(self, outputs: Tensor) -> Tensor:
        """Return logits over action tokens alone; what reads a token is what says it (tied, as the backbone's own)."""
        return outputs.float() @ self.codes.weight.T.float()


class TokenPolicy(nn.Module):
    """Deployed, it says the likeliest tokens."""

    low: Tensor
    high: Tensor

    def __init__(self, network: TokenNetwork, low: np.ndarray, high: np.ndarray, chunk: int) -> None:
        """Wrap a network for actions in [low, high].

        Raises:
            ValueError: The network predicts fewer actions than are played, or the actions have no bounds.
        """
        super().__init__()
        if not 1 <= chunk <= network.horizon:
            raise ValueError(
                f"chunk is {chunk}; the network predicts {network.horizon} actions, so take 1 to {network.horizon}."
            )
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise ValueError(f"actions in [{low}, {high}] cannot be cut into bins: take finite, ascending bounds.")
        self.network, self.chunk = network, chunk
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.float32))

    @torch.no_grad()
    def act(self, observation: Observation) -> Decision:
        """Decide by the likeliest tokens."""
        return Decision(self.to_actions(self.network.decode(self.network.observe(observation), greedy=True)))

    def size(self, observation: Observation) -> int:
        """Return about how many tokens the network reads of one world: worlds of like size are decided for together.

        Raises:
            ValueError: The network cannot read it, such as an instruction that is too long.
        """
        return self.network.size(observation)

    def to_actions(self, tokens: Tensor) -> Tensor:
        """Return what tokens [N, L] stand for: [N, C, A], in the action bounds."""
        bins = tokens.unflatten(1, (self.network.horizon, self.network.width))[:, : self.chunk]
        return to_actions(bins, self.low, self.high, self.network.bins)

    def fit(self, observation: Observation, action: Tensor) -> None:
        """Take the statistics of demonstrated observations [N, …]; actions keep their bounds."""
        if observation.state is not None:
            self.network.normaliser.fit(observation.state)

    def imitation_loss(self, context: Prefix, action: Tensor, mask: Tensor) -> Tensor:
        """Return the cross-entropy of demonstrated chunks [N, H, A] of which [N, H] counts, shape []."""
        tokens = to_tokens(action, self.low, self.high, self.network.bins).flatten(1)
        logprob, _ = log_probability(self.network.logits(context, tokens), tokens)
        counts = mask.repeat_interleave(self.network.width, 1)
        return -(logprob * counts).sum() / counts.sum()
