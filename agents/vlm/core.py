"""What can be asked of a model, what it answers, and what an engine is.

An ask is a value: two asks with the same content have the same `digest`, which is what lets the batcher merge them
and keep their answers. Images are uint8 tensors, straight from a rasteriser or a decoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from palaestra.envs.core import Observation

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image."""

    pixels: Tensor
    """[H, W, 3] uint8."""

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype != torch.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise AskError(f"a picture is uint8 of shape [H, W, 3], got {self.pixels.dtype} of shape {list(shape)}.")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: tuple[str | Picture, ...]
    """Texts and pictures in the order in which they are read."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask for the next turn of a conversation."""

    messages: tuple[Message, ...]
    max_tokens: int = 64
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    """Of the sampling. With one, the answer depends on nothing else in the batch; without, it is not merged or kept."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer. They are not part of it."""
    logprobs: bool = False
    """Whether the answer holds the log-probability of each of its tokens (under the model, at temperature 1)."""
    choices: tuple[str, ...] = ()
    """If given, the answer is the likeliest of these, decided in one forward pass."""


@dataclass(frozen=True, slots=True)
class Embed:
    """Ask for a unit vector that stands for a text or a picture."""

    item: str | Picture


@dataclass(frozen=True, slots=True)
class Act:
    """Ask a trained policy what to do."""

    observation: Observation
    """Of one world."""


Ask: TypeAlias = Generate | Embed | Act


@dataclass(frozen=True, slots=True)
class Text:
    """The answer to `Generate`."""

    text: str
    tokens: tuple[int, ...] = ()
    """The generated ids, the one that ended the answer included."""
    token_texts: tuple[str, ...] = ()
    """What each of them reads as; empty unless log-probabilities were asked for."""
    logprobs: tuple[float, ...] = ()
    """One a token; empty unless asked for."""
    finish: Finish = "stop"
    prompt_tokens: int = 0
    scores: tuple[float, ...] = ()
    """log p(choice | prompt) of each choice, summed over its tokens; empty unless choices were given."""


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """The answer to `Embed`."""

    values: Tensor
    """[D] float32, of length 1, on the CPU."""
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """The answer to `Act`."""

    action: Tensor | str
    """[C, A] float32 on the CPU: a chunk of C actions; or a text action."""


Answer: TypeAlias = Text | Vector | Action


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """An answer and how it came about."""

    answer: Answer
    version: str
    """Of the weights that made it."""
    queue_seconds: float = 0.0
    """From the ask to the start of its batch; 0 for a kept answer."""
    model_seconds: float = 0.0
    """That its batch took; 0 for a kept answer."""
    batch: int = 1
    """How many asks shared the batch."""
    kept: bool = field(default=False)
    """Whether it came from the cache."""


class AskError(ValueError):
    """The ask itself is wrong: no engine of this kind could answer it. HTTP 400."""


class UnknownModelError(LookupError):
    """No model has that name. HTTP 404."""


class OverloadedError(RuntimeError):
    """The queue is full and the caller would not wait. HTTP 429."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which there may be room again."""


class LateError(TimeoutError):
    """The deadline passed before the model ran, so it never did. HTTP 504."""


class EngineError(RuntimeError):
    """The engine failed on this ask: it raised, hung, or returned what is no answer. HTTP 500."""


class WeightsError(ValueError):
    """These weights cannot replace the present ones, which stay. HTTP 409."""


class ServerLostError(ConnectionError):
    """The server cannot be reached, or its model has been closed. HTTP 503."""


class Engine(Protocol):
    """Something that answers a batch of asks. One thread at a time calls `answer`."""

    @property
    def version(self) -> str:
        """The name of the weights: a short digest, or what the user called them."""
        ...

    def check(self, ask: Ask) -> None:
        """Raise `AskError` for an ask that this engine can never answer. Cheap; any thread calls it."""
        ...

    def size(self, ask: Ask) -> int:
        """Return about how much room the ask takes in a batch (tokens): asks of like size are batched together."""
        ...

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer | Exception]:
        """Answer a batch, in order. What it raises is no one's fault in particular: the batch is split to find out."""
        ...

    def load(self, path: Path) -> Engine:
        """Return an engine of the same kind with other weights, ready to take over; the old one stays usable.

        Raises:
            WeightsError: They are of another architecture, or unreadable.
        """
        ...


@dataclass(frozen=True, slots=True)
class Audience:
    """Those who listen while a batch is answered."""

    places: frozenset[int]
    """Which asks of the batch have listeners: pieces of others are not wanted."""
    tell: Callable[[Mapping[int, str]], Collection[int]]
    """Is called after every step with the text that it added to each of those, and returns which asks of the batch
    nobody waits for any more: they may be left unfinished. A piece is certain: no later one takes it back."""


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that can be listened to. What its pieces leave out of a text, the answer itself holds."""

    def stream(self, asks: Sequence[Ask], audience: Audience) -> Sequence[Answer | Exception]:
        """Answer a batch as `answer` does, and tell the audience of texts as they grow."""
        ...


def digest(ask: Ask) -> str | None:
    """Return what identifies an ask by its content; None where two equal asks may have different answers.

    An `Act` has none: policies draw their actions, and worlds that start alike (GRPO's groups) must not act alike.
    """
    if isinstance(ask, Act) or (isinstance(ask, Generate) and ask.temperature > 0 and ask.seed is None):
        return None
    return hashlib.sha256(repr(_plain(ask)).encode()).hexdigest()[:32]


_LEAVES = frozenset({str, int, float, bool, type(None)})


def _plain(value: object) -> object:
    """Return a value that reads the same (`repr`) only for equal content: tensors as what they hold, hashed.

    SHA-256, since processors have instructions for it: hashing a picture takes longer than all else about an ask.
    """
    if type(value) in _LEAVES:
        return value
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        return str(value.dtype), tuple(value.shape), hashlib.sha256(content).digest()
    if isinstance(value, (tuple, list)):
        return tuple([_plain(item) for item in value])
    if hasattr(value, "__dataclass_fields__"):
        return type(value).__name__, *[_plain(getattr(value, name)) for name in value.__dataclass_fields__]
    raise TypeError(f"an ask holds no {type(value).__name__}.")
