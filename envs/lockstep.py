"""A `VectorEnv` as `Worlds`: all rows are stepped together."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from palaestra.envs.core import Fault, Observation, Step, episode_seeds
from palaestra.envs.spaces import checked_actions, describe
from palaestra.envs.tally import Tally
from palaestra.envs.vector import (
    autoreset_mode,
    final_views,
    finite,
    first_leaf,
    nonfinite,
    observed,
    step_verdict,
    tensor,
    verdict_key,
    world_spec,
)

_TRIES = 3
"""How many starts in a row may show values that are not finite before the program stops."""


class LockstepWorlds:
    """The rows of one `VectorEnv`, NumPy's or torch's; tensors stay on its device.

    `Step` means the same in each of Gymnasium's autoreset modes, which `metadata["autoreset_mode"]` names:

    - `DISABLED`: the adapter resets ended rows, `reset(seed=[...], options={"reset_mask": mask})`, with the
      seeds that `Worlds.reset` promises. Chunks of more than one action need this mode.
    - `SAME_STEP`: last views and verdicts are read from the info.
    - `NEXT_STEP`: the report of a row that ended is held back until the next step has shown the next
      episode's first view, so `recv` returns the other rows first.

    In the last two modes the world chooses the starts of all episodes but the first.

    A row whose reward or observation is not finite has a `Fault`, its episode is void and it goes on with its
    next episode; in the last two modes only when the world ends the broken one.

    The verdict is `info["success"]`, else `info["is_success"]`, else "the return so far has reached the
    `reward_threshold` of the world's `EnvSpec`", else False.

    Example:
        >>> from palaestra.envs.toy import ReachEnv
        >>> worlds = LockstepWorlds(ReachEnv(4), id="toy/reach-v0")
        >>> step = worlds.reset(seed=0)
        >>> worlds.send(step.rows, torch.zeros(4, 1, 2))
        >>> worlds.recv().reward
        tensor([0., 0., 0., 0.])
    """

    def __init__(
        self,
        venv: VectorEnv[Any, Any, Any],
        *,
        id: str,
        chunk: int = 1,
        row_seeds: bool = True,
        max_steps: int | None = None,
    ) -> None:
        """Take a vector environment, and play one random action in it to see what it shows.

        Args:
            venv: The environment; `close` closes it.
            id: The name that `spec` bears.
            chunk: How many actions one `send` carries a row.
            row_seeds: Whether its `reset` takes a list of seeds, one a row. If not, it gets one for all.
            max_steps: The time limit in single actions, where neither its `EnvSpec` nor its attribute
                `max_episode_steps` says it.

        Raises:
            ValueError: For an autoreset mode that is not declared or does not go with `chunk`.
            TypeError: For a space that the contract does not know.
        """
        if chunk < 1:
            raise ValueError(f"{id}: chunk is {chunk}, expected at least 1.")
        self.venv = venv
        self.count = int(venv.num_envs)
        self._mode = autoreset_mode(venv, id)
        if chunk > 1 and self._mode is not AutoresetMode.DISABLED:
            raise ValueError(
                f"{id}: chunk is {chunk}, but autoreset mode is {self._mode.name}: the world would play the rest of "
                "a chunk in the next episode. Make it with autoreset_mode=AutoresetMode.DISABLED, or use chunk=1."
            )
        self._layout = describe(venv.single_observation_space)
        self._threshold = None if venv.spec is None else venv.spec.reward_threshold
        self.spec = world_spec(venv, self._layout, id, chunk, max_steps)
        self._row_seeds = row_seeds
        self._closed = False
        self._actions: Tensor
        self._texts: list[str] | None
        self._over: Tensor
        self._done: Tensor
        self._fresh: Tensor
        self._view: Observation
        self._awaited: set[int] | None
        self._faults: dict[int, Fault]
        self._owed: dict[int, list[Fault]]
        self._unplayed: np.ndarray
        step = self.reset(seed=0)
        self.send(step.rows, self._some_action())
        self.recv()
        self._handed = step.rows[:0]

    def reset(self, seed: int, group: int = 1) -> Step:
        """Start episode 0 of every row afresh; see `Worlds.reset`."""
        if group < 1 or self.count % group:
            raise ValueError(f"{self.spec.id}: group is {group}, but must divide the {self.count} rows.")
        self._seed, self._group = seed, group
        self._episode = np.zeros(self.count, np.int64)
        self._seeds = self._seeds_of(np.arange(self.count))
        observation, _ = self.venv.reset(seed=self._seeds.tolist() if self._row_seeds else int(self._seeds[0]))
        self._settle(observation)
        self._view = self._see(observation)
        self._retry_bad_starts(~self._over)
        self._final = self._view.map(torch.clone)
        self._clear()
        return self._report(quiet=True)

    def send(self, rows: Tensor, action: Tensor | Sequence[str]) -> None:
        """Give rows their next actions; `recv` needs one for every row that it returned last.

        Raises:
            ValueError: For rows that wait for no action, or an action that is none of the space's.
        """
        awaited: set[int] = set()
        if rows is not self._handed or self._awaited is not None:  # else it is every row that waits, unread
            awaited = set(self._handed.tolist()) if self._awaited is None else self._awaited
            sent = rows.tolist()
            if not awaited.issuperset(sent) or len(set(sent)) < len(sent):
                raise ValueError(
                    f"{self.spec.id}: actions were sent for rows {sent}, but the rows that wait for one are "
                    f"{sorted(awaited)}. Send one a row that recv() returned (after reset(), all)."
                )
            awaited = awaited.difference(sent)
        values = self._checked(rows, action)
        if isinstance(values, Tensor):
            self._actions = self._actions.index_copy(0, rows.to(self._device), values)
        else:
            said = dict(enumerate(self._texts or ())) | dict(zip(rows.tolist(), values, strict=True))
            self._texts = [said[row] for row in range(self.count)]
        self._awaited = awaited

    def recv(self) -> Step:
        """Play the actions and return every row, but those whose next episode has yet to begin.

        Raises:
            RuntimeError: Where a row has no action.
        """
        if self._awaited is None or self._awaited:
            waiting = self._handed.tolist() if self._awaited is None else sorted(self._awaited)
            raise RuntimeError(
                f"{self.spec.id}: recv() needs an action for every row that it returned last, and rows {waiting} "
                "have none: lock-step worlds play all rows together."
            )
        self._clear()
        quiet = self._play_chunk()
        while not quiet and not bool((~self._over | self._fresh).any()):
            quiet = self._play(0)  # every report is held back: nobody is there to act
        return self._report(quiet)

    def close(self) -> None:
        """Close the vector environment. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self.venv.close()

    # One turn: clear, play, restart, report.

    def _clear(self) -> None:
        """Begin new reports, but for the rows whose report is held back."""
        held = self._over & ~self._fresh
        self._tally.clear(held, self._fresh)
        self._fresh = torch.zeros_like(held)
        self._unplayed[:] = False
        for row in list(self._owed):
            faults = self._owed[row]
            self._faults[row] = faults.pop(0)
            self._unplayed[row] = held[row] = True
            if not faults:
                del self._owed[row]
        self._over = held

    def _play_chunk(self) -> bool:
        """Play every row's actions up to its episode's end, and return whether nothing else happened."""
        last = self.spec.chunk - 1
        for column in range(self.spec.chunk):
            if self._play(column):
                continue
            if self._mode is not AutoresetMode.DISABLED:
                return False
            if column == last or bool(self._over.all()):
                self._restart()
                return False
            if bool(self._done.any()):  # the others play on, and worlds may refuse to step an ended row
                self._reset_rows(self._done)
        return True

    def _play(self, column: int) -> bool:
        """Play one action of every row and return whether no row is at or beyond its episode's end."""
        action: Any = self._texts
        if action is None:
            action = self._actions[:, column].clone()
            action = action if self._torch else action.numpy()
        observation, rewards, ends, cuts, info = self.venv.step(action)
        began, alive = self._done, ~self._over
        self._view = self._see(observation)
        reward = tensor("reward", rewards, torch.float32, self.count, self._device)
        terminated = tensor("terminated", ends, torch.bool, self.count, self._device)
        truncated = tensor("truncated", cuts, torch.bool, self.count, self._device)
        self._done = terminated | truncated
        shown, paid = finite(self._view), torch.isfinite(reward)
        same_step = self._mode is AutoresetMode.SAME_STEP
        good = paid & (shown | self._done if same_step else shown)
        if self._mode is not AutoresetMode.DISABLED:
            start = self._done if same_step else began  # here the next episode's first view is shown
            self._fresh = start & shown
        counted = torch.where(alive & paid, reward, 0.0)
        self._tally.add(column, alive, counted, terminated & alive & good, truncated & alive & good)
        self._judge(info, alive)
        self._over = self._over | (alive & (self._done | ~good))
        quiet = not bool((self._over | self._done).any())
        if not quiet:
            self._note_broken(alive & ~good, reward)
            self._note_final(alive & good & self._done, info)
            if self._mode is not AutoresetMode.DISABLED:
                self._warn_of_bad_starts(start & ~shown)
        return quiet

    def _restart(self) -> None:
        """Begin the next episode of every row whose episode is over."""
        over = self._over.cpu().numpy()
        self._episode[over & ~self._unplayed] += 1
        self._begin(over)
        self._retry_bad_starts(self._over)
        self._fresh = self._over

    def _report(self, quiet: bool) -> Step:
        """Return what the rows that are ready have to report."""
        self._awaited = None
        self._handed = self._every if quiet else (~self._over | self._fresh).nonzero().flatten()
        step = self._tally.step(self._handed, self._view)
        if quiet:
            return step
        ended = self._handed[step.ended]
        faults = tuple(self._faults.pop(row, None) for row in self._handed.tolist()) if self._faults else ()
        return replace(step, final=self._final[ended] if len(ended) else None, faults=faults if any(faults) else ())

    # What happened to rows.

    def _judge(self, info: dict[str, Any], alive: Tensor) -> None:
        """Take the task's verdict on the views that rows still playing have reached."""
        last = info.get("final_info") if self._mode is AutoresetMode.SAME_STEP else None
        otherwise = torch.zeros_like(alive) if self._threshold is None else self._tally.total >= self._threshold
        said = step_verdict(info, self._done, otherwise, last)
        self._tally.judge(alive, said)
        key = verdict_key(info) or (last and verdict_key(last))
        if key and self.spec.success != f"info[{key!r}]":
            self.spec = replace(self.spec, success=f"info[{key!r}]")

    def _note_final(self, ended: Tensor, info: dict[str, Any]) -> None:
        """Keep the last views of rows that ended."""
        rows = ended.nonzero().flatten()
        if not len(rows):
            return
        views = self._view[rows]
        if self._mode is AutoresetMode.SAME_STEP:
            views = final_views(info, rows, self._layout, self.venv.single_observation_space, self.spec.id)
            views = views.to(self._device)
            for index in (~finite(views)).nonzero().flatten().tolist():
                row = int(rows[index])
                self._tally.terminated[row] = self._tally.truncated[row] = False
                self._faults[row] = self._fault(row, views, index, None)
        if self._final.state is not None and views.state is not None:
            self._final.state[rows] = views.state
        for name, pictures in self._final.images.items():
            pictures[rows] = views.images[name]
        if views.text:
            lines = dict(enumerate(self._final.text)) | dict(zip(rows.tolist(), views.text, strict=True))
            self._final = replace(self._final, text=tuple(lines[row] for row in range(self.count)))

    def _note_broken(self, broken: Tensor, reward: Tensor) -> None:
        """Void the episodes of rows whose reward or view is not finite."""
        for row in broken.nonzero().flatten().tolist():
            self._faults[row] = self._fault(row, self._view, row, reward)

    def _fault(self, row: int, views: Observation, index: int, reward: Tensor | None) -> Fault:
        boundary, message = nonfinite(views, index, self._layout, reward)
        return Fault(row, boundary, message)

    def _warn_of_bad_starts(self, bad: Tensor) -> None:
        """Say that episodes broke before they began, where the world alone decides when the next one does."""
        if bool(bad.any()):
            warnings.warn(
                f"{self.spec.id}: the first views of rows {bad.nonzero().flatten().tolist()} are not finite; they are "
                f"played unseen up to their ends. With AutoresetMode.DISABLED they would be reset and reported.",
                stacklevel=3,
            )

    # Starts.

    def _seeds_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the seeds of some rows' current episodes, [N] int64."""
        index = rows // self._group + self._episode[rows] * (self.count // self._group)
        return episode_seeds(self._seed, index)

    def _begin(self, rows: np.ndarray) -> None:
        """Reset rows ([count] bool) to their current episodes and look at them."""
        self._seeds[rows] = self._seeds_of(np.flatnonzero(rows))
        self._view = self._see(self._reset_rows(torch.from_numpy(rows)))

    def _reset_rows(self, mask: Tensor) -> Any:
        """Reset rows with the seeds in `_seeds` and return what the world shows."""
        native = mask.to(self._device) if self._torch else mask.cpu().numpy()
        seeds = self._seeds.tolist() if self._row_seeds else None
        return self.venv.reset(seed=seeds, options={"reset_mask": native})[0]

    def _retry_bad_starts(self, began: Tensor) -> None:
        """Give rows whose first view is not finite their next episode, and owe a fault for each that broke."""
        for _ in range(_TRIES):
            bad = began & ~finite(self._view)
            if not bool(bad.any()):
                return
            rows = bad.nonzero().flatten().tolist()
            faults = [self._fault(row, self._view, row, None) for row in rows]
            if self._mode is not AutoresetMode.DISABLED:
                break
            for row, fault in zip(rows, faults, strict=True):
                self._owed.setdefault(row, []).append(fault)
            self._episode[rows] += 1
            self._begin(bad.cpu().numpy())
        raise RuntimeError(
            f"{self.spec.id}: row {rows[0]} does not start: {faults[0].message} Check what its reset() returns; "
            "'palaestra check' plays it alone."
        )

    # What the world shows and takes.

    def _settle(self, observation: Any) -> None:
        """Learn from the first observation where tensors live, and begin with nothing played."""
        leaf = first_leaf(observation)
        self._torch = isinstance(leaf, Tensor)
        self._device = leaf.device if self._torch else torch.device("cpu")
        action = self.venv.single_action_space
        self._texts = [""] * self.count if isinstance(action, spaces.Text) else None
        kind = torch.int64 if not isinstance(action, spaces.Box) else torch.from_numpy(np.empty(0, action.dtype)).dtype
        self._actions = torch.zeros(self.count, self.spec.chunk, *(action.shape or ()), dtype=kind, device=self._device)
        self._every = self._handed = torch.arange(self.count, device=self._device)
        self._awaited = None
        self._tally = Tally(self.count, self.spec.chunk, self._device)
        self._over = self._done = torch.zeros(self.count, dtype=torch.bool, device=self._device)
        self._fresh = ~self._over
        self._faults = {}
        self._owed = {}
        self._unplayed = np.zeros(self.count, np.bool_)

    def _see(self, observation: Any) -> Observation:
        return observed(observation, self._layout, self.count, self.spec.id)

    def _some_action(self) -> Tensor | list[str]:
        """Return the same random action for all rows, [count, C, …]."""
        space = copy.deepcopy(self.venv.single_action_space)
        space.seed(0)
        if isinstance(space, spaces.Text):
            return [space.sample()] * self.count
        action = torch.as_tensor(np.asarray(space.sample()))
        return action.expand(self.count, self.spec.chunk, *action.shape)

    def _checked(self, rows: Tensor, action: Tensor | Sequence[str]) -> Tensor | list[str]:
        """Return actions [N, C, …] in the space's type, on the world's device, or N texts; raise for wrong ones."""
        shape = (len(rows), self.spec.chunk, *self._actions.shape[2:])
        if (
            isinstance(action, Tensor)
            and action.device.type != "cpu"
            and action.shape == shape
            and isinstance(self.spec.action, spaces.Box)
            and bool(torch.isfinite(action).all())
        ):
            return action.to(self._actions)  # looked at where it lies; all else is looked at on the CPU
        values = checked_actions(self.spec.action, rows.tolist(), action, self.spec.chunk)
        return values if isinstance(values, list) else torch.as_tensor(values).to(self._actions)
