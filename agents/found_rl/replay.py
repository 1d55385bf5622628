"""Replay of many worlds: flat tensors on one device, no observation stored twice, labels that find their slot.

World w has a ring of T slots, w T … w T + T - 1. A slot holds a view and what was done at it; its next view is the next
slot's. A cut-off episode's last view takes a slot of its own, at which nothing was done. Every writing of a slot raises
its generation: a label carries the slot and the generation that it was asked for, and lands nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.envs.core import Observation, WorldSpec
from palaestra.envs.driving.bev import BITS, CHANNELS, pack, unpack

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """N transitions."""

    observation: Observation
    """[N, …]."""
    following: Observation
    """[N, …]: the views after; of no meaning where `terminated`."""
    action: Tensor
    """[N, A] float32."""
    reward: Tensor
    """[N] float32, bonus included."""
    terminated: Tensor
    """[N] bool."""
    advice: Tensor
    """[N, A] float32: the teacher's action, zeros where there is none."""
    advised: Tensor
    """[N] bool: there is one."""
    slot: Tensor
    """[N] int64."""


class Replay:
    """The last T views of each of W worlds, what was done at them, and what a teacher said of them."""

    def __init__(self, spec: WorldSpec, worlds: int, capacity: int, width: int, device: torch.device | str) -> None:
        """Make room.

        Args:
            spec: Of the worlds.
            worlds: W.
            capacity: Transitions in all; each world has its share, at least 2.
            width: A, numbers in an action.
            device: Where all lives.

        Raises:
            ValueError: The capacity is less than two slots a world.
        """
        self.worlds, self.slots = worlds, capacity // worlds
        if self.slots < 2:
            raise ValueError(f"the replay's capacity is {capacity}, but {worlds} worlds need at least {2 * worlds}.")
        count = worlds * self.slots
        self.shapes = dict(spec.images)
        tensors = {
            "action": torch.zeros(count, width),
            "reward": torch.zeros(count),
            "terminated": torch.zeros(count, dtype=torch.bool),
            "ready": torch.zeros(count, dtype=torch.bool),
            "generation": torch.zeros(count, dtype=torch.int64),
            "advice": torch.zeros(count, width),
            "advised": torch.zeros(count, dtype=torch.bool),
            "bonus": torch.zeros(count),
            "scored": torch.zeros(count, dtype=torch.bool),
            "cursor": torch.zeros(worlds, dtype=torch.int64),
        }
        if spec.state is not None:
            tensors["state"] = torch.zeros(count, spec.state)
        for name, shape in spec.images.items():
            room = packed_shape(shape)
            tensors[f"image.{name}"] = torch.zeros(count, *room, dtype=torch.uint8)
        self.tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self._first = torch.arange(worlds, device=device) * self.slots
        self._candidates: Tensor | None = None

    @property
    def current(self) -> Tensor:
        """[W] int64: the slots that hold the worlds' present views."""
        return self._first + self.tensors["cursor"]

    @property
    def generation(self) -> Tensor:
        """[W · T] int64: how often each slot has been written."""
        return self.tensors["generation"]

    @property
    def ready(self) -> int:
        """How many transitions can be sampled."""
        return len(self._ready())

    @property
    def bytes(self) -> int:
        """What the views and all else take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def begin(self, observation: Observation) -> None:
        """Write the worlds' present views; a view that nothing was done at stays behind as the last of its episode."""
        self._advance(torch.ones(self.worlds, dtype=torch.bool, device=self._first.device))
        self._write(self.current, observation)

    def close(
        self,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        good: Tensor,
        final: Observation | None,
        following: Observation,
    ) -> None:
        """Write what was done at the present views and what came of it, and go on to the next views.

        Args:
            action: [W, A].
            reward: [W].
            terminated: [W] bool.
            truncated: [W] bool.
            good: [W] bool: the outcome is known; False where a fault voided it.
            final: Last views of the rows that ended, in order.
            following: [W, …]: the views to decide at next.
        """
        slot, tensors = self.current, self.tensors
        tensors["action"][slot] = action
        tensors["reward"][slot] = reward
        tensors["terminated"][slot] = terminated
        tensors["ready"][slot] = good
        everyone = torch.ones_like(good)
        self._advance(everyone)
        cut = truncated & ~terminated & good
        if final is not None and bool(cut.any()):
            self._write(self.current[cut], final[cut[truncated | terminated]])
            self._advance(cut)
        self._write(self.current, following)

    def label(self, slot: Tensor, generation: Tensor, advice: Tensor) -> Tensor:
        """Write the teacher's actions [N, A] into slots [N] that are still of the generations [N] they were asked for.

        Returns:
            [N] bool: which were.
        """
        fresh = self.generation[slot] == generation
        self.tensors["advice"][slot[fresh]] = advice[fresh]
        self.tensors["advised"][slot[fresh]] = True
        return fresh

    def score(self, slot: Tensor, generation: Tensor, bonus: Tensor) -> Tensor:
        """Write bonuses [N], likewise; a slot without one has 0."""
        fresh = self.generation[slot] == generation
        self.tensors["bonus"][slot[fresh]] = bonus[fresh]
        self.tensors["scored"][slot[fresh]] = True
        return fresh

    def sample(self, count: int, labelled: bool = False) -> Batch:
        """Return transitions drawn uniformly with replacement, from all or from those with advice.

        Raises:
            RuntimeError: There is none.
        """
        candidates = self._ready()
        if labelled:
            candidates = candidates[self.tensors["advised"][candidates]]
        if not len(candidates):
            raise RuntimeError(f"the replay holds no {'labelled ' * labelled}transition yet.")
        return self.at(candidates[torch.randint(len(candidates), (count,), device=candidates.device)])

    def at(self, slot: Tensor) -> Batch:
        """Return the transitions of some slots, [N] int64."""
        tensors = self.tensors
        first = slot - slot % self.slots
        following = first + (slot - first + 1) % self.slots
        return Batch(
            observation=self.observation(slot),
            following=self.observation(following),
            action=tensors["action"][slot],
            reward=tensors["reward"][slot] + tensors["bonus"][slot],
            terminated=tensors["terminated"][slot],
            advice=tensors["advice"][slot],
            advised=tensors["advised"][slot],
            slot=slot,
        )

    def observation(self, slot: Tensor) -> Observation:
        """Return the views of some slots, [N, …]."""
        return Observation(
            images={
                name: unpacked(self.tensors[f"image.{name}"][slot], shape) for name, shape in self.shapes.items()
            },
            state=self.tensors["state"][slot] if "state" in self.tensors else None,
        )

    def shares(self) -> dict[str, float]:
        """Return which share of the transitions is labelled, and which has a bonus."""
        ready = self._ready()
        if not len(ready):
            return {}
        return {name: float(self.tensors[name][ready].float().mean()) for name in ("advised", "scored")}

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything, by name; slots that were never written are left out."""
        written = self._by_world(self.generation).amax(0).nonzero().flatten()
        used = int(written[-1]) + 1 if len(written) else 0
        state = {"cursor": self.tensors["cursor"].clone()}
        for name, tensor in self.tensors.items():
            if name != "cursor":
                state[name] = self._by_world(tensor)[:, :used].clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`.

        Raises:
            ValueError: It is of another replay.
        """
        if wrong := sorted(state.keys() ^ self.tensors.keys()):
            raise ValueError(f"the replay's state is of another replay: {', '.join(wrong)} in only one of them.")
        for name, tensor in self.tensors.items():
            mine = tensor if name == "cursor" else self._by_world(tensor)
            saved = state[name]
            fits = saved.shape[:1] + saved.shape[2:] == mine.shape[:1] + mine.shape[2:]
            if not fits or saved.shape[1:2] > mine.shape[1:2]:
                raise ValueError(f"the replay's {name} has shape {list(saved.shape)}, it has {list(mine.shape)}.")
            tensor.zero_()
            (mine if name == "cursor" else mine[:, : saved.shape[1]]).copy_(saved)
        self._candidates = None

    def _by_world(self, tensor: Tensor) -> Tensor:
        """Return a view [W, T, …] of a tensor with an entry a slot."""
        return tensor.view(self.worlds, self.slots, *tensor.shape[1:])

    def _ready(self) -> Tensor:
        if self._candidates is None:
            self._candidates = self.tensors["ready"].nonzero().flatten()
        return self._candidates

    def _advance(self, rows: Tensor) -> None:
        cursor = self.tensors["cursor"]
        cursor.copy_(torch.where(rows, (cursor + 1) % self.slots, cursor))

    def _write(self, slot: Tensor, observation: Observation) -> None:
        """Begin slots [N] anew with views."""
        tensors = self.tensors
        if observation.state is not None:
            tensors["state"][slot] = observation.state
        for name, picture in observation.images.items():
            tensors[f"image.{name}"][slot] = packed(picture)
        tensors["generation"][slot] += 1
        for name in ("ready", "advised", "scored", "terminated"):
            tensors[name][slot] = False
        for name in ("advice", "bonus", "reward"):
            tensors[name][slot] = 0.0
        self._candidates = None


def _packs(shape: Shape) -> bool:
    """Whether pictures are bird's-eye views, which take a sixth of their size."""
    return shape[2] == CHANNELS and shape[0] == shape[1] and shape[1] % 8 == 0


def packed_shape(shape: Shape) -> Shape:
    """Return the shape of a stored picture."""
    return (BITS, shape[0], shape[1] // 8) if _packs(shape) else shape


def packed(picture: Tensor) -> Tensor:
    """Return pictures [N, H, W, C] as they are stored, exactly."""
    height, width, channels = picture.shape[1:]
    return pack(picture) if _packs((height, width, channels)) else picture


def unpacked(stored: Tensor, shape: Shape) -> Tensor:
    """Return stored pictures as [N, H, W, C]."""
    return unpack(stored) if _packs(shape) else stored
