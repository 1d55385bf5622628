"""A vision-language model as the prefix of a policy: what it makes of pictures and an instruction, layer by layer.

The prefix is [pictures; instruction], every token of which sees every other (π0, arXiv 2410.24164 §IV). Its keys and
values are computed once a decision; the action expert and the critic read them as often as they like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palaestra.agents.vla import adapters
from palaestra.agents.vla.adapters import Tuning
from palaestra.agents.vla.pointing import expected_places
from palaestra.agents.vlm.checkpoint import Checkpoint
from palaestra.envs.core import Observation


@dataclass(frozen=True, slots=True)
class Prefix:
    """What N decisions are made from."""

    keys: tuple[Tensor, ...]
    """A layer each, [N, G, P, d]: rotated to their places."""
    values: tuple[Tensor, ...]
    """A layer each, [N, G, P, d]."""
    real: Tensor
    """[N, P] bool: False where a shorter instruction is padded."""
    hidden: Tensor
    """[N, P, E]: the last layer's output."""
    scores: Tensor
    """[N, K, T]: how much each of the first picture's tokens looks like each of the K things that a backbone has learnt
    to point at; K is 0 where it has not."""
    state: Tensor
    """[N, S]: the normalised proprioception; of width 0 where there is none."""

    def __len__(self) -> int:
        return len(self.real)

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return self.real.device

    def __getitem__(self, rows: Tensor) -> Prefix:
        """Return some rows."""
        return self._each(lambda part: part[rows])

    def repeat_interleave(self, repeats: int, dim: int) -> Prefix:
        """Return each row `repeats` times in a row, as `Tensor.repeat_interleave` does."""
        return self._each(lambda part: part.repeat_interleave(repeats, dim))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Prefix:
        keys, values = (tuple(map(change, parts)) for parts in (self.keys, self.values))
        return Prefix(
            keys, values, change(self.real), change(self.hidden), change(self.scores), change(self.state)
        )

    def mean(self) -> Tensor:
        """Return the mean output over real tokens, [N, E]: what V_vlm reads."""
        weight = self.real[..., None].to(self.hidden.dtype)
        return (self.hidden * weight).sum(1) / weight.sum(1)

    def points(self) -> Tensor:
        """Return where the things are in the first picture that the backbone points at, [N, 2 K] in [-1, 1]."""
        return expected_places(self.scores).flatten(1)


class Backbone(nn.Module):
    """A LLaVA-like checkpoint without its vocabulary's head."""

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        checkpoint: Checkpoint,
        cameras: Mapping[str, tuple[int, int, int]],
        longest: int,
        rank: int = 0,
        points: int = 0,
    ) -> None:
        """Take a checkpoint's model; nothing of it is trained until `tune` says so.

        Args:
            checkpoint: A model with a vision tower and a language model.
            cameras: The pictures that will be seen, by name: height, width, channels.
            longest: Tokens that an instruction may have.
            rank: Of the adapters of the language model's linear layers; 0 for none.
            points: K, the things that it can learn to point at in the first camera's picture (`grounding.py`).

        Raises:
            ValueError: The checkpoint does not see, is built otherwise than LLaVA, or there are no cameras.
        """
        super().__init__()
        if not checkpoint.takes_pictures or not cameras:
            raise ValueError(f"a vision-language-action policy needs eyes; its cameras are {sorted(cameras)}.")
        self.model: Any = checkpoint.model.model
        if lacking := [part for part in ("vision_tower", "language_model") if not hasattr(self.model, part)]:
            raise ValueError(
                f"the checkpoint is a {type(checkpoint.model).__name__}, which has no {' and no '.join(lacking)}: take "
                "one that is built like LLaVA or PaliGemma; SmolVLA's is read from the folder of the whole policy."
            )
        self.cameras, self.longest = dict(cameras), longest
        self._tokenizer = checkpoint.tokenizer
        images = checkpoint.processor.image_processor
        self._side = (int(images.size["height"]), int(images.size["width"]))
        self.register_buffer("_mean", torch.tensor(images.image_mean).view(3, 1, 1))
        self.register_buffer("_std", torch.tensor(images.image_std).view(3, 1, 1))
        self._known: dict[str, list[int]] = {}
        self.pointer = nn.Parameter(torch.zeros(points, self.text.hidden_size))
        if rank:
            adapters.adapt(self.model.language_model, rank)
        self.tune("frozen")
        self.eval()

    @property
    def text(self) -> Any:
        """The language model's configuration."""
        return self.model.language_model.config

    @property
    def width(self) -> int:
        """What `Prefix.mean` and `Prefix.points` are wide together."""
        return int(self.text.hidden_size) + 2 * len(self.pointer)

    def tune(self, tuning: Tuning) -> None:
        """Choose what is trained from now on.

        Raises:
            ValueError: Adapters are to be trained, but there are none.
        """
        adapters.tune(self.model, tuning)
        self.pointer.requires_grad_(tuning == "full")
        self.tuning = tuning

    def fit(self, images: Mapping[str, Tensor]) -> None:
        """Take mean and standard deviation of colours from pictures [N, H, W, 3]; only for weights fresh from the dice.

        Small things on a large table then stand out, and are found in a fraction of the steps.
        """
        colours = torch.cat([picture.flatten(0, 2).float() / 255 for picture in images.values()])
        self._mean.copy_(colours.mean(0).view(3, 1, 1))
        self._std.copy_(colours.std(0).clamp(min=1 / 255).view(3, 1, 1))

    def train(self, mode: bool = True) -> Backbone:
        """Stay as deployed: dropout would make stored and recomputed log-probabilities differ."""
        return super().train(False)

    def forward(self, observation: Observation, state: Tensor) -> Prefix:
        """Return the prefix of N observations.

        Args:
            observation: Pictures of all cameras, and an instruction each.
            state: [N, S], passed on.

        Raises:
            ValueError: A camera is missing, unknown, or of another size or dtype; an instruction is empty or too long.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tuning != "frozen"):
            pictures = self._pictures(observation)
            ids, spoken = self._words(observation.text, pictures.device)
            words = self.model.get_input_embeddings()(ids)
            embedded = torch.cat([pictures.to(words.dtype), words], 1)
            real = torch.cat([spoken.new_ones(pictures.shape[:2]), spoken], 1)
            # A padded row sees the real tokens too: attention over nothing would be NaN.
            sees = real[:, None, None, :].expand(-1, 1, real.shape[1], -1)
            place = torch.arange(real.shape[1], device=real.device)[None]
            read = self.model.language_model(
                inputs_embeds=embedded, attention_mask=sees, position_ids=place, use_cache=True
            )
            layers = read.past_key_values.layers
            keys, values = tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers)
            hidden = read.last_hidden_state
            scores = self.pointer @ hidden[:, : pictures.shape[1] // len(self.cameras)].transpose(1, 2)
            return Prefix(keys, values, real, hidden, scores, state)

    def tokens(self, line: str) -> list[int]:
        """Return an instruction as tokens.

        Raises:
            ValueError: It is empty or too long.
        """
        ids = self._known.get(line)
        if ids is None:
            # Split: what an instruction says is never read as a special token.
            ids = self._tokenizer(line, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            if not 0 < len(ids) <= self.longest:
                raise ValueError(
                    f"the instruction {line[:60]!r} has {len(ids)} tokens; a policy follows 1 to {self.longest}."
                )
            self._known[line] = ids
        return ids

    def memory(self, prefix: Prefix) -> Any:
        """Return what more tokens can follow: a memory that holds a prefix."""
        from transformers import DynamicCache

        memory = DynamicCache()
        for layer, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
            memory.update(keys, values, layer)
        return memory

    def follow(self, memory: Any, real: Tensor, embedded: Tensor) -> Tensor:
        """Return the outputs [N, S, E] of tokens that see the prefix and those before them; the memory grows by them.

        Args:
            memory: See `memory`.
            real: [N, P], the prefix's.
            embedded: [N, S, E].
        """
        length, before = embedded.shape[1], memory.get_seq_length() - real.shape[1]
        own = torch.ones(length, before + length, dtype=torch.bool, device=real.device).tril(before)
        sees = torch.cat(
            [real[:, None, None, :].expand(-1, 1, length, -1), own.expand(len(real), 1, -1, -1)], 3
        )
        place = real.sum(1, keepdim=True) + before + torch.arange(length, device=real.device)
        read = self.model.language_model(
            inputs_embeds=embedded, attention_mask=sees, position_ids=place, past_key_values=memory, use_cache=True
        )
        outputs: Tensor = read.last_hidden_state
        return outputs

    def rotation(self, like: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the rotary embedding (Su et al. 2021) at places [N, S], [N, S, d] each."""
        cosine, sine = self.model.language_model.rotary_emb(like, place)
        return cosine, sine

    def _pictures(self, observation: Observation) -> Tensor:
        """Return the tokens of all cameras' pictures, [N, cameras × tokens, E]."""
        if observation.images.keys() != self.cameras.keys():
            raise ValueError(
                f"the observation shows {sorted(observation.images)}; the policy sees {sorted(self.cameras)}."
            )
        seen = []
        for name, shape in self.cameras.items():
            picture = observation.images[name]
            if tuple(picture.shape[1:]) != shape or picture.dtype != torch.uint8:
                raise ValueError(
                    f"camera {name!r} shows {tuple(picture.shape[1:])} of {picture.dtype}; the policy was made for "
                    f"{shape} of torch.uint8."
                )
            pixels = picture.permute(0, 3, 1, 2).float() / 255
            if pixels.shape[2:] != self._side:
                pixels = nn.functional.interpolate(pixels, self._side, mode="bilinear", antialias=True)
            seen.append((pixels - self._mean) / self._std)
        count = len(seen[0])
        weight = next(self.model.vision_tower.parameters())
        found = self.model.get_image_features(pixel_values=torch.cat(seen).to(weight.dtype)).pooler_output
        tokens: Tensor = torch.stack(list(found)).unflatten(0, (len(seen), count))
        return tokens.transpose(0, 1).flatten(1, 2)

    def _words(self, text: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return instructions as tokens [N, L], padded on the right, and which are real [N, L] bool."""
        if not text:
            raise ValueError("the observation holds no instructions: these worlds show no text.")
        rows = [self.tokens(line) for line in text]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return ids, torch.arange(length, device=device) < lengths[:, None]
