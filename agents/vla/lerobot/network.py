"""What π0, π0.5 and SmolVLA share: pictures and a prompt through a backbone, once a decision, and an expert beside it.

Each is a `FlowNetwork`: imitation, Flow-SDE, Flow-Noise and π_RL train them as any other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palaestra.agents.flow.network import NoiseHead
from palaestra.agents.flow.samplers import Field
from palaestra.agents.vla import adapters
from palaestra.agents.vla.adapters import Tuning
from palaestra.agents.vla.backbone import Prefix
from palaestra.agents.vla.lerobot.expert import Expert
from palaestra.agents.vla.lerobot.format import Settings
from palaestra.agents.vla.lerobot.processors import Processors
from palaestra.agents.vla.lerobot.statistics import Statistics
from palaestra.agents.vla.lerobot.words import Words, binned, prompt
from palaestra.envs.core import Observation

PIECE = 64
"""Observations that the backbone reads at once where no gradient is needed."""


@dataclass(frozen=True)
class Source:
    """Where a network comes from, and what its files need when it is written back."""

    settings: Settings
    processors: Processors
    words: Words
    unused: dict[str, Tensor]
    """Tensors of the file that a policy never reads, such as the vocabulary's heads."""
    masked: frozenset[str] = frozenset()
    """Cameras that the policy was trained with and that are not there: left out, which is what masking them means."""


class LeRobotNetwork(nn.Module):
    """A backbone, an expert and what lies between them."""

    def __init__(
        self,
        source: Source,
        backbone: Any,
        expert: Expert,
        normaliser: Statistics,
        noise_bounds: tuple[float, float] = (0.08, 0.16),
    ) -> None:
        """Put the parts together; the backbone is frozen until `tune` says otherwise.

        Raises:
            ValueError: A camera that is to be masked is unknown, or none is left.
        """
        super().__init__()
        settings = source.settings
        self.source, self.settings = source, settings
        self.horizon, self.width = int(settings["chunk_size"]), int(settings["max_action_dim"])
        self.cameras = _cameras(source)
        self.backbone, self.expert, self.normaliser = backbone, expert, normaliser
        self.action_in_proj = nn.Linear(self.width, expert.shape.width)
        self.action_out_proj = nn.Linear(expert.shape.width, self.width)
        self.noise = NoiseHead(expert.shape.width, self.horizon, self.width, noise_bounds)
        self._join(expert.shape.width)
        self.tune("frozen")
        self.eval()

    @property
    @abstractmethod
    def language(self) -> Any:
        """The backbone's language model."""

    def adapt(self, rank: int) -> None:
        """Give the language model adapters, to be trained by `tune("lora")`; written back, they are merged into it."""
        adapters.adapt(self.language, rank)
        self.tune(self.tuning)

    def tune(self, tuning: Tuning) -> None:
        """Choose what of the backbone is trained from now on.

        Raises:
            ValueError: Adapters are to be trained, but there are none.
        """
        adapters.tune(self.backbone, tuning)
        self.tuning = tuning

    def train(self, mode: bool = True) -> LeRobotNetwork:
        """Stay as deployed: dropout would make stored and recomputed log-probabilities differ."""
        return super().train(False)

    @property
    def settled(self) -> bool:
        """Whether the backbone is frozen: then a prefix stays true while the expert learns."""
        return self.tuning == "frozen"

    def observe(self, observation: Observation) -> Prefix:
        """Return the prefix of N observations, once a decision.

        Raises:
            ValueError: A camera is missing, unknown, or of another size or dtype; an instruction is empty or too
                long; the proprioception is of another width.
        """
        state = self._state(observation)
        pictures = self._shown(observation)
        ids, spoken = self._prompts(observation.text, state)
        if torch.is_grad_enabled() and not self.settled:
            return self._prefix(pictures, ids, spoken, state)
        # What no gradient passes through is read in pieces: a whole rollout at once would not fit in memory.
        with torch.no_grad():
            parts = zip(*(part.split(PIECE) for part in (ids, spoken, state, *pictures)), strict=True)
            return _joined([self._prefix(list(part[3:]), part[0], part[1], part[2]) for part in parts])

    def _prefix(self, pictures: list[Tensor], ids: Tensor, spoken: Tensor, state: Tensor) -> Prefix:
        """Return the prefix of pictures a camera [N, H, W, 3], tokens [N, L] of which some are real, and a state."""
        seen, words = self._pictures(pictures), self._words(ids)
        embedded = torch.cat([seen.to(words.dtype), words], 1)
        real = torch.cat([spoken.new_ones(seen.shape[:2]), spoken], 1)
        return self._read(embedded, real, state)

    def field(self, context: Prefix, x: Tensor, t: Tensor) -> Field:
        """Return velocity [N, H, D], standard deviation [N, H, D] and the mean of the actions' features [N, W]."""
        suffix, own, condition = self._suffix(context, x, t)
        hidden = self.expert(suffix, context.keys, context.values, context.real, own, condition)
        seen = hidden[:, -self.horizon :]
        features = seen.mean(1)
        return Field(self.action_out_proj(seen), self.noise(features), features)

    def size(self, observation: Observation) -> int:
        """Return how many tokens the longest prompt has; pictures are alike in all worlds.

        Raises:
            ValueError: An instruction is empty or too long.
        """
        _, real = self._prompts(observation.text, self._state(observation))
        return real.shape[1]

    def summary(self, context: Prefix) -> Tensor:
        """Return what V_vlm reads: the mean of the backbone's outputs, padding masked, and proprioception, [N, F]."""
        return torch.cat([context.mean().float(), context.state], 1)

    @abstractmethod
    def _join(self, width: int) -> None:
        """Make the layers through which proprioception and time enter, for an expert of a width."""

    @abstractmethod
    def _pictures(self, pictures: list[Tensor]) -> Tensor:
        """Return the tokens of all cameras' pictures, each [N, H, W, 3] uint8, as [N, P, E]."""

    @abstractmethod
    def _words(self, ids: Tensor) -> Tensor:
        """Return the embedded tokens of prompts [N, L], [N, L, E]."""

    @abstractmethod
    def _read(self, embedded: Tensor, real: Tensor, state: Tensor) -> Prefix:
        """Run the backbone over pictures and words [N, P, E], of which `real` [N, P] are no padding."""

    @abstractmethod
    def _suffix(self, context: Prefix, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the suffix [N, S, W], which of it sees which [S, S] bool, and the condition [N, W] of the norms."""

    def _run(self, embedded: Tensor, sees: Tensor, real: Tensor, state: Tensor) -> Prefix:
        """Run the language model over embedded tokens [N, P, E], where `sees` [N, 1, P, P] says which sees which."""
        place = (real.cumsum(1) - 1).clamp(min=0)  # padding has a place too, which nothing sees
        read = self.language(inputs_embeds=embedded, attention_mask=sees, position_ids=place, use_cache=True)
        layers = read.past_key_values.layers
        keys, values = tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers)
        hidden = read.last_hidden_state
        return Prefix(keys, values, real, hidden, hidden.new_zeros(len(hidden), 0, 0), state)

    def padded(self, state: Tensor) -> Tensor:
        """Return proprioception [N, S] at the width that the policy takes, zeros behind it."""
        return nn.functional.pad(state, (0, int(self.settings["max_state_dim"]) - state.shape[1]))

    def _state(self, observation: Observation) -> Tensor:
        """Return the normalised proprioception, [N, S]."""
        state, width = observation.state, self.settings.state
        if state is None or state.shape[1] != width:
            shown = "none" if state is None else str(state.shape[1])
            raise ValueError(f"the policy reads {width} numbers of proprioception; the observation holds {shown}.")
        normal: Tensor = self.normaliser(state)
        return normal

    def _shown(self, observation: Observation) -> list[Tensor]:
        """Return the pictures that the policy sees, in its order."""
        images = observation.images
        if images.keys() != self.cameras.keys():
            raise ValueError(
                f"the observation shows {sorted(images)}; the policy sees {sorted(self.cameras)}. Where a camera does "
                "not exist, read the checkpoint with it among the masked ones."
            )
        for name, shape in self.cameras.items():
            picture = images[name]
            if tuple(picture.shape[1:]) != shape or picture.dtype != torch.uint8:
                raise ValueError(
                    f"camera {name!r} shows {tuple(picture.shape[1:])} of {picture.dtype}; the policy was made for "
                    f"{shape} of torch.uint8."
                )
        return [images[name] for name in self.cameras]

    def _prompts(self, text: tuple[str, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of prompts [N, L] and which are real."""
        if not text:
            raise ValueError("the observation holds no instructions: these worlds show no text.")
        kind = self.settings.kind
        # The state is only written out where it is read: its numbers wait for the device.
        rows = binned(self.padded(state)).tolist() if kind == "pi05" else [[]] * len(text)
        prompts = [prompt(kind, line, row) for line, row in zip(text, rows, strict=True)]
        return self.source.words(prompts, state.device)


def _joined(parts: list[Prefix]) -> Prefix:
    """Return prefixes of the same length as one."""
    if len(parts) == 1:
        return parts[0]

    def layers(name: str) -> tuple[Tensor, ...]:
        return tuple(map(torch.cat, zip(*(getattr(part, name) for part in parts), strict=True)))

    rest = (torch.cat([getattr(part, name) for part in parts]) for name in ("real", "hidden", "scores", "state"))
    return Prefix(layers("keys"), layers("values"), *rest)


def _cameras(source: Source) -> dict[str, tuple[int, int, int]]:
    """Return the cameras that worlds must show, by the name that they have there."""
    declared = source.settings.cameras
    if unknown := source.masked - declared.keys():
        raise ValueError(f"masked cameras {sorted(unknown)} are none of the policy's: {sorted(declared)}.")
    kept = {source.processors.shown_as(name): shape for name, shape in declared.items() if name not in source.masked}
    if not kept:
        raise ValueError("all of the policy's cameras are masked, and it needs eyes.")
    return kept


def depth(names: Collection[str], prefix: str) -> int:
    """Return how many layers the tensors with a prefix are of."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    return len({number for number in numbers if number.isdigit()})
