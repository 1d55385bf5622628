"""The contract that every world must keep, checked by playing it.

`palaestra check ID` prints the report. In a package's own tests one line does: `assert_contract("my/world-v0")`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from palaestra.envs.breaking import breaking
from palaestra.envs.core import Worlds
from palaestra.envs.looks import LOOKS, MEASURES, Finding, Play, declared
from palaestra.envs.registry import Source, source


@dataclass(frozen=True, slots=True)
class Report:
    """All that was looked at in one world."""

    id: str
    """The world."""
    findings: tuple[Finding, ...]
    """In the order they were looked at."""

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not any(finding.verdict == "fail" for finding in self.findings)

    def of(self, name: str) -> Finding:
        """Return the finding of a name."""
        return next(finding for finding in self.findings if finding.name == name)

    def __str__(self) -> str:
        counts = {verdict: sum(f.verdict == verdict for f in self.findings) for verdict in ("fail", "warn", "pass")}
        total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        kept = "keeps the contract" if self.passed else "breaks the contract"
        return "\n".join([*map(str, self.findings), f"{self.id} {kept}: {total}"])


def assert_contract(worlds: str | Callable[[], Worlds], **options: Any) -> Report:
    """Raise AssertionError with the whole report where a world breaks the contract; see `check`."""
    report = check(worlds, **options)
    if not report.passed:
        raise AssertionError(f"\n{report}")
    return report


def check(
    worlds: str | Callable[[], Worlds],
    *,
    count: int = 2,
    chunk: int = 1,
    seed: int = 0,
    turns: int = 600,
    **options: Any,
) -> Report:
    """Play a world with random actions and report how it keeps the contract.

    Args:
        worlds: A name that `make` takes, or a function that makes the worlds (then no broken copy is tried).
        count: How many rows of a named world, at least 2.
        chunk: How many actions a turn of a named world.
        seed: Of starts and actions.
        turns: The most turns to wait for each row to end two episodes; up to four times as many where one of the
            world's episodes may take longer.
        options: Of a named world: `device`, and its own.

    Raises:
        ValueError: For an unknown name or option.
    """
    named = source(worlds, **options) if isinstance(worlds, str) else None
    if count < 2:
        raise ValueError(f"check needs at least 2 rows to tell one from another, got count={count}.")
    try:
        made = named.worlds(count, chunk) if named is not None else worlds()  # type: ignore[operator]
    except (ValueError, TypeError, RuntimeError) as error:
        return Report(str(worlds), (Finding("start", "fail", str(error), "Make the world start, then check again."),))
    findings: list[Finding] = []
    turns = max(turns, min(4 * turns, -(-(made.spec.max_steps or 0) // made.spec.chunk)))
    try:
        findings += declared(made)
        play = Play(made, seed, turns, seed)
        for look in LOOKS:
            findings += look(play)
        if play.faults:  # what follows a fault says nothing about the world
            return Report(made.spec.id, tuple(findings))
        for measure in MEASURES:
            findings += measure(play)
        findings += [_bad_action(made)]
    except (ValueError, RuntimeError) as error:
        findings += [Finding("play", "fail", str(error), "Mend what the world returned, then check again.")]
    finally:
        made.close()
        made.close()
    if named is not None and all(finding.verdict != "fail" for finding in findings):
        findings += [_faults(named, turns)]
    return Report(made.spec.id, tuple(findings))


# What is done to it.


def _bad_action(worlds: Worlds) -> Finding:
    """Send what is no action, and one beyond the space's bounds."""
    step, space = worlds.reset(0), worlds.spec.action
    shape = (worlds.count, worlds.spec.chunk, *(space.shape or ()))
    wrong: Tensor | list[Any] = torch.full(shape, math.nan)
    if isinstance(space, spaces.Text):
        wrong = [None] * worlds.count
    elif isinstance(space, spaces.Discrete):
        wrong = torch.full(shape, int(space.start + space.n))
    try:
        worlds.send(step.rows, wrong)
    except ValueError:
        pass
    else:
        return Finding("bad action", "fail", f"{wrong[0]} was taken for an action of {space}", "Refuse it in send().")
    if not isinstance(space, spaces.Box):
        return Finding("bad action", "pass", "refused")
    far = torch.as_tensor(np.where(np.isfinite(space.high), 10 * np.abs(space.high) + 1, 1e3), dtype=torch.float32)
    worlds.send(step.rows, far.expand(shape).contiguous())
    faults = [fault for fault in worlds.recv().faults if fault is not None]
    if faults:
        advice = "Clip actions to the space inside step(): exploring policies leave it."
        return Finding("bad action", "warn", f"beyond the bounds the world breaks: {faults[0].message}", advice)
    return Finding("bad action", "pass", "NaN refused, values beyond the bounds survived")


def _faults(named: Source, turns: int) -> Finding:
    """Break a copy of the worlds, and look whether only the broken episodes are lost."""
    expected = {1: "reward"} if named.single is None else {0: "reward", 1: "worker"}
    advice = "A world must bear to be reset at any time, and to be made anew beside others."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pool's own, of the faults that are meant
            worlds = breaking(named).worlds(2, workers=None if named.single is None else 2)
            try:
                play = Play(worlds, 0, turns + 1, 0, episodes_wanted=1)  # the broken episode takes a turn
            finally:
                worlds.close()
    except (ValueError, RuntimeError) as error:
        return Finding("faults", "fail", str(error), advice)
    faults = play.faults
    seen = ", ".join(f"row {fault.row} by {fault.boundary}" for fault in sorted(faults, key=lambda fault: fault.row))
    stuck = [row for row in range(2) if play.first(row) is None]
    if stuck or len(faults) != len(expected) or {fault.row: fault.boundary for fault in faults} != expected:
        return Finding("faults", "fail", f"expected {expected}, broke {seen}; rows {stuck} did not go on", advice)
    return Finding("faults", "pass", f"{seen}: only the broken episodes were lost")
