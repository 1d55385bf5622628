"""Gymnasium's spaces as the contract's parts: a state vector, camera pictures, one text.

An observation space is a `Box`, a `Text`, or a `Dict` (nested ones too) of those. A picture is a `Box` of uint8
and shape (H, W, C). Every other `Box` must be a number or a vector; they are joined, in the sorted order of
their dotted keys ("agent.qpos", "agent.qvel", "extra.goal"), into one float32 state vector. One `Text` at most.
An action space is a `Box`, a `Discrete` or a `Text`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from palaestra.envs.core import Observation

ActionSpace = gymnasium.Space[np.ndarray] | gymnasium.Space[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf of an observation space."""

    path: tuple[str, ...]
    """The keys that lead to it, empty where the space is no `Dict`."""
    kind: Literal["state", "image", "text"]
    """Which part of `Observation` it belongs to."""
    shape: tuple[int, ...]
    """One world's shape; of a text, the most bytes its UTF-8 can take."""
    dtype: str
    """NumPy's name of the declared type, empty of a text."""

    @property
    def key(self) -> str:
        """The dotted path; "image", "state" or "text" where the space is no `Dict`."""
        return ".".join(self.path) or self.kind

    @property
    def size(self) -> int:
        """How many numbers one world shows."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each leaf of an observation space goes."""

    entries: tuple[Entry, ...]
    """The leaves, in the sorted order of their paths."""

    @property
    def state(self) -> int | None:
        """Width of the state vector, None where there is none."""
        widths = [entry.size for entry in self.of("state")]
        return sum(widths) if widths else None

    @property
    def images(self) -> dict[str, tuple[int, int, int]]:
        """Camera name to (height, width, channels)."""
        return {entry.key: (entry.shape[0], entry.shape[1], entry.shape[2]) for entry in self.of("image")}

    @property
    def text(self) -> int | None:
        """The most bytes one text can take, None where there is none."""
        return next((entry.size for entry in self.of("text")), None)

    def of(self, kind: str) -> tuple[Entry, ...]:
        """Return the leaves of one kind, in order."""
        return tuple(entry for entry in self.entries if entry.kind == kind)

    def to_json(self) -> str:
        """Return the layout as JSON, which `from_json` reads."""
        return json.dumps([asdict(entry) for entry in self.entries])

    @staticmethod
    def from_json(line: str) -> Layout:
        """Return the layout that `to_json` wrote."""
        return Layout(
            tuple(
                Entry(tuple(e["path"]), e["kind"], tuple(e["shape"]), e["dtype"]) for e in json.loads(line)
            )
        )


def describe(space: gymnasium.Space[Any]) -> Layout:
    """Return the layout of one world's observation space.

    Raises:
        TypeError: For a leaf that is neither a vector, a picture nor a text, naming it and the way out.
    """
    entries = sorted(_leaves(space, ()), key=lambda entry: entry.path)
    texts = [entry.key for entry in entries if entry.kind == "text"]
    if len(texts) > 1:
        raise TypeError(f"an observation space may hold one Text, got {len(texts)}: {', '.join(texts)}.")
    if not entries:
        raise TypeError(f"the observation space {space} is empty.")
    return Layout(tuple(entries))


def _leaves(space: gymnasium.Space[Any], path: tuple[str, ...]) -> list[Entry]:
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in _leaves(part, (*path, key))]
    if isinstance(space, spaces.Text):
        return [Entry(path, "text", (4 * space.max_length,), "")]  # UTF-8 takes at most 4 bytes a character
    if isinstance(space, spaces.Box):
        if len(space.shape) == 3 and space.dtype == np.uint8:
            return [Entry(path, "image", space.shape, "uint8")]
        if len(space.shape) <= 1:
            return [Entry(path, "state", space.shape, str(space.dtype))]
    name = f"key {'.'.join(path)!r} of the observation space" if path else "the observation space"
    raise TypeError(
        f"{name} is {space}, but worlds show numbers and vectors (Box of at most one dimension), pictures "
        "(Box of uint8 and shape (H, W, C)) and one Text, alone or in a Dict. "
        "Wrap the world, for example with gymnasium.wrappers.FlattenObservation."
    )


def leaf(observation: Any, entry: Entry) -> Any:
    """Return one leaf of an observation.

    Raises:
        ValueError: Where a key is missing.
    """
    for key in entry.path:
        if not isinstance(observation, Mapping) or key not in observation:
            found = list(observation) if isinstance(observation, Mapping) else type(observation).__name__
            raise ValueError(f"observation lacks key {entry.key!r}: found {found}.")
        observation = observation[key]
    return observation


def checked(entry: Entry, value: Any) -> np.ndarray:
    """Return one world's state or image leaf as an array of the declared shape.

    Floats of another width are taken (states become float32 anyway); other kinds of type are not.

    Raises:
        ValueError: For another shape, another kind of type, or a value that is NaN or infinite.
    """
    array: np.ndarray = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    declared, kind = np.dtype(entry.dtype), array.dtype.kind
    if array.shape != entry.shape:
        problem = f"has shape {array.shape}, declared is {entry.shape}"
    elif array.dtype != declared and (entry.kind == "image" or kind != declared.kind):
        problem = f"has dtype {array.dtype}, declared is {declared}"
    # The sum of squares is finite only where all values are, and is found sooner.
    elif kind == "f" and not isfinite(np.vdot(array, array)) and not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        problem = f"holds {array.reshape(-1)[at]} at index {at}: every value must be finite"
    else:
        return array
    raise ValueError(f"observation {entry.key!r} {problem}.")


def checked_text(entry: Entry, value: Any) -> bytes:
    """Return one world's text leaf as UTF-8.

    Raises:
        ValueError: Where it is no string, or longer than declared.
    """
    if not isinstance(value, str):
        raise ValueError(f"observation {entry.key!r} is {type(value).__name__}, declared is Text (a str).")
    encoded = value.encode()
    if len(encoded) > entry.size:
        raise ValueError(
            f"observation {entry.key!r} takes {len(encoded)} bytes, declared is a Text of at most "
            f"{entry.size // 4} characters ({entry.size} bytes)."
        )
    return encoded


def batched(layout: Layout, observation: Any) -> Observation:
    """Return what B worlds show, from a vectorised observation whose leaves are [B, …] (NumPy or torch).

    Tensors stay on their device; a batch of texts is a sequence of B strings. Values are not checked.
    """
    vectors = []
    for entry in layout.of("state"):
        vector = torch.as_tensor(leaf(observation, entry)).to(torch.float32)
        vectors.append(vector.reshape(vector.shape[0], entry.size))
    state = None if not vectors else vectors[0] if len(vectors) == 1 else torch.cat(vectors, 1)
    return Observation(
        images={entry.key: torch.as_tensor(leaf(observation, entry)) for entry in layout.of("image")},
        state=state,
        text=tuple(str(line) for entry in layout.of("text") for line in leaf(observation, entry)),
    )


def checked_actions(
    space: ActionSpace, rows: Sequence[int], action: Tensor | Sequence[str], chunk: int
) -> np.ndarray | list[str]:
    """Return the actions of N rows as an array [N, C, …] of the space's type, or as N strings.

    A `Box`'s bounds are left to the world, which knows whether it clips: what was sent is what is played.

    Raises:
        ValueError: For an action of another shape, a float that is not finite, a number that a `Discrete`
            lacks, or a string that is no string or too long. It is the agent's fault, not the world's.
    """
    if isinstance(space, spaces.Text):
        return _checked_strings(space, rows, action)
    if not isinstance(action, Tensor):
        raise ValueError(f"the action space is {space}: send a tensor, got {type(action).__name__}.")
    values = action.detach().cpu().numpy()
    shape = (len(rows), chunk, *(space.shape or ()))
    if chunk == 1 and values.shape == (shape[0], *shape[2:]):
        values = values.reshape(shape)
    if values.shape != shape:
        raise ValueError(
            f"actions for {len(rows)} rows have shape {list(action.shape)}, expected {list(shape)}: "
            f"chunks of {chunk} from {space}."
        )
    if isinstance(space, spaces.Discrete):
        whole = values == np.floor(values)
        wrong = ~whole | (values < space.start) | (values >= space.start + space.n)
    else:
        wrong = ~np.isfinite(values)
    if wrong.any():
        index = int(np.argwhere(wrong)[0][0])
        raise ValueError(
            f"action for row {rows[index]} is {values[index].tolist()}: not an action of {space}."
        )
    return values.astype(space.dtype, copy=False)


def _checked_strings(space: spaces.Text, rows: Sequence[int], action: Tensor | Sequence[str]) -> list[str]:
    if isinstance(action, (Tensor, str)):
        raise ValueError(f"the action space is {space}: send a list of strings, got {type(action).__name__}.")
    if len(action) != len(rows):
        raise ValueError(f"got {len(action)} strings for {len(rows)} rows: send one a row.")
    for row, line in zip(rows, action, strict=True):
        if not isinstance(line, str) or not space.min_length <= len(line) <= space.max_length:
            raise ValueError(
                f"action for row {row} is {line!r}: expected a string of {space.min_length} to "
                f"{space.max_length} characters."
            )
    return list(action)


def action_to_json(space: gymnasium.Space[Any]) -> str:
    """Return an action space as JSON, which `action_from_json` reads.

    Raises:
        TypeError: For a space that is neither a `Box`, a `Discrete` nor a `Text`.
    """
    if isinstance(space, spaces.Box):
        fields = {"low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}
    elif isinstance(space, spaces.Discrete):
        fields = {"n": int(space.n), "start": int(space.start)}
    elif isinstance(space, spaces.Text):
        fields = {
            "min_length": space.min_length,
            "max_length": space.max_length,
            "charset": space.characters,
        }
    else:
        raise TypeError(f"the action space is {space}, but worlds take a Box, a Discrete or a Text.")
    return json.dumps({"kind": type(space).__name__, **fields})


def action_from_json(line: str) -> ActionSpace:
    """Return the action space that `action_to_json` wrote."""
    fields = json.loads(line)
    kind = fields.pop("kind")
    if kind == "Box":
        dtype = np.dtype(fields["dtype"])
        low, high = np.array(fields["low"], dtype), np.array(fields["high"], dtype)
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "Discrete":
        return cast(ActionSpace, spaces.Discrete(fields["n"], start=fields["start"]))
    return spaces.Text(fields["max_length"], min_length=fields["min_length"], charset=fields["charset"])
