"""A small model that sees and speaks: 150,000 parameters, with which VRAG's world is learnt on one core.

Three tricks decide whether it learns to point: key projections start equal to query projections, so that attention
begins as a comparison of contents; image features are normalised, so that what is seen and where it is are equally
loud; and half of the heads look at what was just said (ALiBi, Press et al. 2022), where the name of what is sought is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.agents.grpo.speaker import Passage
from palaestra.envs.retrieval.actions import CLOSINGS
from palaestra.envs.retrieval.core import Turn
from palaestra.envs.retrieval.tiny import ALIASES, KEYS, PLACES, TITLES
from palaestra.envs.retrieval.world import INVALID

PAD, USER, AGENT, IMAGE = ROLES = ("<|pad|>", "<|user|>", "<|assistant|>", "<|image|>")
"""Marks that no agent can utter."""
UNKNOWN = "<|unknown|>"
SLOPES = (0.0, 0.0, 0.25, 0.5)
"""By how much a token counts less the further back it is, for each head: the first two compare contents alone."""
PATCHES = 9
"""Tokens of a picture."""
SIDE = 24
"""Pixels of a picture's side."""


class Surfaces:
    """A tokenizer of a closed vocabulary: a text is cut into the longest surfaces that it begins with."""

    def __init__(self, surfaces: Sequence[str], unknown: str | None = None) -> None:
        """Take surfaces, one of which may stand for whatever stretch of a text none begins with."""
        self.surfaces, self.unknown = tuple(surfaces), unknown
        self._ids = {surface: number for number, surface in enumerate(self.surfaces)}
        longest_first = sorted(self.surfaces, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __len__(self) -> int:
        return len(self.surfaces)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            ValueError: It holds something outside of the vocabulary.
        """
        ids: list[int] = []
        place = 0
        while place < len(text):
            match = self._pattern.match(text, place)
            if match is None and self.unknown is not None:
                if ids[-1:] != [self._ids[self.unknown]]:
                    ids.append(self._ids[self.unknown])
                place += 1
                continue
            if match is None:
                raise ValueError(
                    f"the vocabulary has nothing that {text[place : place + 20]!r} begins with (in {text!r})."
                )
            ids.append(self._ids[match.group()])
            place = match.end()
        return ids

    def id(self, surface: str) -> int:
        """Return the id of a surface."""
        return self._ids[surface]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return "".join(self.surfaces[number] for number in ids)


def vocabulary() -> Surfaces:
    """Return the surfaces of the tiny corpus."""
    tags = [f"<{slash}{name}>" for name in ("think", "search", "bbox", "answer") for slash in ("", "/")]
    spoken = [f" {word}" for word in ("need", "look", "got", *KEYS, *PLACES, *TITLES, *ALIASES)]
    places = [f" {number}" for number in range(0, SIDE + 1, 2)]
    asked = ["What is below the", " of", "?", INVALID]
    return Surfaces([*ROLES, *tags, *map(str, range(10)), *places, *spoken, *asked])


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the small model."""

    width: int = 64
    """Numbers of a token."""
    layers: int = 2
    """Of the transformer."""
    context: int = 160
    """Tokens that a conversation may have."""


class Eyes(nn.Module):
    """Pictures [M, 24, 24, 1] to tokens [M, 9, D], one a square of 8 x 8 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 32, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(32, 48, 4, 2, 1), nn.ReLU(), nn.Conv2d(48, width, 2, 2),
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return normalised features."""
        features: Tensor = self.layers(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1)
        normal: Tensor = self.norm(features.flatten(2).transpose(1, 2))
        return normal


@dataclass(slots=True)
class Memory:
    """Keys and values of conversations in progress."""

    keys: list[Tensor]
    """A layer: [R, H, S, D / H], of which the first `filled` columns are used."""
    values: list[Tensor]
    position: Tensor
    """[R, S] int64: where in its conversation a column's token stands; -1 for a column that holds none."""
    lengths: Tensor
    """[R] int64: tokens so far."""
    filled: int = 0

    def grow(self, columns: int) -> None:
        """Make room for so many columns."""
        more = columns - self.position.shape[1]
        if more > 0:
            more += columns
            self.keys, self.values = (
                [F.pad(part, (0, 0, 0, more)) for part in some] for some in (self.keys, self.values)
            )
            self.position = F.pad(self.position, (0, more), value=-1)


class Layer(nn.Module):
    """Attention and a feed-forward network, normalised before each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        with torch.no_grad():
            matching = width // len(SLOPES) * SLOPES.count(0.0)  # the rows of the heads that compare contents
            self.query.weight[:matching] *= 2
            self.key.weight[:matching] = self.query.weight[:matching]
            self.value.weight *= 2
            self.out.weight.copy_(self.value.weight.T)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of tokens [N, L, D], each [N, H, L, D / H]."""
        normal = self.before(x)
        parts = (layer(normal) for layer in (self.query, self.key, self.value))
        query, key, value = (part.unflatten(-1, (len(SLOPES), -1)).transpose(1, 2) for part in parts)
        return query, key, value

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Return the layer's output for tokens x, given a bias on what they look at, [N or 1, H, L, S]."""
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        y: Tensor = x + self.down(F.gelu(self.up(self.between(x))))
        return y


class TinySpeaker(nn.Module):
    """The model; a `Speaker`."""

    def __init__(
        self, config: TinyConfig | None = None, words: Surfaces | None = None, closings: Sequence[str] = CLOSINGS
    ) -> None:
        """Make an untrained model.

        Args:
            config: Its sizes.
            words: Its vocabulary, with `ROLES` among them; by default that of the tiny corpus.
            closings: Surfaces that end its turn.
        """
        super().__init__()
        self.config = config or TinyConfig()
        self.context, self.width = self.config.context, self.config.width
        self.words = words or vocabulary()
        width = self.width
        self.embedding = nn.Embedding(len(self.words), width)
        self.place = nn.Parameter(torch.randn(PATCHES, width))
        self.eyes = Eyes(width)
        self._layers = [Layer(width) for _ in range(self.config.layers)]
        self.layers = nn.ModuleList(self._layers)
        self.norm = nn.LayerNorm(width)
        if words is None:
            self._know_synonyms()
        # An agent cannot utter the marks of roles and pictures: it would forge the world's turns.
        marks = torch.zeros(len(self.words))
        marks[[self.words.id(mark) for mark in ROLES]] = -1e4
        self.register_buffer("marks", marks, persistent=False)
        self.marks: Tensor
        self._image = self.words.id(IMAGE)
        self._closing = frozenset(map(self.words.id, closings))

    def _know_synonyms(self) -> None:
        """Let words for the same thing lie close together, as in any model that has read."""
        here, there = (torch.tensor([self.words.id(f" {word}") for word in some]) for some in (TITLES, ALIASES))
        with torch.no_grad():
            self.embedding.weight[there] = 0.8 * self.embedding.weight[here] + 0.6 * self.embedding.weight[there]

    def read(self, turn: Turn, first: bool) -> Passage:
        """Return what a turn adds to a conversation: each turn of the world lies between two marks of role.

        Raises:
            ValueError: A picture is not 24 x 24 x 1, or a word is not in the vocabulary.
        """
        for image in turn.images:
            if tuple(image.shape) != (SIDE, SIDE, 1):
                raise ValueError(f"the small model sees {SIDE} x {SIDE} x 1 pixels, got {list(image.shape)}.")
        ids = [self.words.id(USER), *[self._image] * (PATCHES * len(turn.images))]
        return Passage((*ids, *self.words.encode(turn.text), self.words.id(AGENT)), turn.images)

    def write(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.words.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return what ids say."""
        return self.words.decode(ids)

    def closed(self, ids: Sequence[int]) -> bool:
        """Whether the last id is a closing tag of an action."""
        return ids[-1] in self._closing

    def begin(self, rows: int) -> Memory:
        """Return the memory of empty conversations."""
        shape = (rows, len(SLOPES), self.context, self.config.width // len(SLOPES))
        empty = [torch.zeros(shape) for _ in range(2 * len(self.layers))]
        position = torch.full((rows, self.context), -1)
        return Memory(empty[::2], empty[1::2], position, torch.zeros(rows, dtype=torch.long))

    def extend(self, memory: Memory, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Append tokens; see `Speaker.extend`."""
        old, new = memory.filled, memory.filled + ids.shape[1]
        memory.grow(new)
        position = memory.lengths[:, None] + real.cumsum(1) - 1
        memory.position[:, old:new] = torch.where(real, position, -1)
        seen = memory.position[:, None, :new]
        bias = _bias(position[:, :, None] - seen, (seen >= 0) & (seen <= position[:, :, None]))
        x = self.embed(ids, images)
        for number, layer in enumerate(self._layers):
            query, key, value = layer.project(x)
            memory.keys[number][:, :, old:new] = key
            memory.values[number][:, :, old:new] = value
            x = layer(x, query, memory.keys[number][:, :, :new], memory.values[number][:, :, :new], bias)
        memory.filled = new
        memory.lengths = memory.lengths + real.sum(1)
        last = real.sum(1).clamp(min=1) - 1
        return self._head(x[torch.arange(len(x)), last])

    def select(self, memory: Memory, rows: Tensor) -> Memory:
        """Return the memory of some rows."""
        return Memory(
            [key[rows] for key in memory.keys], [value[rows] for value in memory.values],
            memory.position[rows], memory.lengths[rows], memory.filled,
        )  # fmt: skip

    def logits(self, ids: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Return logits of what follows each token, [N, L, V], for conversations padded on the right."""
        return self._head(self._last(ids, images))

    def hidden(self, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Return what the head reads; see `Speaker.hidden`."""
        x: Tensor = self.norm(self._last(ids, images))
        return x

    def _last(self, ids: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Return what the last layer makes of each token, [N, L, D]."""
        place = torch.arange(ids.shape[1])
        distance = place[:, None] - place
        bias = _bias(distance, distance >= 0)[None]
        x = self.embed(ids, images)
        for layer in self._layers:
            x = layer(x, *layer.project(x), bias)
        return x

    def _head(self, x: Tensor) -> Tensor:
        # Who has copied a word into x says it: the head is the embedding.
        logits: Tensor = self.norm(x) @ self.embedding.weight.T / self.config.width**0.5 + self.marks
        return logits

    def score(self, ids: Tensor, real: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies; see `Speaker.score`."""
        log_p = self.logits(ids, images)[:, :-1].log_softmax(-1)
        chosen = log_p.gather(-1, ids[:, 1:, None]).squeeze(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        return F.pad(chosen, (1, 0)), F.pad(entropy, (1, 0))

    def embed(self, ids: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Return tokens as the first layer takes them, [N, L, D]."""
        x: Tensor = self.embedding(ids)
        if images:
            seen = self.eyes(torch.stack(tuple(images))) + self.place
            x = x.index_put((ids == self._image).nonzero(as_tuple=True), seen.flatten(0, 1))
        return x


def _bias(distance: Tensor, allowed: Tensor) -> Tensor:
    """Return ALiBi's bias [..., H, L, S] for distances [..., L, S], and minus infinity where looking is not allowed."""
    # What may look at nothing (padding before the first token) looks at all alike: softmax must not divide by zero.
    floor = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    slopes = torch.tensor(SLOPES)[:, None, None]
    return floor.unsqueeze(-3) - slopes * distance.clamp(min=0).unsqueeze(-3)
