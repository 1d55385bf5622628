"""Collecting decisions and their outcomes from worlds that may answer together or one by one."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from palaestra.agents.core import Decision, Learner, Rollout
from palaestra.envs.core import Fault, Observation, Step, Worlds

RewardFunction = Callable[[Step], Tensor]
"""A step's reward for each action played, [N, C]: the world's own, or what `palaestra.rewards` says."""


class Collector:
    """Plays a learner in worlds and keeps what happened, from one rollout to the next."""

    def __init__(self, worlds: Worlds, reward: RewardFunction) -> None:
        self.worlds = worlds
        self.reward = reward
        self.step: Step | None = None
        self.faults: list[Fault] = []
        """The faults of the last rollout."""
        self.seconds = {"simulate": 0.0, "act": 0.0}
        """Wall-clock time of the last rollout, by what it went to."""

    def reset(self, seed: int, group: int = 1) -> None:
        """Start every row afresh; see `Worlds.reset`."""
        self.step = self.worlds.reset(seed, group)
        self.reward(self.step)  # rewards that remember an episode learn here that it is a new one

    def collect(self, learner: Learner, decisions: int, whole_episodes: bool = False) -> Rollout:
        """Return the next `decisions` decisions of every row.

        Args:
            learner: Decides, exploring.
            decisions: T, the slots a row fills.
            whole_episodes: Stop each row at the end of its first episode; the rest of its slots are masked out.

        Raises:
            RuntimeError: `reset` was not called.
        """
        if self.step is None:
            raise RuntimeError("Collector.collect needs worlds that have started: call reset(seed) first.")
        self.seconds = {"simulate": 0.0, "act": 0.0}
        self.faults = []
        slots = _Slots(decisions, self.worlds.count, self.step)
        step = self.step
        lockstep = self.worlds.spec.lockstep
        while True:
            active = slots.open[step.rows]
            if not bool(active.all()) and lockstep and (not whole_episodes or not bool(slots.open.any())):
                break
            rows = step.rows if lockstep else step.rows[active]
            if len(rows):
                started = time.perf_counter()
                observation = step.observation if len(rows) == len(step.rows) else step.observation[active]
                decision = learner.act(observation)
                self.seconds["act"] += time.perf_counter() - started
                slots.decide(rows, observation, decision)
                self.worlds.send(rows, decision.action)
            if not bool(slots.waiting.any()):
                break
            started = time.perf_counter()
            step = self.worlds.recv()
            self.seconds["simulate"] += time.perf_counter() - started
            slots.report(step, self.reward(step), whole_episodes)
            self.faults += [fault for fault in step.faults if fault is not None]
        self.step = slots.latest_step(step)
        return slots.rollout()


class _Slots:
    """The [T, B] arrays that a rollout is written into, with a cursor a row."""

    def __init__(self, decisions: int, count: int, first: Step) -> None:
        self.decisions, self.count = decisions, count
        self.device = first.rows.device
        self.cursor = torch.zeros(count, dtype=torch.int64, device=self.device)
        self.open = torch.ones(count, dtype=torch.bool, device=self.device)
        self.waiting = torch.zeros(count, dtype=torch.bool, device=self.device)
        self.recorded = torch.zeros(count, dtype=torch.bool, device=self.device)
        self.tensors: dict[str, Tensor] = {}
        self.text: dict[int, str] = {}
        self.finals: list[tuple[Tensor, Observation]] = []
        self.latest = first.observation

    def write(self, name: str, rows: Tensor, value: Tensor) -> None:
        """Write [N, …] into the rows' current slots, making the array when it is first seen."""
        if name not in self.tensors:
            shape = (self.decisions, self.count, *value.shape[1:])
            self.tensors[name] = torch.zeros(shape, dtype=value.dtype, device=value.device)
        self.tensors[name][self.cursor[rows], rows] = value

    def decide(self, rows: Tensor, observation: Observation, decision: Decision) -> None:
        """Record what was seen and decided in the open rows' current slots."""
        self.waiting[rows] = True
        self.recorded[rows] = self.open[rows]
        chosen = self.open[rows]
        kept = rows[chosen]
        if not len(kept):
            return
        if observation.state is not None:
            self.write("observation/state", kept, observation.state[chosen])
        for name, picture in observation.images.items():
            self.write(f"observation/images/{name}", kept, picture[chosen])
        if observation.text:
            lines = observation[chosen].text
            slot = (self.cursor[kept] * self.count + kept).tolist()
            self.text.update(zip(slot, lines, strict=True))
        if isinstance(decision.action, Tensor):
            self.write("action", kept, decision.action[chosen])
        for name, value in decision.trace.items():
            self.write(f"trace/{name}", kept, value[chosen])

    def report(self, step: Step, rewards: Tensor, whole_episodes: bool) -> None:
        """Record the outcome of the rows' current slots and move their cursors on."""
        self.waiting[step.rows] = False
        self._remember(step)
        chosen = self.recorded[step.rows]
        rows = step.rows[chosen]
        if not len(rows):
            return
        self.write("rewards", rows, rewards[chosen])
        for name in ("played", "terminated", "truncated", "success_once"):
            self.write(name, rows, getattr(step, name)[chosen])
        self.write("mask", rows, ~step.faulted[chosen])
        if step.final is not None:
            ended = step.rows[step.ended]
            kept = self.recorded[ended]
            slot = self.cursor[ended[kept]] * self.count + ended[kept]
            self.finals.append((slot, step.final[kept]))
        self.cursor[rows] += 1
        self.open[rows] = self.cursor[rows] < self.decisions
        if whole_episodes:
            self.open[rows] &= ~(step.ended | step.faulted)[chosen]

    def _remember(self, step: Step) -> None:
        """Keep every row's newest view."""
        if len(step.rows) == self.count:
            self.latest = step.observation
            return
        text = list(self.latest.text)
        for row, line in zip(step.rows.tolist(), step.observation.text, strict=False):
            text[row] = line
        images = {
            name: picture.index_copy(0, step.rows, step.observation.images[name])
            for name, picture in self.latest.images.items()
        }
        state = self.latest.state
        if state is not None and step.observation.state is not None:
            state = state.index_copy(0, step.rows, step.observation.state)
        self.latest = Observation(images, state, tuple(text))

    def latest_step(self, step: Step) -> Step:
        """Return a step that shows every row's newest view, from which the next rollout starts."""
        nothing = torch.zeros(self.count, dtype=torch.bool, device=self.device)
        return Step(
            rows=torch.arange(self.count, device=self.device),
            observation=self.latest,
            rewards=torch.zeros(self.count, step.rewards.shape[1], device=self.device),
            played=torch.zeros(self.count, dtype=torch.int64, device=self.device),
            terminated=nothing,
            truncated=nothing,
            success=nothing,
            success_once=nothing,
        )

    def rollout(self) -> Rollout:
        """Return the arrays as a rollout."""
        tensors = self.tensors
        final: Observation | None = None
        if self.finals:
            order = torch.cat([slot for slot, _ in self.finals]).argsort()
            final = Observation.concatenate([view for _, view in self.finals])[order]
        prefix = "observation/images/"
        return Rollout(
            observation=Observation(
                images={name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
                state=tensors.get("observation/state"),
                text=tuple(self.text.get(slot, "") for slot in range(self.decisions * self.count)) if self.text else (),
            ),
            action=tensors.get("action", torch.zeros(self.decisions, self.count, 0)),
            trace={name.removeprefix("trace/"): value for name, value in tensors.items() if name.startswith("trace/")},
            rewards=tensors["rewards"],
            played=tensors["played"],
            terminated=tensors["terminated"],
            truncated=tensors["truncated"],
            success_once=tensors["success_once"],
            mask=tensors["mask"],
            filled=self.cursor,
            final=final,
            last=self.latest,
        )
