"""The contract: what worlds show, and how they are stepped.

Authors of worlds never see this file. They write a plain `gymnasium.Env` or `gymnasium.vector.VectorEnv`;
`lockstep.py` and `pool.py` adapt both to `Worlds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor

Boundary = Literal["start", "reset", "step", "observation", "reward", "timeout", "worker"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A world that broke: data, never a crash and never a lost episode."""

    row: int
    """Which world."""
    boundary: Boundary
    """Where it broke: the world's own `step`, a value it returned, the worker that held it, …"""
    message: str
    """One line that names the thing, the value and what was expected."""
    traceback: str = ""
    """The traceback in the process where it happened, empty where there was none."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What B worlds show at one moment."""

    images: dict[str, Tensor] = field(default_factory=dict)
    """Camera name to pictures, [B, H, W, C] uint8."""
    state: Tensor | None = None
    """[B, S] float32, or None where the worlds have no state vector."""
    text: tuple[str, ...] = ()
    """One instruction or message a world, or empty where the worlds are wordless."""

    def __len__(self) -> int:
        if self.state is not None:
            return int(self.state.shape[0])
        for picture in self.images.values():
            return int(picture.shape[0])
        return len(self.text)

    def __getitem__(self, rows: Tensor) -> Observation:
        """Return the observation of some rows ([N] int64, or [B] bool)."""
        text = self.text
        if text:
            index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
            text = tuple(text[i] for i in index.tolist())
        return Observation(
            images={name: picture[rows] for name, picture in self.images.items()},
            state=None if self.state is None else self.state[rows],
            text=text,
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Observation:
        """Return the observation with a function applied to each of its tensors (text is kept)."""
        return Observation(
            images={name: function(picture) for name, picture in self.images.items()},
            state=None if self.state is None else function(self.state),
            text=self.text,
        )

    def to(self, device: torch.device | str) -> Observation:
        """Return the same observation on another device."""
        return self.map(lambda tensor: tensor.to(device))

    @staticmethod
    def concatenate(parts: Sequence[Observation]) -> Observation:
        """Join observations of the same kind along the batch."""
        if not parts:
            raise ValueError("Observation.concatenate needs at least one observation, got none.")
        states = [part.state for part in parts if part.state is not None]
        return Observation(
            images={name: torch.cat([part.images[name] for part in parts]) for name in parts[0].images},
            state=torch.cat(states) if states else None,
            text=tuple(line for part in parts for line in part.text),
        )


@dataclass(frozen=True, slots=True)
class Step:
    """What the rows that are ready have to report.

    A row plays up to C actions a step (C = 1 unless the worlds were made with `chunk`), and stops at its
    episode's end. All tensors but `rows` have one entry a ready row (N of them).
    """

    rows: Tensor
    """[N] int64, ascending: which worlds are ready."""
    observation: Observation
    """Where they are now; after an end, the next episode's first view."""
    rewards: Tensor
    """[N, C] float32: one column an action played, zero after the episode's end."""
    played: Tensor
    """[N] int64: how many of the C actions were played (0 after a reset)."""
    terminated: Tensor
    """[N] bool: the task ended; nothing follows."""
    truncated: Tensor
    """[N] bool: we stopped looking; bootstrap from `final`."""
    success: Tensor
    """[N] bool: the task's own verdict on the last view (success at the end, where the episode ended)."""
    success_once: Tensor
    """[N] bool: that verdict was true at some time in this episode."""
    final: Observation | None = None
    """Last views of the rows in `ended`, in order; None where no row ended."""
    faults: tuple[Fault | None, ...] = ()
    """[N]: the fault that voided the row's episode; empty where none broke."""

    @property
    def reward(self) -> Tensor:
        """[N] float32: the sum over the actions played."""
        return self.rewards.sum(1)

    @property
    def ended(self) -> Tensor:
        """[N] bool: terminated or truncated. A faulted row is neither: its episode is void."""
        return self.terminated | self.truncated

    @property
    def faulted(self) -> Tensor:
        """[N] bool: the row's episode was voided by a fault."""
        if not self.faults:
            return torch.zeros_like(self.terminated)
        flags = [fault is not None for fault in self.faults]
        return torch.tensor(flags, dtype=torch.bool, device=self.terminated.device)


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """What a policy needs to know of its worlds before it has seen one."""

    id: str
    """The name they were made by."""
    action: gymnasium.Space[np.ndarray] | gymnasium.Space[str]
    """One world's space of single actions: a `Box`, `Discrete` or `Text`."""
    state: int | None = None
    """Width of the state vector, None where there is none."""
    images: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """Camera name to (height, width, channels)."""
    text: bool = False
    """Whether the worlds show text."""
    chunk: int = 1
    """How many actions one `send` carries a row."""
    max_steps: int | None = None
    """The time limit in single actions, None where there is none."""
    lockstep: bool = False
    """Whether `recv` needs an action for every row that it returned last: the worlds cannot be stepped one by one."""
    seeded: bool = True
    """Whether every episode starts from the seed that `Worlds.reset` names; else the world itself chooses the starts
    of all but the first."""
    success: str = "info['success']"
    """How the task's verdict is defined, in words that stand beside every rate; empty where there is none."""


class Worlds(Protocol):
    """B worlds, stepped together or one by one.

    The lock-step ones return every row from `recv`. Others return the rows that are ready, so that a phone
    that hangs holds up nobody.
    """

    count: int
    spec: WorldSpec

    def reset(self, seed: int, group: int = 1) -> Step:
        """Start episode 0 of every row afresh.

        Row r starts its episode e from `episode_seed(seed, r // group + e * (count // group))`: the rows of a group
        start alike (GRPO), and with groups of one every episode has a start of its own. `count` must be a multiple
        of `group`.
        """
        ...

    def send(self, rows: Tensor, action: Tensor | Sequence[str]) -> None:
        """Give some rows their next actions: [N, C, A] (floats), [N, C] (discrete), or N strings.

        `[N, A]` is taken too where C = 1.
        """
        ...

    def recv(self) -> Step:
        """Wait for rows to which actions were sent, and return what they report."""
        ...

    def close(self) -> None:
        """Free what the worlds hold. Safe to call twice."""
        ...


def episode_seed(seed: int, index: int) -> int:
    """Return the seed of the `index`-th episode of a run, an integer in [0, 2³¹).

    A pure function of both, so that the first N episodes of a run start the same whatever the policy does
    and however many rows share them.
    """
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint32)[0] >> 1)


def episode_seeds(seed: int, indices: np.ndarray) -> np.ndarray:
    """Return `episode_seed(seed, i)` for every i of `indices` ([N], in [0, 2³²)) at once, [N] int64.

    NumPy's `SeedSequence` (O'Neill's seed_seq) written out over arrays: thousands of worlds need thousands of
    seeds a step.
    """
    if seed < 0 or (indices.size and not 0 <= indices.min() <= indices.max() < 2**32):
        raise ValueError(f"seed must be at least 0 and indices in [0, 2³²), got seed {seed} and indices {indices}.")
    words = [seed >> shift & 0xFFFFFFFF for shift in range(0, max(seed.bit_length(), 1), 32)]
    entropy = [np.array(word, np.uint32) for word in words] + [indices.astype(np.uint32)]
    entropy += [np.array(0, np.uint32)] * (4 - len(entropy))
    constant = 0x43B0D7E5

    def scramble(value: np.ndarray, multiplier: int) -> np.ndarray:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * multiplier & 0xFFFFFFFF
        value = value * np.uint32(constant)
        return np.asarray(value ^ (value >> np.uint32(16)))

    def mix(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        value: np.ndarray = left * np.uint32(0xCA01F9DD) - scramble(right, 0x931E8875) * np.uint32(0x4973F715)
        return np.asarray(value ^ (value >> np.uint32(16)))

    with np.errstate(over="ignore"):  # arithmetic modulo 2³² is meant
        pool = [scramble(word, 0x931E8875) for word in entropy[:4]]
        for source in range(4):
            for target in range(4):
                if source != target:
                    pool[target] = mix(pool[target], pool[source])
        for word in entropy[4:]:
            pool = [mix(part, word) for part in pool]
        constant = 0x8B51F9DD
        state = scramble(pool[0], 0x58F38DED).astype(np.int64)
    return np.broadcast_to(state >> 1, indices.shape).copy()


def same_tensors(left: object, right: object) -> bool:
    """Whether two of this file's dataclasses hold bit-equal values (for determinism checks)."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and bool(torch.equal(left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_tensors(left[key], right[key]) for key in left)
    if isinstance(left, (Observation, Step)) and type(left) is type(right):
        return all(same_tensors(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))
    return bool(left == right)
