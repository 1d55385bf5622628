"""Did it work? Verdicts on episodes: by the world's own state, by a vision-language model, or with errors on purpose.

A world's state is the truth where there is one. A model stands in where there is none; how far the two agree is
measured by `agreement`. An episode that no verdict could be had on is none of success and failure, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from palaestra.agents.vlm.client import Client
from palaestra.agents.vlm.core import (
    EngineError,
    Generate,
    LateError,
    Message,
    OverloadedError,
    Picture,
    Reply,
    ServerLostError,
    Text,
)

YES, NO = "success", "failure"
"""What a model may answer."""
QUESTION = "Task: {instruction}\nThe pictures are the screen before the last action and the one after it. Status:"
"""DigiRL's evaluator sees the last screen alone; two tell a press from a page that was there before."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a judge is shown of an episode."""

    instruction: str
    """What was to be done."""
    screens: Tensor
    """[2, H, W, 3] uint8: the last two screens."""
    truth: bool
    """The world's own verdict."""


class Judge(Protocol):
    """Says which episodes succeeded."""

    def judge(self, episodes: Sequence[Evidence]) -> list[bool | None]:
        """Return one verdict an episode, None where none could be had."""
        ...


class StateJudge:
    """The truth."""

    def judge(self, episodes: Sequence[Evidence]) -> list[bool | None]:
        """Return the world's own verdicts."""
        return [one.truth for one in episodes]


class NoisyJudge:
    """The truth with errors at set rates, to learn what errors do. They come from torch's global generator."""

    def __init__(self, false_positive: float, false_negative: float) -> None:
        """Make one.

        Args:
            false_positive: Share of failures that it calls successes.
            false_negative: Share of successes that it calls failures.

        Raises:
            ValueError: A rate is not in [0, 1].
        """
        for name, rate in (("false_positive", false_positive), ("false_negative", false_negative)):
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} is {rate}; it is a share, in [0, 1].")
        self.false_positive, self.false_negative = false_positive, false_negative

    def judge(self, episodes: Sequence[Evidence]) -> list[bool | None]:
        """Return the world's own verdicts, some of them turned round."""
        draws = torch.rand(len(episodes)).tolist()
        return [
            one.truth != (draw < (self.false_negative if one.truth else self.false_positive))
            for one, draw in zip(episodes, draws, strict=True)
        ]


class ModelJudge:
    """A vision-language model, asked through a client."""

    def __init__(self, client: Client, model: str, examples: Sequence[tuple[Evidence, bool]] = ()) -> None:
        """Make one.

        Args:
            client: Reaches the model.
            model: Its name there.
            examples: Episodes with right answers that every question begins with.
        """
        self.client, self.model = client, model
        self.missed = 0
        """Verdicts that could not be had."""
        self._examples = [
            turn for shown, right in examples for turn in (_turn(shown), Message("assistant", (YES if right else NO,)))
        ]

    def judge(self, episodes: Sequence[Evidence]) -> list[bool | None]:
        """Return the model's verdicts, all asked for at once."""
        asks = (Generate((*self._examples, _turn(one)), max_tokens=1, choices=(YES, NO)) for one in episodes)
        return [self._read(future) for future in [self.client.ask_nowait(self.model, ask, wait=True) for ask in asks]]

    def _read(self, future: Future[Reply]) -> bool | None:
        try:
            answer = future.result().answer
        except (EngineError, LateError, OverloadedError, ServerLostError):
            self.missed += 1
            return None
        assert isinstance(answer, Text)
        if answer.text not in (YES, NO):  # not every server keeps to the choices
            self.missed += 1
            return None
        return answer.text == YES


def _turn(shown: Evidence) -> Message:
    pictures = (Picture(screen) for screen in shown.screens)
    return Message("user", (*pictures, QUESTION.format(instruction=shown.instruction)))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How verdicts compare with the truth."""

    episodes: int
    """Judged ones; those without a verdict are not among them."""
    precision: float | None
    """Share of the successes that it saw that were ones; None where it saw none."""
    recall: float | None
    """Share of the successes that it saw; None where there were none."""
    accuracy: float | None
    """Share of verdicts that were right; None without episodes."""


def agreement(verdicts: Sequence[bool | None], truths: Sequence[bool]) -> Agreement:
    """Compare verdicts with the truth, episode by episode.

    Raises:
        ValueError: They are not equally many.
    """
    if len(verdicts) != len(truths):
        raise ValueError(f"{len(verdicts)} verdicts cannot be compared with {len(truths)} truths.")
    pairs = [(verdict, truth) for verdict, truth in zip(verdicts, truths, strict=True) if verdict is not None]
    both = sum(verdict and truth for verdict, truth in pairs)
    said, true = sum(verdict for verdict, _ in pairs), sum(truth for _, truth in pairs)
    right = sum(verdict == truth for verdict, truth in pairs)
    return Agreement(
        len(pairs), both / said if said else None, both / true if true else None, right / len(pairs) if pairs else None
    )
