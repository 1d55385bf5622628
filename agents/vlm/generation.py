"""Continue a batch of prompts, or score given answers to them, each row on its own terms.

Both run inside `model.generate(custom_generate=...)`: transformers prepares caches, masks and positions as each
architecture needs them, while the choice of tokens, which it makes in one way for a whole batch, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.vlm.core import Audience, Finish, Generate

Decode = Callable[[list[int]], str]
State = dict[str, Any]
"""What transformers carries from one forward pass to the next: cache, mask, positions and the like."""
PER_ROW = ("attention_mask", "token_type_ids", "mm_token_type_ids")
"""Entries of the state with one row a prompt in dimension 0."""
SHRINK = 0.75
"""Finished rows leave the batch once this share or less still runs: leaving costs a copy of the others' cache."""


@dataclass(slots=True)
class Continuation:
    """What a prompt was continued with."""

    tokens: list[int] = field(default_factory=list)
    """The one that ended it included."""
    logprobs: list[float] = field(default_factory=list)
    """log p of each token at temperature 1; empty unless the ask wants them."""
    text: str = ""
    """Without what ended it."""
    finish: Finish = "length"


def choose(logits: Tensor, temperature: Tensor, top_p: Tensor, noise: Tensor) -> Tensor:
    """Choose a token for each row: the first past the post in a race in which token v takes time noise_v / p_v.

    That samples from p (it is the Gumbel trick, Maddison et al., 2014, arXiv:1411.0030), and rounding, which differs
    with the size of the batch, changes a draw only where two tokens come in together, however large the vocabulary.

    Args:
        logits: [R, V] float32.
        temperature: [R]; 0 takes the likeliest token.
        top_p: [R] in (0, 1]: sample from the fewest likeliest tokens whose probabilities sum to at least this
            (Holtzman et al., 2020, arXiv:1904.09751).
        noise: [R, V] exponential of rate 1; not read where the temperature is 0.

    Returns:
        [R] int64.
    """
    tokens = logits.argmax(-1)
    index = (temperature > 0).nonzero().squeeze(-1)
    if len(index):
        p = (logits[index] / temperature[index, None]).softmax(-1)
        narrow = (top_p[index] < 1).nonzero().squeeze(-1)
        if len(narrow):
            ordered, order = p[narrow].sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered
            p[narrow] = torch.zeros_like(ordered).scatter(-1, order, ordered * (before < top_p[index[narrow], None]))
        tokens[index] = (p / noise[index]).argmax(-1)
    return tokens


class _Decoder:
    """Chooses the tokens of a batch, step by step, and knows which asks are done."""

    def __init__(
        self,
        asks: Sequence[Generate],
        decode: Decode,
        ends: frozenset[int],
        device: torch.device,
        audience: Audience | None,
    ) -> None:
        self.answers = [Continuation() for _ in asks]
        self.running = set(range(len(asks)))
        self._audience = audience
        self._told = [""] * len(asks)
        self._asks, self._decode, self._ends = asks, decode, ends
        self._logprobs = any(ask.logprobs for ask in asks)
        self._sampled = any(ask.temperature > 0 for ask in asks)
        if self._sampled:
            self._temperature = torch.tensor([ask.temperature for ask in asks], device=device)
            self._top_p = torch.tensor([ask.top_p for ask in asks], device=device)
            self._generators = _generators(asks, device)

    def step(self, logits: Tensor, rows: list[int]) -> Tensor:
        """Return [R] the next token of each row, given [R, V] float32 and the ask that each row belongs to."""
        if self._sampled:
            index = torch.tensor(rows, device=logits.device)
            chosen = choose(logits, self._temperature[index], self._top_p[index], self._noise(logits, rows))
        else:
            chosen = logits.argmax(-1)
        logprobs = None
        if self._logprobs:
            logprobs = (logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)).tolist()
        for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if row in self.running:
                answer = self.answers[row]
                answer.tokens.append(token)
                if logprobs is not None and self._asks[row].logprobs:
                    answer.logprobs.append(logprobs[place])
                if self._ended(answer, self._asks[row]):
                    self.running.discard(row)
        if self._audience is not None:
            self.running.difference_update(self._audience.tell(self._pieces(self._audience.places & self.running)))
        return chosen

    def _pieces(self, rows: Iterable[int]) -> dict[int, str]:
        """Return what is certain of the texts of some rows and has not been told yet."""
        pieces = {}
        for row in rows:
            text, told = certain(self._decode(self.answers[row].tokens), self._asks[row].stop), self._told[row]
            if len(text) > len(told) and text.startswith(told):
                pieces[row], self._told[row] = text[len(told) :], text
        return pieces

    def _noise(self, logits: Tensor, rows: list[int]) -> Tensor:
        """Return noise like the logits, each row's from its own generator."""
        noise = torch.ones_like(logits)
        for place, row in enumerate(rows):
            if row in self.running and (generator := self._generators[row]) is not None:
                noise[place].exponential_(generator=generator)
        return noise

    def _ended(self, answer: Continuation, ask: Generate) -> bool:
        """Note whether and how an answer is done, with its text."""
        if answer.tokens[-1] in self._ends:
            answer.text, answer.finish = self._decode(answer.tokens[:-1]), "stop"
            return True
        # A character is at most four tokens, so a stop string that the last token completed lies in this window.
        window = 4 * max(map(len, ask.stop)) + 4 if ask.stop else 0
        if window and _first(self._decode(answer.tokens[-window:]), ask.stop) >= 0:
            text = self._decode(answer.tokens)
            if (cut := _first(text, ask.stop)) >= 0:
                answer.text, answer.finish = text[:cut], "stop"
                return True
        if len(answer.tokens) == ask.max_tokens:
            answer.text = self._decode(answer.tokens)
            return True
        return False


def certain(text: str, stops: Sequence[str]) -> str:
    """Return the beginning of an unfinished text that no token to come can take back.

    What it ends with may be the beginning of a stop string, or of a character of several tokens.
    """
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    held = (count for stop in stops for count in range(1, len(stop)) if text.endswith(stop[:count]))
    return text[: len(text) - max(held, default=0)]


def _first(text: str, stops: Sequence[str]) -> int:
    """Return where the first of the stop strings begins, -1 if there is none."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=-1)


def _generators(asks: Sequence[Generate], device: torch.device) -> list[torch.Generator | None]:
    """Return the source of each ask's randomness, from its own seed if it has one; none for greedy asks."""
    generators: list[torch.Generator | None] = []
    for ask in asks:
        generators.append(torch.Generator(device) if ask.temperature > 0 else None)
        if generator := generators[-1]:
            generator.seed() if ask.seed is None else generator.manual_seed(ask.seed)
    return generators


def continue_prompts(
    model: Any,
    inputs: Mapping[str, Any],
    asks: Sequence[Generate],
    decode: Decode,
    ends: frozenset[int],
    audience: Audience | None = None,
) -> list[Continuation]:
    """Continue prompts, each until one of its own ends.

    Args:
        model: A transformers model that can generate.
        inputs: What its processor made of the prompts, padded on the left, on the model's device.
        asks: One a prompt; their messages are not read here.
        decode: Tokens to text, without special tokens.
        ends: Tokens that end an answer.
        audience: Told of the texts as they grow; an answer that nobody waits for ends where it is.

    Returns:
        One continuation a prompt.
    """

    def loop(model: Any, input_ids: Tensor, **state: Any) -> list[Continuation]:
        decoder = _Decoder(asks, decode, ends, input_ids.device, audience)
        rows = list(range(len(asks)))
        outputs = _forward(model, input_ids, state, first=True)
        while True:
            tokens = decoder.step(outputs.logits[:, -1].float(), rows)
            if not decoder.running:
                return decoder.answers
            state = model._update_model_kwargs_for_generation(outputs, state)
            if len(decoder.running) <= SHRINK * len(rows) and _selectable(state):
                places = [place for place, row in enumerate(rows) if row in decoder.running]
                rows, index = [rows[place] for place in places], torch.tensor(places, device=tokens.device)
                tokens, state = tokens[index], _select(state, index)
            outputs = _forward(model, tokens[:, None], state)

    return _generate(model, inputs, loop)  # type: ignore[no-any-return]


def score_choices(
    model: Any, inputs: Mapping[str, Any], choices: Sequence[Sequence[Sequence[int]]]
) -> list[list[list[float]]]:
    """Return log p of each token of each choice of each prompt, at temperature 1: [prompt][choice][token].

    The prompts run once, in one pass; what is left of the choices after their first tokens is appended to the
    prompts' cache in a second one.

    Args:
        model: A transformers model that can generate.
        inputs: What its processor made of the prompts, padded on the left, on the model's device.
        choices: The tokens of each choice of each prompt; none is empty.
    """

    def loop(model: Any, input_ids: Tensor, **state: Any) -> list[list[list[float]]]:
        outputs = _forward(model, input_ids, state, first=True)
        first = outputs.logits[:, -1].float().log_softmax(-1).cpu()
        scores = [[[float(first[row, c[0]])] for c in of_row] for row, of_row in enumerate(choices)]
        lines = [(row, place) for row, of_row in enumerate(choices) for place, c in enumerate(of_row) if len(c) > 1]
        if not lines:
            return scores
        longest = max(len(choices[row][place]) for row, place in lines)
        padded = torch.zeros(len(lines), longest, dtype=torch.long)
        for line, (row, place) in enumerate(lines):
            padded[line, : len(choices[row][place])] = torch.tensor(choices[row][place])
        padded = padded.to(input_ids.device)
        state = model._update_model_kwargs_for_generation(outputs, state, num_new_tokens=longest - 1)
        state = _select(state, torch.tensor([row for row, _ in lines], device=input_ids.device))
        state["logits_to_keep"] = longest - 1
        logits = _forward(model, padded[:, :-1], state).logits[:, 1 - longest :].float()
        logprobs = (logits.gather(-1, padded[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)).tolist()
        for (row, place), line_logprobs in zip(lines, logprobs, strict=True):
            scores[row][place] += line_logprobs[: len(choices[row][place]) - 1]
        return scores

    return _generate(model, inputs, loop)  # type: ignore[no-any-return]


def _generate(model: Any, inputs: Mapping[str, Any], loop: Callable[..., Any]) -> Any:
    """Run a decoding loop on what transformers prepares for it, and return what the loop returns."""

    def decoding(model: Any, input_ids: Tensor, **state: Any) -> Any:
        for unused in ("logits_processor", "stopping_criteria", "generation_config"):
            del state[unused]
        return loop(model, input_ids, **state)

    with torch.inference_mode():
        return model.generate(**inputs, custom_generate=decoding, do_sample=False, max_new_tokens=1, use_cache=True)


def _forward(model: Any, input_ids: Tensor, state: State, first: bool = False) -> Any:
    """Run the model on the tokens that its cache does not hold yet."""
    length = None if first else input_ids.shape[1]
    prepared = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=length, is_first_iteration=first, **state
    )
    return model(**prepared, return_dict=True)


def _selectable(state: State) -> bool:
    """Return whether rows can leave: not where layers hold states of another kind than keys and values."""
    layers = getattr(state.get("past_key_values"), "layers", None)
    plain = bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers or ())
    return plain and not any(name.startswith("cross_attention") for name in state)


def _select(state: State, index: Tensor) -> State:
    """Return the state of some rows, which may repeat; the cache is changed in place."""
    state["past_key_values"].batch_select_indices(index)
    chosen = {name: state[name][index] for name in PER_ROW if state.get(name) is not None}
    if (positions := state.get("position_ids")) is not None:
        chosen["position_ids"] = positions.index_select(-2, index)
    return {**state, **chosen}
