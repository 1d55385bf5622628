"""What a rollout and a learner need of a language model that converses, whatever its size.

Token in, token out: what was sampled is kept as sampled, what the world says is appended as the ids that `read` gives,
and nothing is ever decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from palaestra.envs.retrieval.core import Turn


@dataclass(frozen=True, slots=True)
class Passage:
    """What a turn of the world adds to a conversation."""

    ids: tuple[int, ...]
    """Up to where the agent begins to speak, with a mark for each token of a picture."""
    images: tuple[Tensor, ...] = ()
    """The pictures whose marks these are, in order."""


class Speaker(Protocol):
    """A language model in conversation."""

    context: int
    """Tokens that a conversation may have."""
    width: int
    """D, numbers of a hidden state."""

    def read(self, turn: Turn, first: bool) -> Passage:
        """Return what a turn adds to a conversation, or what begins one."""
        ...

    def write(self, text: str) -> list[int]:
        """Return the ids with which an agent would say a text: what a teacher says is learnt so."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return what an agent's ids say."""
        ...

    def closed(self, ids: Sequence[int]) -> bool:
        """Whether an agent's turn ends with the last of these ids."""
        ...

    def begin(self, rows: int) -> Any:
        """Return the memory of so many empty conversations."""
        ...

    def extend(self, memory: Any, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Append tokens to conversations.

        Args:
            memory: Of R conversations; changed in place.
            ids: [R, L] int64.
            real: [R, L] bool: False where a row's tokens are padded, on the right.
            images: The pictures whose marks are among the ids, row by row.

        Returns:
            Logits of the token after each row's last real one, [R, V] float32.
        """
        ...

    def select(self, memory: Any, rows: Tensor) -> Any:
        """Return the memory of some rows [K] int64."""
        ...

    def score(self, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return log p of each token given those before it, and the entropy there, [N, L] float32 each, with gradients.

        Position 0 has no token before it and gets zeros; what padding gets means nothing.
        """
        ...

    def hidden(self, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Return what the model's head reads at each token, [N, L, D] float32, with gradients; a critic does, too."""
        ...

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Return what is trained."""
        ...
