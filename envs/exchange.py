"""The memory that a pool shares with its workers: what worlds show, report and are told.

It is a file that never has a name, so nothing is left behind however a process ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from gymnasium import spaces

from palaestra.envs.core import Observation
from palaestra.envs.spaces import ActionSpace, Layout, checked, checked_text, leaf

_Specification = dict[str, tuple[type[Any] | np.dtype[Any], tuple[int, ...]]]


class Views:
    """One view of each of B worlds."""

    def __init__(self, layout: Layout, arrays: dict[str, np.ndarray]) -> None:
        self.state = arrays.get("state")
        self.images = {name: arrays[f"image.{name}"] for name in layout.images}
        self.text = arrays.get("text")
        self.length = arrays.get("length")
        self._pictures = tuple((entry, self.images[entry.key]) for entry in layout.of("image"))
        self._texts = layout.of("text")
        offsets = np.cumsum([0, *(entry.size for entry in layout.of("state"))]).tolist()
        self._states = tuple(zip(layout.of("state"), offsets[:-1], offsets[1:], strict=True))

    @staticmethod
    def specification(layout: Layout, count: int) -> _Specification:
        """Return name to (type, shape) of the arrays that the views of `count` worlds need."""
        needed: _Specification = {}
        if layout.state is not None:
            needed["state"] = (np.float32, (count, layout.state))
        for name, shape in layout.images.items():
            needed[f"image.{name}"] = (np.uint8, (count, *shape))
        if layout.text is not None:
            needed["text"] = (np.uint8, (count, layout.text))
            needed["length"] = (np.int64, (count,))
        return needed

    def write(self, row: int, observation: Any) -> None:
        """Check one world's observation and put it in its row.

        Raises:
            ValueError: Where it is not what its space declares, or not finite.
        """
        if self.state is not None:
            for entry, begin, end in self._states:
                self.state[row, begin:end] = checked(entry, leaf(observation, entry)).reshape(-1)
        for entry, pictures in self._pictures:
            pictures[row] = checked(entry, leaf(observation, entry))
        if self.text is not None and self.length is not None:
            for entry in self._texts:
                line = checked_text(entry, leaf(observation, entry))
                self.text[row, : len(line)] = np.frombuffer(line, np.uint8)
                self.length[row] = len(line)

    def read(self, rows: np.ndarray) -> Observation:
        """Return a copy of some rows' views."""
        lines: tuple[str, ...] = ()
        if self.text is not None and self.length is not None:
            lines = tuple(self.text[row, : self.length[row]].tobytes().decode() for row in rows)
        return Observation(
            images={name: torch.from_numpy(pictures[rows]) for name, pictures in self.images.items()},
            state=None if self.state is None else torch.from_numpy(self.state[rows]),
            text=lines,
        )


class Exchange:
    """The arrays of one pool, in shared memory. Each array's first axis is the row."""

    def __init__(
        self, layout: Layout, action: ActionSpace, count: int, chunk: int, file: int | None = None
    ) -> None:
        """Map the arrays of a shared file, given by its descriptor, or of a new one."""
        self.owned: IO[bytes] | None = None
        text = action.max_length if isinstance(action, spaces.Text) else None
        specification: _Specification = {
            "rewards": (np.float32, (count, chunk)),
            "played": (np.int64, (count,)),
            "seed": (np.int64, (count,)),
            "flags": (np.bool_, (count, 4)),
            **{f"view.{k}": v for k, v in Views.specification(layout, count).items()},
            **{f"final.{k}": v for k, v in Views.specification(layout, count).items()},
            # A worker's heartbeat and the row it is busy with stand in the row of the first of its worlds.
            "beat": (np.int64, (count,)),
            "current": (np.int64, (count,)),
        }
        if text is not None:
            specification["action"] = (np.uint8, (count, 4 * text))
            specification["length"] = (np.int64, (count,))
        else:
            specification["action"] = (np.dtype(action.dtype), (count, chunk, *(action.shape or ())))
        arrays = self._map(specification, file)

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}

        self.view = Views(layout, part("view."))
        self.final = Views(layout, part("final."))
        self.rewards = arrays["rewards"]
        self.played = arrays["played"]
        self.seed = arrays["seed"]
        self.flags = arrays["flags"]  # terminated, truncated, success, success once
        self.beat = arrays["beat"]
        self.current = arrays["current"]
        self.action = arrays["action"]
        self._length = arrays.get("length")
        self._discrete = isinstance(action, spaces.Discrete)

    def close(self) -> None:
        """Let go of the file, in the process that made it. The arrays stay while somebody holds them."""
        if self.owned is not None:
            self.owned.close()

    def _map(self, specification: _Specification, file: int | None) -> dict[str, np.ndarray]:
        offsets, size = {}, 0
        for name, (dtype, shape) in specification.items():
            offsets[name] = size
            size += -(-prod(shape) * np.dtype(dtype).itemsize // 64) * 64  # whole cache lines
        if file is None:
            memory = Path("/dev/shm")
            self.owned = tempfile.TemporaryFile(dir=memory if memory.is_dir() else None)  # noqa: SIM115
            file = self.owned.fileno()
            os.ftruncate(file, size)
        block = mmap.mmap(file, size)
        return {
            name: np.frombuffer(block, dtype, prod(shape), offsets[name]).reshape(shape)
            for name, (dtype, shape) in specification.items()
        }

    def put_actions(self, rows: np.ndarray, actions: np.ndarray | Sequence[str]) -> None:
        """Store the actions of some rows: [N, C, …], or N strings."""
        if isinstance(actions, np.ndarray):
            self.action[rows] = actions
            return
        assert self._length is not None
        for row, line in zip(rows, actions, strict=True):
            encoded = line.encode()
            self.action[row, : len(encoded)] = np.frombuffer(encoded, np.uint8)
            self._length[row] = len(encoded)

    def actions(self, row: int) -> Sequence[Any]:
        """Return a copy of one row's C actions, as a single world takes them."""
        if self._length is not None:
            return [self.action[row, : self._length[row]].tobytes().decode()]
        if self._discrete:
            chosen: list[int] = self.action[row].tolist()
            return chosen
        return list(self.action[row].copy())

    def void(self, row: int) -> None:
        """Take back what a row has reported."""
        self.rewards[row] = 0
        self.played[row] = 0
        self.flags[row] = False
