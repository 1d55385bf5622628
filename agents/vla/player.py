"""Plays chunks of actions without a pause: the next is asked for before the last has run out.

A chunk holds the actions of the C steps that begin with the view it was decided on. Where a decision takes L steps, its
first L actions come late and are never played. So a chunk is asked for L steps before the one that was asked for last
ends: every C - L steps, with as many on their way at once as that takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from palaestra.agents.vlm.core import Action, Reply
from palaestra.envs.core import Observation

Decide = Callable[[Observation], Future[Reply]]
"""Asks for the chunk that begins with a view, without waiting: `client.ask_nowait("policy", Act(view))`."""


@dataclass(slots=True)
class Played:
    """What became of steps and chunks."""

    steps: int = 0
    """Actions played."""
    waited: int = 0
    """Steps that had to wait for a chunk; the first of an episode always does."""
    chunks: int = 0
    """Chunks of which something was played."""
    trimmed: int = 0
    """Actions that came too late and were left out."""
    stale: int = 0
    """Chunks that came too late as a whole: the decision takes longer than a chunk lasts."""


class ChunkPlayer:
    """The actions of one world, a step at a time."""

    def __init__(self, decide: Decide, ahead: int) -> None:
        """Start an episode.

        Args:
            decide: Asks for a chunk.
            ahead: The next chunk is asked for once at most so many steps are covered by those that were asked for: the
                steps that a decision takes, and some to spare. The chunks must be longer.

        Raises:
            ValueError: `ahead` is negative.
        """
        if ahead < 0:
            raise ValueError(f"ahead is {ahead}; it counts steps, so take 0 or more.")
        self._decide, self.ahead = decide, ahead
        self.counts = Played()
        self.versions: list[str] = []
        """The weights of each chunk that was played."""
        self._pending: deque[tuple[Future[Reply], int]] = deque()
        self._covered = 0
        self._length = 0
        self._chunk: Tensor | None = None
        self._next = 0

    @property
    def left(self) -> int:
        """How many actions there are to be played."""
        return 0 if self._chunk is None else len(self._chunk) - self._next

    def act(self, view: Observation) -> Tensor:
        """Return the action of this step, [A]; wait for it only where no chunk holds one.

        Args:
            view: What this world shows now.

        Raises:
            ValueError: The policy does not answer with chunks of actions, or with chunks no longer than `ahead`.
            Exception: What the policy failed of, once nothing is left to play.
        """
        while self._pending and self._pending[0][0].done():
            self._take()
        if self._covered - self.counts.steps <= self.ahead and (self._length or not self._pending):
            self._ask(view)
        waited = False
        while not self.left:
            if not self._pending:
                self._ask(view)
            waited |= not self._pending[0][0].done()
            self._take()
        self.counts.waited += waited
        assert self._chunk is not None
        action = self._chunk[self._next]
        self._next += 1
        self.counts.steps += 1
        return action

    def reset(self) -> None:
        """Start another episode: what was decided for the last one is dropped."""
        for future, _ in self._pending:
            future.cancel()
        self._pending.clear()
        self._chunk, self._next, self._covered = None, 0, 0

    def _ask(self, view: Observation) -> None:
        now = self.counts.steps
        self._pending.append((self._decide(view), now))
        self._covered = now + self._length

    def _take(self) -> None:
        """Wait for the first chunk that was asked for, and go on with it at the action of this step."""
        future, asked = self._pending.popleft()
        if self.left and future.exception() is not None:
            self._covered = 0  # what is left is played meanwhile, and the policy asked once more
            return
        reply = future.result()
        chunk = reply.answer.action if isinstance(reply.answer, Action) else None
        if not isinstance(chunk, Tensor) or len(chunk) <= self.ahead:
            found = type(reply.answer).__name__ if not isinstance(chunk, Tensor) else f"{len(chunk)} actions"
            raise ValueError(
                f"the policy answers with {found}; a player that asks {self.ahead} steps ahead needs chunks of more."
            )
        if not self._length:
            self._length = len(chunk)
            self._covered = asked + self._length
        late = self.counts.steps - asked
        if late >= len(chunk):
            self.counts.stale += 1
            return
        self.counts.trimmed += late
        self.counts.chunks += 1
        self.versions.append(reply.version)
        self._chunk, self._next = chunk, late
