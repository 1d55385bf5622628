"""Conversations as a model reads them: through its chat template and processor, and how long they are."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.vlm.checkpoint import Checkpoint
from palaestra.agents.vlm.core import AskError, Message, Picture

Skeleton = tuple[tuple[str, tuple[str | tuple[int, int], ...]], ...]
"""A conversation with the height and width of each picture in its place."""
Turns = list[dict[str, Any]]
"""A conversation as chat templates take it."""
KEPT = 1024
"""Prompts, and sizes of pictures, whose lengths are remembered."""


class Prompts:
    """Makes a model's inputs from conversations; what is said in them is never read as a special token.

    `encode` belongs to one thread. Fast tokenizers may not be used by two threads at once, so `length`, which any
    thread may call, works on a copy of the processor, under a lock.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.takes_pictures = checkpoint.takes_pictures
        """Whether the model sees."""
        self._processor = checkpoint.processor
        self._counter, self._counting = copy.deepcopy(checkpoint.processor), threading.Lock()
        words = [token.content for token in checkpoint.tokenizer.added_tokens_decoder.values()]
        self._special = re.compile("|".join(map(re.escape, words)) or "(?!)")
        self._length = lru_cache(KEPT)(self._count)
        self._picture_length = lru_cache(KEPT)(self._count_picture)

    def encode(self, conversations: Sequence[Sequence[Message]]) -> dict[str, Tensor]:
        """Return the inputs of the model, one row a conversation, padded on the left, on the CPU."""
        turns = [[self.turn(message.role, message.content) for message in messages] for messages in conversations]
        return dict(self._template(self._processor, turns, {"padding": True, "return_tensors": "pt"}))

    def length(self, messages: Sequence[Message]) -> int:
        """Return how many tokens a conversation has as a prompt; cheap for one of a known form.

        Raises:
            AskError: The chat template does not take such turns, or the processor no picture of such a size.
        """
        return self._length(
            tuple(
                (
                    message.role,
                    tuple(
                        part if isinstance(part, str) else (part.pixels.shape[0], part.pixels.shape[1])
                        for part in message.content
                    ),
                )
                for message in messages
            )
        )

    def turn(self, role: str, content: Sequence[str | Picture | tuple[int, int]]) -> dict[str, Any]:
        """Return a turn as chat templates take it; a picture of which only the size is given is but a mark."""
        if not self.takes_pictures:
            return {"role": role, "content": "".join(part for part in content if isinstance(part, str))}
        parts: list[dict[str, Any]] = []
        for part in content:
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
            elif isinstance(part, Picture):
                parts.append({"type": "image", "image": part.pixels.permute(2, 0, 1)})
            else:
                parts.append({"type": "image"})
        return {"role": role, "content": parts}

    def _template(self, processor: Any, conversations: list[Turns], options: dict[str, Any] | None = None) -> Any:
        """Put conversations through the chat template and the processor, or the tokenizer alone."""
        # Hiding special tokens takes as long as all the rest: only where there are any.
        forged = any(self._special.search(text) for conversation in conversations for text in _texts(conversation))
        # A processor takes the options for its tokenizer apart, a tokenizer does not.
        sees = hasattr(processor, "image_processor")
        return processor.apply_chat_template(
            conversations, tokenize=True, return_dict=True, add_generation_prompt=True, sanitize_control_tokens=forged,
            chat_template=self._processor.chat_template,
            **({"processor_kwargs": options} if sees else options or {}),
        )

    def _count(self, skeleton: Skeleton) -> int:
        """Return how many tokens a prompt has."""
        from jinja2 import TemplateError

        sizes = [part for _, content in skeleton for part in content if isinstance(part, tuple)]
        with self._counting:
            try:
                text = self._count_text([self.turn(role, content) for role, content in skeleton])
            except TemplateError as error:
                roles = ", ".join(role for role, _ in skeleton)
                raise AskError(f"this model's chat template does not take the turns {roles}: {error}") from error
            return text + sum(self._picture_length(*size) for size in sizes)

    def _count_text(self, turns: Turns) -> int:
        """Return how many tokens a prompt has if each picture is but a mark."""
        tokenizer = getattr(self._counter, "tokenizer", self._counter)
        return len(self._template(tokenizer, [turns])["input_ids"][0])

    def _count_picture(self, height: int, width: int) -> int:
        """Return how many tokens a picture has more than its mark, from what the processor makes of a blank one."""
        blank = Picture(torch.zeros(height, width, 3, dtype=torch.uint8))
        try:
            seen = self._template(self._counter, [[self.turn("user", (blank,))]])
        except Exception as error:  # each family of processors refuses in its own way
            raise AskError(f"this model cannot take a picture of {height} x {width} pixels: {error}") from error
        return len(seen["input_ids"][0]) - self._count_text([self.turn("user", ((height, width),))])


def _texts(turns: Turns) -> list[str]:
    """Return what is said in a conversation."""
    texts = []
    for turn in turns:
        content = turn["content"]
        texts += [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
    return texts
