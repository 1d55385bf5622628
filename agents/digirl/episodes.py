"""What an agent that acts in words has done: episodes in memory, and in a folder that only ever grows."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from palaestra.envs.core import Observation


@dataclass(frozen=True, slots=True)
class Episode:
    """One whole episode of T actions."""

    observation: Observation
    """What each action was chosen from: T pictures of each camera, T texts."""
    actions: tuple[str, ...]
    """T of them, as they were said."""
    success: bool
    """The verdict: did it succeed, at any time?"""
    features: Tensor
    """[T, F] float32: what the frozen model makes of each prompt."""
    instruction: Tensor
    """[F] float32: what it makes of the first prompt's words alone."""

    def __len__(self) -> int:
        return len(self.actions)


def save_episode(folder: Path, number: int, episode: Episode) -> Path:
    """Write an episode to `folder/number.safetensors`, whole or not at all."""
    tensors = {f"images.{name}": picture.contiguous() for name, picture in episode.observation.images.items()}
    tensors |= {"features": episode.features.contiguous(), "instruction": episode.instruction.contiguous()}
    words = {"text": episode.observation.text, "actions": episode.actions, "success": episode.success}
    data = save(tensors, {"episode": json.dumps(words)})
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path = folder / f"{number:07d}.safetensors"
    os.replace(file.name, path)
    return path


def read_episodes(folder: Path, upto: int | None = None) -> Iterator[Episode]:
    """Yield the episodes of a folder in the order of their numbers, those below `upto` if it is given."""
    for path in sorted(folder.glob("[0-9]*.safetensors")):
        if upto is not None and int(path.stem) >= upto:
            break
        yield _read(path)


def _read(path: Path) -> Episode:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        words = json.loads(file.metadata()["episode"])
    images = {name.removeprefix("images."): value for name, value in tensors.items() if name.startswith("images.")}
    return Episode(
        Observation(images=images, text=tuple(words["text"])),
        tuple(words["actions"]),
        bool(words["success"]),
        tensors["features"],
        tensors["instruction"],
    )


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of episodes, flat: N of them, in E episodes."""

    episode: Tensor
    """[N] int64: whose."""
    index: Tensor
    """[N] int64: which of its steps, from 0."""
    left: Tensor
    """[N] int64: how many follow it."""
    success: Tensor
    """[N] float32: whether the episode succeeded, 0 or 1."""
    features: Tensor
    """[N, F] float32."""

    @staticmethod
    def of(episodes: Sequence[Episode]) -> Steps:
        """Lay out episodes.

        Raises:
            ValueError: There are none.
        """
        if not episodes:
            raise ValueError("there are no episodes to learn from: collect some first.")
        lengths = torch.tensor([len(one) for one in episodes])
        episode = torch.repeat_interleave(torch.arange(len(episodes)), lengths)
        index = torch.arange(len(episode)) - (lengths.cumsum(0) - lengths)[episode]
        success = torch.tensor([float(one.success) for one in episodes])[episode]
        features = torch.cat([one.features for one in episodes])
        return Steps(episode, index, lengths[episode] - 1 - index, success, features)

    def following(self, values: Tensor) -> Tensor:
        """Return the value of the step after each, 0 after the last of an episode.

        Args:
            values: [N].

        Returns:
            [N].
        """
        return values.roll(-1) * (self.left > 0)
