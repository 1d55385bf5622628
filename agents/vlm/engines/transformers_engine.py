"""The `transformers` engine: the next turn of a conversation with pictures, from any image-text-to-text checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from palaestra.agents.vlm.checkpoint import (
    check_same_kind,
    has_tokenizer,
    is_adapter,
    read_checkpoint,
    version_of,
)
from palaestra.agents.vlm.core import Answer, Ask, AskError, Audience, Generate, Picture
from palaestra.agents.vlm.speaker import Speaker


class TransformersEngine:
    """Answers `Generate` with a transformers model; text-only causal models are taken too.

    A picture's pixels go straight from the ask to the processor, all of a batch at once. Text in a message is never
    read as a special token, so no message can forge a turn or a picture. Choices are compared as whole answers: one
    that another begins with is scored with the token that ends it, so that no two of them can both be the answer.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype | str = "auto",
        adapter: Path | None = None,
        version: str | None = None,
        max_context: int | None = None,
        processor: Path | None = None,
    ) -> None:
        """Load a checkpoint.

        Args:
            path: Folder that `save_pretrained` wrote, with safetensors.
            device: Where the model runs.
            dtype: Of the weights; "auto" for the one they are stored in.
            adapter: Folder of a LoRA adapter of `peft`, merged into the weights.
            version: Name of the weights; a digest of the files if not given (see `checkpoint.version_of`).
            max_context: Most tokens of prompt and answer together; what the model was made for if not given.
            processor: Folder of processor and tokenizer, if they are not with the weights.

        Raises:
            WeightsError: A file is missing, damaged or of another architecture.
        """
        self._path, self._processor_path = path, processor or path
        self._device, self._dtype = device, dtype
        self._max_context = max_context
        folders = (path,) if adapter is None else (path, adapter)
        self._version = version or version_of(*folders)
        self._checkpoint = read_checkpoint(
            path, processor=self._processor_path, adapter=adapter, device=device, dtype=dtype
        )
        text = self._checkpoint.model.config.get_text_config()
        self.context: int = max_context or getattr(text, "max_position_embeddings", None) or 2**31
        """Most tokens of prompt and answer together."""
        self._speaker = Speaker(self._checkpoint)

    @property
    def version(self) -> str:
        """The name of the weights."""
        return self._version

    @property
    def takes_pictures(self) -> bool:
        """Whether the model sees."""
        return self._speaker.prompts.takes_pictures

    @property
    def parameters(self) -> int:
        """How many numbers the model has learnt."""
        return sum(each.numel() for each in self._checkpoint.model.parameters())

    def check(self, ask: Ask) -> None:
        """Raise `AskError` for an ask that this engine can never answer; any thread may call it."""
        if not isinstance(ask, Generate):
            raise AskError(f"this model generates text: it takes Generate, not {type(ask).__name__}.")
        _check_parameters(ask)
        _check_messages(ask, self.takes_pictures)
        most = self.context - (self._speaker.longest_choice(ask) if ask.choices else ask.max_tokens)
        length = self._speaker.prompts.length(ask.messages)
        if length > most:
            raise AskError(
                f"the prompt has {length} tokens and {self.context - most} are kept for the answer, but the model's "
                f"context is {self.context}; shorten the prompt, shrink its pictures or lower max_tokens."
            )

    def size(self, ask: Ask) -> int:
        """Return how many tokens the prompt and the longest answer to it have."""
        if not isinstance(ask, Generate):
            return 1
        longest = self._speaker.longest_choice(ask) if ask.choices else ask.max_tokens
        return self._speaker.prompts.length(ask.messages) + longest

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer | Exception]:
        """Answer a batch, in order: asks with choices in one group, the others in another."""
        return self._speaker.answer(_generates(asks))

    def stream(self, asks: Sequence[Ask], audience: Audience) -> Sequence[Answer | Exception]:
        """Answer a batch, and tell of each token of an answer without choices as soon as it is certain."""
        return self._speaker.answer(_generates(asks), audience)

    def load(self, path: Path) -> TransformersEngine:
        """Return an engine with other weights: a checkpoint's, or these ones' base with another adapter.

        Args:
            path: Folder of a whole checkpoint (its own processor is used if it has one) or of a LoRA adapter.

        Raises:
            WeightsError: They are of another architecture, or unreadable; this engine is as it was.
        """
        adapter = path if is_adapter(path) else None
        base = self._path if adapter else path
        processor = base if adapter is None and has_tokenizer(path) else self._processor_path
        if adapter is None:
            check_same_kind(self._checkpoint, path)
        return TransformersEngine(
            base, device=self._device, dtype=self._dtype, adapter=adapter, max_context=self._max_context,
            processor=processor,
        )


def _generates(asks: Sequence[Ask]) -> list[Generate]:
    """Return asks that `check` has let through."""
    found = [ask for ask in asks if isinstance(ask, Generate)]
    if len(found) < len(asks):
        raise AskError("this model generates text: it takes Generate only.")
    return found


def _check_parameters(ask: Generate) -> None:
    """Raise `AskError` for a number that is out of its range."""
    rules = (
        (ask.max_tokens >= 1, f"max_tokens is at least 1, got {ask.max_tokens}"),
        (0 <= ask.temperature < float("inf"), f"temperature is finite and not negative, got {ask.temperature}"),
        (0 < ask.top_p <= 1, f"top_p is above 0 and at most 1, got {ask.top_p}"),
        (ask.seed is None or -(2**63) <= ask.seed < 2**64, f"seed fits in 64 bits, got {ask.seed}"),
        (all(ask.stop), "a stop string is empty; leave it out"),
        (all(ask.choices), "a choice is empty; leave it out"),
        (len(set(ask.choices)) == len(ask.choices), f"two of the choices are equal: {list(ask.choices)}"),
    )
    for fine, complaint in rules:
        if not fine:
            raise AskError(f"{complaint}.")


def _check_messages(ask: Generate, sees: bool) -> None:
    """Raise `AskError` for a conversation that the model cannot be shown."""
    if not ask.messages:
        raise AskError("there are no messages; give at least one turn.")
    if not sees and any(isinstance(part, Picture) for message in ask.messages for part in message.content):
        raise AskError("this model takes text only, but a message holds a picture; ask an image-text-to-text model.")
