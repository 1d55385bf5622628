"""What `check` looks at in a world that is played with random actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from palaestra.envs.core import Fault, Observation, Step, Worlds, same_tensors

Verdict = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What."""
    verdict: Verdict
    """`fail` breaks the contract; `warn` keeps it and will hurt; `skip` could not be looked at."""
    measured: str
    """What was seen, with its number."""
    advice: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        line = f"{self.verdict:4}  {self.name:18} {self.measured}"
        return f"{line}\n{'':25}→ {self.advice}" if self.advice else line


def random_actions(worlds: Worlds, generator: torch.Generator) -> Tensor | list[str]:
    """Return a random action for every row: [count, C, …], or strings."""
    space = worlds.spec.action
    shape = (worlds.count, worlds.spec.chunk, *(space.shape or ()))
    if isinstance(space, spaces.Discrete):
        return torch.randint(int(space.start), int(space.start + space.n), shape, generator=generator)
    if isinstance(space, spaces.Text):
        return [space.sample() for _ in range(worlds.count)]
    assert isinstance(space, spaces.Box)
    low = torch.as_tensor(np.where(np.isfinite(space.low), space.low, -1.0), dtype=torch.float32)
    high = torch.as_tensor(np.where(np.isfinite(space.high), space.high, 1.0), dtype=torch.float32)
    return low + (high - low) * torch.rand(shape, generator=generator)


@dataclass(frozen=True, slots=True)
class Ended:
    """One episode of one row."""

    row: int
    """Whose."""
    length: int
    """Single actions played."""
    terminated: bool
    """The task ended."""
    truncated: bool
    """The episode was cut."""
    final: Observation | None
    """Its last view."""
    next: Observation
    """The next episode's first view."""


@dataclass
class Play:
    """Worlds played with random actions until every row has ended some episodes, or for so many turns."""

    worlds: Worlds
    seed: int
    """Of the starts."""
    turns: int
    """How long at most."""
    action_seed: int
    """Of the actions."""
    episodes_wanted: int = 2
    """A row."""
    steps: list[Step] = field(default_factory=list)
    """All that was returned, that of `reset` first."""
    episodes: list[Ended] = field(default_factory=list)
    """In the order they ended."""

    def __post_init__(self) -> None:
        self._lengths = np.zeros(self.worlds.count, np.int64)
        ended = np.zeros(self.worlds.count, np.int64)
        for step in rolled(self.worlds, self.seed, self.action_seed, self.turns):
            self.steps.append(step)
            rows = step.rows.cpu().numpy()
            self._lengths[rows] += step.played.cpu().numpy()
            self._lengths[rows[step.faulted.cpu().numpy()]] = 0
            for index, row in enumerate(rows[step.ended.cpu().numpy()].tolist()):
                self._note(step, row, index)
                ended[row] += 1
            if (ended >= self.episodes_wanted).all() or len(self.faults) > 10:
                return

    def _note(self, step: Step, row: int, index: int) -> None:
        at = (step.rows == row).nonzero().flatten()
        final = None if step.final is None or index >= len(step.final) else step.final[torch.tensor([index])]
        flags = bool(step.terminated[at]), bool(step.truncated[at])
        self.episodes.append(Ended(row, int(self._lengths[row]), *flags, final, step.observation[at]))
        self._lengths[row] = 0

    @property
    def faults(self) -> list[Fault]:
        """All faults, in the order they came."""
        return [fault for step in self.steps for fault in step.faults if fault is not None]

    def first(self, row: int) -> Ended | None:
        """Return a row's first episode."""
        return next((episode for episode in self.episodes if episode.row == row), None)


def rolled(worlds: Worlds, seed: int, action_seed: int, turns: int) -> Iterator[Step]:
    """Yield the steps of worlds played with random actions that depend on row and turn alone."""
    generator = torch.Generator().manual_seed(action_seed)
    worlds.spec.action.seed(action_seed)  # strings are drawn by the space itself
    step = worlds.reset(seed)
    yield step
    for _ in range(turns):
        action = random_actions(worlds, generator)
        rows = step.rows.cpu()
        worlds.send(step.rows, action[rows] if isinstance(action, Tensor) else [action[row] for row in rows.tolist()])
        step = worlds.recv()
        yield step


def declared(worlds: Worlds) -> Iterator[Finding]:
    """Look at what the worlds declare."""
    spec = worlds.spec
    parts = [f"state {spec.state}"] if spec.state is not None else []
    parts += [f"{name} {'×'.join(map(str, shape))}" for name, shape in spec.images.items()]
    parts += ["text"] if spec.text else []
    yield Finding("observation space", "pass", ", ".join(parts))
    action = spec.action
    if not isinstance(action, spaces.Box):
        yield Finding("action space", "pass", str(action))
    elif not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
        advice = "Bound it, best by [-1, 1]: policies cannot explore a space that has no size."
        yield Finding("action space", "warn", f"{action} is unbounded", advice)
    elif not (np.allclose(action.low, -1) and np.allclose(action.high, 1)):
        advice = (
            "Use [-1, 1] and scale inside (gymnasium.wrappers.RescaleAction): policies start with actions of size 1."
        )
        yield Finding("action space", "warn", f"{action} is not [-1, 1]", advice)
    else:
        yield Finding("action space", "pass", str(action))
    if spec.max_steps is None:
        advice = "Wrap it in gymnasium.wrappers.TimeLimit or register it with max_episode_steps."
        yield Finding("time limit", "warn", "none declared: an episode may never end", advice)
    else:
        yield Finding("time limit", "pass", f"{spec.max_steps} steps")
    if spec.success:
        yield Finding("success", "pass", spec.success)
    else:
        advice = "Put a bool into info['success'] at each step; without one no success rate can be reported."
        yield Finding("success", "warn", "undefined", advice)


def _shapes(play: Play) -> Iterator[Finding]:
    """Look at the shapes and types of all that was returned."""
    spec, seen = play.worlds.spec, 0
    for step in play.steps:
        n = len(step.rows)
        wanted: dict[str, tuple[Tensor | None, tuple[int, ...], torch.dtype]] = {
            "rewards": (step.rewards, (n, spec.chunk), torch.float32),
            "played": (step.played, (n,), torch.int64),
            "terminated": (step.terminated, (n,), torch.bool),
            "truncated": (step.truncated, (n,), torch.bool),
            "success": (step.success, (n,), torch.bool),
            "success_once": (step.success_once, (n,), torch.bool),
        }
        for view in (step.observation, step.final):
            rows = 0 if view is None else int(step.ended.sum()) if view is step.final else n
            if view is not None and spec.state is not None:
                wanted[f"state {rows}"] = (view.state, (rows, spec.state), torch.float32)
            if view is not None:
                for name, size in spec.images.items():
                    wanted[f"{name} {rows}"] = (view.images.get(name), (rows, *size), torch.uint8)
            if view is not None and len(view.text) != rows * spec.text:
                yield Finding("shapes and types", "fail", f"{len(view.text)} texts for {rows} rows")
                return
        for name, (value, shape, dtype) in wanted.items():
            if value is None or tuple(value.shape) != shape or value.dtype != dtype:
                got = "missing" if value is None else f"{tuple(value.shape)} {value.dtype}"
                yield Finding("shapes and types", "fail", f"{name} is {got}, declared {shape} {dtype}")
                return
        finite = all(bool(torch.isfinite(t).all()) for t in (step.rewards, step.observation.state) if t is not None)
        if not finite:
            yield Finding("shapes and types", "fail", "a value that is not finite reached the agent")
            return
        seen += n
    yield Finding("shapes and types", "pass", f"as declared in {seen} reports")


def _no_faults(play: Play) -> Iterator[Finding]:
    """Look for worlds that broke by themselves."""
    faults = play.faults
    if faults:
        advice = f"First: {faults[0].message}"
        yield Finding("no faults", "fail", f"{len(faults)} faults in {len(play.steps)} turns", advice)
    else:
        yield Finding("no faults", "pass", f"none in {len(play.steps)} turns")


def _episodes(play: Play) -> Iterator[Finding]:
    """Look at how episodes end."""
    limit, ended = play.worlds.spec.max_steps, play.episodes
    missing = [row for row in range(play.worlds.count) if play.first(row) is None]
    if missing:
        advice = "End it by a time limit, or give check(turns=...) more."
        yield Finding("whole episodes", "fail", f"rows {missing} ended none in {len(play.steps) - 1} turns", advice)
        return
    lengths = [episode.length for episode in ended]
    seen = f"{len(ended)} of {min(lengths)} to {max(lengths)} steps"
    if limit is not None and max(lengths) > limit:
        yield Finding("whole episodes", "fail", f"{seen}, but the limit is {limit}", "Truncate at the limit.")
    else:
        yield Finding("whole episodes", "pass", seen)
    late = [episode for episode in ended if episode.length == limit]
    called = [episode for episode in late if episode.terminated and not episode.truncated]
    if late and len(called) == len(late):
        advice = (
            "Return truncated=True at a time limit: a termination says that nothing follows, and values learn that."
        )
        yield Finding("truncation", "warn", f"all {len(late)} episodes at the limit were terminated", advice)
    else:
        cut = sum(episode.truncated for episode in ended)
        yield Finding("truncation", "pass", f"{cut} of {len(ended)} episodes truncated, {len(late)} at the limit")


def _finals(play: Play) -> Iterator[Finding]:
    """Look at last views and the first views after them."""
    for step in play.steps:
        count = 0 if step.final is None else len(step.final)
        if count != int(step.ended.sum()):
            measured = f"{count} last views where {int(step.ended.sum())} rows ended"
            yield Finding("last views", "fail", measured, "Report exactly one last view a row that ended.")
            return
    same = sum(episode.final is not None and same_tensors(episode.final, episode.next) for episode in play.episodes)
    if same:
        advice = "Return the view before the reset from step(); the reset's view belongs to the next episode."
        measured = f"{same} of {len(play.episodes)} equal the next episode's first view"
        yield Finding("last views", "fail", measured, advice)
    else:
        yield Finding("last views", "pass", f"{len(play.episodes)}, none of them the next episode's first view")


def _successes(play: Play) -> Iterator[Finding]:
    """Look at the verdicts."""
    before: dict[int, bool] = {}
    for step in play.steps:
        for row, now, once, over in zip(
            *(part.tolist() for part in (step.rows, step.success, step.success_once, step.ended | step.faulted)),
            strict=True,
        ):
            if (now or before.get(row, False)) and not once:
                yield Finding("success once", "fail", f"row {row} succeeded, and then had not")
                return
            before[row] = once and not over
    wins = sum(bool(step.success_once[index]) for step in play.steps for index in step.ended.nonzero().flatten())
    rate = f"{wins} of {len(play.episodes)} random episodes succeeded"
    if play.episodes and wins == len(play.episodes):
        yield Finding("success once", "warn", rate, "Is the verdict right? Chance alone solves this task.")
    else:
        yield Finding("success once", "pass", rate)


def _seeding(play: Play) -> Iterator[Finding]:
    """Look at what seeds do."""
    worlds, first = play.worlds, play.steps[0].observation
    again, other = worlds.reset(play.seed).observation, worlds.reset(play.seed + 1).observation
    if not same_tensors(first, again):
        advice = "Draw starts from self.np_random after super().reset(seed=seed), from nothing else."
        yield Finding("seeding", "fail", f"one seed, two starts: they differ by {_gap(first, again):.3g}", advice)
    elif same_tensors(first, other):
        yield Finding("seeding", "warn", "two seeds gave the same starts", "Vary the start, or policies learn one.")
    else:
        yield Finding("seeding", "pass", "one seed gives one start, another seed another")
    group = worlds.reset(play.seed, group=worlds.count).observation
    rows = torch.arange(worlds.count)
    alike = all(same_tensors(group[rows[:1]], group[rows[row : row + 1]]) for row in range(1, worlds.count))
    if alike:
        yield Finding("groups", "pass", f"{worlds.count} rows of a group start alike")
    else:
        advice = "reset(seed=...) must decide the whole start, the same in every row."
        yield Finding(
            "groups", "warn", "rows with one seed start differently: GRPO would compare them unfairly", advice
        )


def _determinism(play: Play) -> Iterator[Finding]:
    """Look whether the same seed and actions give the same again, bit for bit."""
    turns = min(len(play.steps) - 1, 100)
    replay = rolled(play.worlds, play.seed, play.action_seed, turns)
    for turn, (one, two) in enumerate(zip(play.steps, replay, strict=False)):
        if not same_tensors(one, two):
            gap = _gap(one.observation, two.observation)
            on_gpu = one.rewards.is_cuda
            advice = "Draw all randomness from self.np_random." if not on_gpu else "GPU simulators do; report spreads."
            measured = f"the same seed and actions differ at turn {turn}, by {gap:.3g}"
            yield Finding("determinism", "warn" if on_gpu else "fail", measured, advice)
            break
    else:
        yield Finding("determinism", "pass", f"{turns} turns repeated bit for bit")
    other = Play(play.worlds, play.seed, play.turns, play.action_seed + 1, episodes_wanted=1)
    pairs = [(play.first(row), other.first(row)) for row in range(play.worlds.count)]
    known = [(one.next, two.next) for one, two in pairs if one is not None and two is not None]
    if not known:
        yield Finding("later starts", "skip", "no episode ended")
    elif all(same_tensors(one, two) for one, two in known):
        yield Finding("later starts", "pass", "second episodes start the same whatever was done in the first")
    else:
        advice = (
            "Seed every episode: a single Env must draw its start from reset(seed=...) alone; "
            "a VectorEnv needs AutoresetMode.DISABLED, so that each reset gets its seed."
        )
        yield Finding("later starts", "warn", "second episodes start as the first one's actions had it", advice)


def _scale(play: Play) -> Iterator[Finding]:
    """Look at the size of what policies will see."""
    states = [step.observation.state for step in play.steps if step.observation.state is not None]
    if states:
        state = torch.cat(states).cpu()
        largest, constant = float(state.abs().max()), int((state == state[0]).all(0).sum())
        measured = f"up to {largest:.3g}; {constant} of {state.shape[1]} numbers never change"
        if largest > 10:
            advice = "Scale it to about 1, or leave the policy's normaliser on."
            yield Finding("observation scale", "warn", measured, advice)
        else:
            yield Finding("observation scale", "pass", measured)
    totals = torch.cat([step.rewards.flatten() for step in play.steps]).cpu()
    size = float(totals.abs().max())
    if size == 0:
        advice = "Nothing to learn from by chance: add demonstrations, or a dense reward."
        yield Finding("reward", "warn", "zero at every step of random play", advice)
    elif not 1e-3 <= size <= 100:
        yield Finding("reward", "warn", f"up to {size:.3g} a step", "Scale it to about 1: value losses grow with it.")
    else:
        yield Finding("reward", "pass", f"{float(totals.min()):.3g} to {float(totals.max()):.3g} a step")


def _gap(one: Observation, two: Observation) -> float:
    """Return by how much two observations of the same kind differ at most."""
    if len(one) != len(two):
        return math.inf
    pairs = [(one.images[name], two.images[name]) for name in one.images]
    pairs += [(one.state, two.state)] if one.state is not None and two.state is not None else []
    return max((float((left.double() - right.double()).abs().max()) for left, right in pairs), default=math.inf)


LOOKS: tuple[Callable[[Play], Iterator[Finding]], ...] = (
    _shapes,
    _no_faults,
)
"""What is looked at first: without faults, the rest means something."""

MEASURES: tuple[Callable[[Play], Iterator[Finding]], ...] = (
    _episodes,
    _finals,
    _successes,
    _scale,
    _seeding,
    _determinism,
)
"""What is looked at in worlds that do not break."""
