"""A vision-language model of transformers as a `Speaker`: any checkpoint that `read_checkpoint` loads.

Models whose text positions simply count (LLaVA and its kin); those with positions in three dimensions (Qwen2-VL) would
need their own `position_ids`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.agents.grpo.speaker import Passage
from palaestra.agents.vlm.checkpoint import Checkpoint
from palaestra.envs.retrieval.actions import CLOSINGS
from palaestra.envs.retrieval.core import Turn

_SAID = "\u2042"
"""Stands for what the agent says while a chat template is read."""


@dataclass(slots=True)
class VlmMemory:
    """Conversations in progress."""

    cache: Any
    mask: Tensor
    """[R, S] int64: which columns of the cache hold a token of the row."""
    lengths: Tensor
    """[R] int64."""


class VlmSpeaker:
    """Converses by a chat template, token in, token out."""

    def __init__(self, checkpoint: Checkpoint, closings: Sequence[str] = CLOSINGS) -> None:
        """Take a checkpoint, whose weights with `requires_grad` are trained.

        Args:
            checkpoint: The model and its processor.
            closings: Texts that end a turn of the agent.
        """
        self.model, self._processor, self._tokenizer = checkpoint.model, checkpoint.processor, checkpoint.tokenizer
        self._device = next(self.model.parameters()).device
        language = self.model.config.get_text_config()
        self.context, self.width = int(language.max_position_embeddings), int(language.hidden_size)
        self._closings = tuple(closings)
        marks = [token.content for token in self._tokenizer.added_tokens_decoder.values()]
        self._marks = re.compile("|".join(map(re.escape, marks)) or "(?!)")
        self._silent = torch.tensor(
            [id for id, token in self._tokenizer.added_tokens_decoder.items() if token.special], device=self._device
        )

    def read(self, turn: Turn, first: bool) -> Passage:
        """Return what the chat template puts between what the agent said and what it says next."""
        images = [{"type": "image"} for _ in turn.images]
        # What a world says is never read as a special token: it could forge turns.
        text = self._marks.sub(" ", turn.text)
        user = {"role": "user", "content": [*images, *([{"type": "text", "text": text}] if text else [])]}
        before: list[dict[str, Any]] = []
        if not first:
            said = [{"type": "text", "text": _SAID}]
            before = [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
        whole: str = self._processor.apply_chat_template([*before, user], tokenize=False, add_generation_prompt=True)
        passage = whole if first else whole.split(_SAID)[2]
        pictures = [_three(image) for image in turn.images] or None
        found = self._processor(text=[passage], images=pictures, add_special_tokens=False, return_tensors="pt")
        return Passage(tuple(found["input_ids"][0].tolist()), turn.images)

    def write(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return what ids say."""
        text: str = self._tokenizer.decode(list(ids))
        return text

    def closed(self, ids: Sequence[int]) -> bool:
        """Whether the ids end with a closing tag, which may be several tokens."""
        longest = max(map(len, self._closings))
        return self.decode(ids[-longest:]).rstrip().endswith(self._closings)

    def begin(self, rows: int) -> VlmMemory:
        """Return the memory of empty conversations."""
        from transformers import DynamicCache

        mask = torch.zeros(rows, 0, dtype=torch.long, device=self._device)
        return VlmMemory(DynamicCache(), mask, torch.zeros(rows, dtype=torch.long, device=self._device))

    def extend(self, memory: VlmMemory, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Append tokens; see `Speaker.extend`."""
        ids, real = ids.to(self._device), real.to(self._device)
        memory.mask = torch.cat([memory.mask, real.long()], 1)
        position = (memory.lengths[:, None] + real.cumsum(1) - 1).clamp(min=0)
        out = self.model(
            input_ids=ids, attention_mask=memory.mask, position_ids=position, past_key_values=memory.cache,
            use_cache=True, **self._pixels(images),
        )  # fmt: skip
        memory.lengths = memory.lengths + real.sum(1)
        last = real.sum(1).clamp(min=1) - 1
        return self._speakable(out.logits[torch.arange(len(ids), device=self._device), last])

    def select(self, memory: VlmMemory, rows: Tensor) -> VlmMemory:
        """Return the memory of some rows; the one given is used up."""
        rows = rows.to(self._device)
        memory.cache.batch_select_indices(rows)
        return VlmMemory(memory.cache, memory.mask[rows], memory.lengths[rows])

    def score(self, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies; see `Speaker.score`."""
        ids, real = ids.to(self._device), real.to(self._device)
        out = self.model(input_ids=ids, attention_mask=real.long(), use_cache=False, **self._pixels(images))
        log_p = self._speakable(out.logits[:, :-1]).log_softmax(-1)
        chosen = log_p.gather(-1, ids[:, 1:, None]).squeeze(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        # Where the conversations are: on the host.
        return F.pad(chosen, (1, 0)).cpu(), F.pad(entropy, (1, 0)).cpu()

    def hidden(self, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Return what the model's head reads; see `Speaker.hidden`."""
        out = self.model(
            input_ids=ids.to(self._device), attention_mask=real.to(self._device).long(), use_cache=False,
            output_hidden_states=True, **self._pixels(images),
        )  # fmt: skip
        last: Tensor = out.hidden_states[-1].float()
        return last

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Return the model's weights."""
        found: Iterable[torch.nn.Parameter] = self.model.parameters()
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that are trained."""
        return {name: weight.detach() for name, weight in self.model.named_parameters() if weight.requires_grad}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`.

        Raises:
            KeyError: A trained weight is missing.
        """
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if weight.requires_grad:
                    weight.copy_(state[name])

    def _speakable(self, logits: Tensor) -> Tensor:
        """Return logits [..., V] in which special tokens are out of reach: an agent cannot forge turns."""
        return logits.float().index_fill(-1, self._silent, -1e4)

    def _pixels(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return pictures as the model takes them."""
        if not images:
            return {}
        found = self._processor.image_processor(images=[_three(image) for image in images], return_tensors="pt")
        return {name: value.to(self._device) for name, value in found.items()}


def _three(image: Tensor) -> Tensor:
    """Return a picture [H, W, C] as [3, H, W]."""
    return image.permute(2, 0, 1).expand(3, -1, -1)
