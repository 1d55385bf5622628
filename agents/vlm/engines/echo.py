"""An engine without a model: answers at once, or after a fixed time, what can be told in advance."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from palaestra.agents.vlm.core import (
    Act,
    Action,
    Answer,
    Ask,
    AskError,
    Audience,
    Embed,
    Generate,
    Text,
    Vector,
    WeightsError,
    digest,
)

WIDTH = 32
"""Of the vectors."""


class EchoEngine:
    """Answers with what it is asked.

    A `Generate` with the last user's text (of choices: that one if it is among them, else the first), an `Embed` with a
    vector of width `WIDTH` that its content alone decides, an `Act` with the state itself, as a chunk of one action.
    """

    def __init__(self, delay: float = 0.0, version: str = "echo") -> None:
        """Make one.

        Args:
            delay: Seconds that every batch takes, whatever its size.
            version: The name of its weights.
        """
        self.delay, self.version = delay, version

    def check(self, ask: Ask) -> None:
        """Refuse a conversation in which no user says anything, and an observation without one state."""
        if isinstance(ask, Generate) and not any(message.role == "user" for message in ask.messages):
            raise AskError("echo answers the last user's text, and this conversation has no message of role 'user'.")
        if isinstance(ask, Act) and (ask.observation.state is None or len(ask.observation) != 1):
            raise AskError("echo acts on the state of one world: an observation with state of shape [1, S].")

    def size(self, ask: Ask) -> int:
        """Return 1: no ask is longer than another."""
        return 1

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        """Answer a batch, `delay` seconds after being asked."""
        began = time.perf_counter()
        answers: list[Answer | Exception] = [_answer(ask) for ask in asks]
        if self.delay:
            time.sleep(max(self.delay - (time.perf_counter() - began), 0))
        return answers

    def stream(self, asks: Sequence[Ask], audience: Audience) -> list[Answer | Exception]:
        """Answer a batch in the same time, word by word."""
        answers: list[Answer | Exception] = [_answer(ask) for ask in asks]
        texts = {place: each.text for place, each in enumerate(answers) if isinstance(each, Text)}
        words = {place: re.findall(r"\s*\S+", texts[place]) for place in audience.places & texts.keys()}
        steps = max(1, *map(len, words.values()))
        for step in range(steps):
            time.sleep(self.delay / steps)
            left = audience.tell({place: each[step] for place, each in words.items() if step < len(each)})
            if len(left) == len(asks):
                break
        return answers

    def load(self, path: Path) -> EchoEngine:
        """Return an echo with the version, and the delay if there is one, that a JSON file names.

        Raises:
            WeightsError: The file cannot be read, or is no object with a text "version".
        """
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be read as JSON: {error}") from error
        version, delay = (found.get("version"), found.get("delay", self.delay)) if isinstance(found, dict) else (0, 0)
        if not isinstance(version, str) or not isinstance(delay, int | float) or not 0 <= delay < float("inf"):
            raise WeightsError(f'{path} must hold {{"version": TEXT}}, and may hold "delay": SECONDS; got {found!r}.')
        return EchoEngine(delay, version)


def _answer(ask: Ask) -> Answer:
    if isinstance(ask, Generate):
        return _text(ask)
    if isinstance(ask, Embed):
        seed = int.from_bytes(hashlib.blake2b((digest(ask) or "").encode(), digest_size=7).digest(), "big")
        vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
        return Vector(vector / vector.norm())
    assert ask.observation.state is not None
    return Action(ask.observation.state[:1].to("cpu", torch.float32))


def _text(ask: Generate) -> Text:
    last = next(message for message in reversed(ask.messages) if message.role == "user")
    text = "".join(part for part in last.content if isinstance(part, str))
    if ask.choices:
        scores = tuple(0.0 if choice == text else -1.0 for choice in ask.choices)
        return Text(ask.choices[scores.index(max(scores))], scores=scores)
    return Text(text)
