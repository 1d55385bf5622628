"""Conversations: what worlds of tools say, what they are told, and how an episode came out.

A world's author writes either a plain class whose public methods are tools (`tools.py`), or a class with `reset` and
`step` over messages with images; `episodes.py` plays many of them. A world that is batched by nature, such as VRAG's,
is `Conversations` itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

Outcome = Literal["answered", "length", "turns", "environment", "judge"]
"""How an episode ended: the agent closed it, its turn was cut by the token limit or the conversation by the context,
the turn limit came first, the world broke, or the judge did. The last two say nothing about the agent: they are never
a reward of 0, but leave the batch."""
VOID: frozenset[str] = frozenset({"environment", "judge"})
"""Outcomes that are nobody's merit or fault."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a world says to one agent."""

    text: str = ""
    images: tuple[Tensor, ...] = ()
    """Each [H, W, C] uint8, shown before the text."""
    anchor: Hashable = None
    """Names the state that the agent is in: equal anchors in episodes of one task are one state (GiGPO)."""
    invalid: bool = False
    """Whether this answers an action that could not be carried out."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one action."""

    turn: Turn | None
    """What the world says next; None where the episode is over."""
    outcome: Outcome | None = None
    """How the episode ended; None while it goes on."""
    error: str = ""
    """What broke, where the outcome is "environment" or "judge"."""
    answer: str | None = None
    """What the agent answered, where that ended the episode."""
    reward: float | None = None
    """What the world pays for the episode, where it does, once it is over."""


@dataclass(slots=True)
class Record:
    """One episode as the world saw it: what rewards are computed from."""

    task: Any
    """What `reset` was given for the row."""
    actions: list[str] = field(default_factory=list)
    """What the agent said, turn by turn."""
    shown: list[str] = field(default_factory=list)
    """Ids of the pages that it was shown, in order, none twice."""
    answer: str | None = None
    """What it answered; None where it never did."""
    searched: bool = False
    """Whether it searched at all."""
    crops: int = 0
    """Boxes that were cut out."""
    invalid: int = 0
    """Actions that could not be carried out."""
    reward: float | None = None
    """What the world itself pays for the episode, where it does."""
    outcome: Outcome | None = None
    """How it ended; None while it goes on."""
    error: str = ""
    """What broke, if anything."""

    @property
    def finished(self) -> bool:
        """Whether the agent closed the episode itself."""
        return self.outcome == "answered"


class Conversations(Protocol):
    """Worlds that are talked to, many at once, in lock step."""

    @property
    def live(self) -> int | None:
        """How many episodes may be in progress at once; None for any number."""
        ...

    @property
    def records(self) -> Sequence[Record]:
        """The episodes so far, one a row."""
        ...

    def reset(self, tasks: Sequence[Any]) -> list[Turn]:
        """Start an episode a task, and return what each world says first."""
        ...

    def step(self, rows: Sequence[int], actions: Sequence[str]) -> list[Reply]:
        """Carry out one action in each of some rows, whose episodes are not over, and return what came of them."""
        ...
