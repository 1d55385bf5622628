"""A checkpoint in memory that speaks: generation and choice for batches of asks, as they come or as it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.vlm.checkpoint import Checkpoint
from palaestra.agents.vlm.core import Audience, Generate, Message, Text, WeightsError
from palaestra.agents.vlm.generation import continue_prompts, score_choices
from palaestra.agents.vlm.prompts import Prompts


class Speaker:
    """Answers batches of `Generate` with the weights as they are at that moment; belongs to one thread."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint; nothing is copied.

        Raises:
            WeightsError: It names no token that ends an answer.
        """
        self.prompts = Prompts(checkpoint)
        """How it reads conversations."""
        self._checkpoint = checkpoint
        self._ends = _ends(checkpoint)

    def answer(self, asks: Sequence[Generate], audience: Audience | None = None) -> list[Text]:
        """Answer a batch, in order: asks with choices in one group, the others in another, which can be listened to."""
        answers: dict[int, Text] = {}
        choosing = [place for place, ask in enumerate(asks) if ask.choices]
        if choosing:
            answers |= zip(choosing, self._choose([asks[place] for place in choosing]), strict=True)
        others = [place for place, ask in enumerate(asks) if not ask.choices]
        if others:
            listening = None if audience is None else _part(audience, others)
            answers |= zip(others, self._continue([asks[place] for place in others], listening), strict=True)
        return [answers[place] for place in range(len(asks))]

    @torch.no_grad()
    def features(self, conversations: Sequence[Sequence[Message]]) -> Tensor:
        """Return what the model makes of prompts, [N, 2 D] float32: its last layer at the last token, and on average.

        Critics learn from these while the weights are frozen: see Digi-Q (Bai et al., 2025, arXiv:2502.15760).
        """
        inputs = self._there(self.prompts.encode(conversations))
        hidden = self._checkpoint.model(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states[-1].float()
        real = inputs["attention_mask"][..., None].to(hidden.dtype)
        return torch.cat([hidden[:, -1], (hidden * real).sum(1) / real.sum(1)], -1)

    def _continue(self, asks: Sequence[Generate], audience: Audience | None) -> list[Text]:
        """Answer asks without choices."""
        inputs = self.inputs(asks)
        made = continue_prompts(self._checkpoint.model, inputs, asks, self._decode, self._ends, audience)
        return [
            Text(
                text=one.text,
                tokens=tuple(one.tokens),
                token_texts=_token_texts(self._decode, one.tokens) if ask.logprobs else (),
                logprobs=tuple(one.logprobs),
                finish=one.finish,
                prompt_tokens=count,
            )
            for ask, one, count in zip(asks, made, _lengths(inputs), strict=True)
        ]

    def _choose(self, asks: Sequence[Generate]) -> list[Text]:
        """Answer asks with choices."""
        inputs = self.inputs(asks)
        choices = [self._choice_tokens(ask.choices) for ask in asks]
        scored = score_choices(self._checkpoint.model, inputs, choices)
        texts = []
        for ask, tokens, logprobs, count in zip(asks, choices, scored, _lengths(inputs), strict=True):
            scores = tuple(map(sum, logprobs))
            best = scores.index(max(scores))
            texts.append(
                Text(
                    text=ask.choices[best],
                    tokens=tuple(tokens[best]),
                    token_texts=_token_texts(self._decode, tokens[best]) if ask.logprobs else (),
                    logprobs=tuple(logprobs[best]) if ask.logprobs else (),
                    prompt_tokens=count,
                    scores=scores,
                )
            )
        return texts

    def inputs(self, asks: Sequence[Generate]) -> dict[str, Tensor]:
        """Return the model's inputs for the prompts of asks, on its device and of its dtype."""
        return self._there(self.prompts.encode([ask.messages for ask in asks]))

    def _there(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        model = self._checkpoint.model
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _decode(self, tokens: list[int]) -> str:
        """Return what tokens read as."""
        decoded: str = self._checkpoint.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def _choice_tokens(self, choices: tuple[str, ...]) -> list[list[int]]:
        """Return the tokens of each choice, with the one that ends it where another choice goes on."""
        encoded = self._checkpoint.tokenizer(list(choices), add_special_tokens=False)["input_ids"]
        end = min(self._ends)
        return [
            [*one, end] if any(len(other) > len(one) and other[: len(one)] == one for other in encoded) else one
            for one in encoded
        ]

    def longest_choice(self, ask: Generate) -> int:
        """Return a bound on the tokens of a choice: none has more than it has bytes."""
        return max(len(choice.encode()) for choice in ask.choices) + 1


def _part(audience: Audience, places: Sequence[int]) -> Audience:
    """Return those who listen to some asks of a batch, as an audience of these alone."""

    def tell(pieces: Mapping[int, str]) -> list[int]:
        left = audience.tell({places[row]: piece for row, piece in pieces.items()})
        return [row for row, place in enumerate(places) if place in left]

    return Audience(frozenset(row for row, place in enumerate(places) if place in audience.places), tell)


def _lengths(inputs: dict[str, Tensor]) -> list[int]:
    """Return how many tokens each prompt of a batch has."""
    lengths: list[int] = inputs["attention_mask"].sum(-1).tolist()
    return lengths


def _ends(checkpoint: Checkpoint) -> frozenset[int]:
    """Return the tokens that end an answer."""
    end = checkpoint.model.generation_config.eos_token_id
    if end is None:
        end = checkpoint.tokenizer.eos_token_id
    if end is None:
        raise WeightsError("the checkpoint names no token that ends an answer: set eos_token_id in its configuration.")
    return frozenset([end] if isinstance(end, int) else end)


def _token_texts(decode: Any, tokens: Sequence[int]) -> tuple[str, ...]:
    """Return what each token adds to the text; of a character's several tokens the last one has it all."""
    texts, before = [], ""
    for end in range(1, len(tokens) + 1):
        now = decode(list(tokens[:end]))
        if now.endswith("\N{REPLACEMENT CHARACTER}") and end < len(tokens):
            texts.append("")
            continue
        texts.append(now[len(before) :])
        before = now
    return tuple(texts)
