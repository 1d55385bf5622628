from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import checked_worlds
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from palaestra.envs.check import Finding, Report, assert_contract, check
from palaestra.envs.core import Step
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.toy import ReachEnv

PLUGIN = Path(__file__).parent.parent / "plugin"


def lockstep(name: str, mode: AutoresetMode = AutoresetMode.DISABLED) -> Callable[[], LockstepWorlds]:
    """Return a maker of two worlds of `checked_worlds`, without processes."""
    factory = getattr(checked_worlds, name)
    limit = None if name in ("endless", "limitless") else 10

    def make() -> LockstepWorlds:
        return LockstepWorlds(SyncVectorEnv([factory] * 2, autoreset_mode=mode), id=name, max_steps=limit)

    return make


def verdicts(report: Report) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in report.findings}


# Every world that is registered here and cheap keeps the contract.


@pytest.mark.parametrize(
    "id",
    ["toy/reach-v0", "CartPole-v1", pytest.param("maniskill/PushCube-v1", marks=pytest.mark.simulator)],
)
def test_registered_worlds_keep_the_contract(id: str) -> None:
    report = assert_contract(id)
    assert report.id == id
    assert report.of("determinism").verdict == report.of("later starts").verdict == "pass"
    broke = "row 1 by reward" if id == "toy/reach-v0" else "row 0 by reward, row 1 by worker"
    assert report.of("faults").measured.startswith(f"{broke}:")


def test_toy_world_keeps_the_contract_in_chunks_that_do_not_divide_its_limit() -> None:
    report = assert_contract("toy/reach-v0", chunk=5, count=3)
    assert report.of("whole episodes").measured == "6 of 32 to 32 steps"
    assert report.of("no faults").measured == "none in 15 turns"


def test_sample_plugin_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    report = assert_contract("my_kitchen:make", goal=0.5)
    assert set(verdicts(report).values()) == {"pass"}, str(report)


def test_good_world_passes_everything_in_processes() -> None:
    report = check("checked_worlds:good")
    assert set(verdicts(report).values()) == {"pass"}, str(report)
    assert report.of("whole episodes").measured == "4 of 10 to 10 steps"
    assert report.of("truncation").measured == "4 of 4 episodes truncated, 4 at the limit"


# Every finding can fail.


@pytest.mark.parametrize(
    ("world", "name", "verdict", "measured"),
    [
        ("unseeded", "seeding", "fail", "one seed, two starts"),
        ("one_start", "seeding", "warn", "two seeds gave the same starts"),
        ("noisy", "determinism", "fail", "differ at turn 1, by"),
        ("noisy", "seeding", "pass", ""),
        ("limitless", "time limit", "warn", "none declared"),
        ("endless", "whole episodes", "fail", r"rows [0, 1] ended none in 30 turns"),
        ("verdictless", "success", "warn", "undefined"),
        ("always_won", "success once", "warn", "4 of 4 random episodes succeeded"),
        ("huge", "observation scale", "warn", "up to "),
        ("huge", "reward", "warn", "a step"),
        ("rewardless", "reward", "warn", "zero at every step"),
        ("unbounded", "action space", "warn", "is unbounded"),
        ("odd_bounds", "action space", "warn", "Box(0.0, 4.0, (2,), float32) is not [-1, 1]"),
        ("misnamed_limit", "truncation", "warn", "all 4 episodes at the limit were terminated"),
        ("good", "last views", "pass", "4, none of them"),
    ],
)
def test_what_is_wrong_is_found_and_measured(world: str, name: str, verdict: str, measured: str) -> None:
    finding = check(lockstep(world), turns=30).of(name)
    assert finding.verdict == verdict and measured in finding.measured
    assert bool(finding.advice) == (verdict != "pass")


def test_only_the_flaw_is_reported() -> None:
    report = check(lockstep("misnamed_limit"))
    assert [finding.name for finding in report.findings if finding.verdict != "pass"] == ["truncation"]
    assert report.passed  # a warning is no breach


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_worlds_that_reset_themselves_cannot_promise_later_starts(mode: AutoresetMode) -> None:
    # Gymnasium goes on drawing from the generator of the row's first seed: repeatable, but not by episode.
    report = check(lockstep("good", mode))
    assert report.passed and report.of("determinism").verdict == "pass"


def test_a_world_whose_later_starts_depend_on_what_was_done_is_found() -> None:
    class Drawing(checked_worlds.Walk):
        def step(self, action: Any) -> Any:
            if action[0] > 0:
                self.np_random.random()
            return super().step(action)

    def make() -> LockstepWorlds:
        def limited() -> Any:
            return checked_worlds.TimeLimit(Drawing(), 10)

        venv = SyncVectorEnv([limited] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
        return LockstepWorlds(venv, id="drawing", max_steps=10)

    finding = check(make).of("later starts")
    assert finding.verdict == "warn" and "AutoresetMode.DISABLED" in finding.advice


@pytest.mark.filterwarnings("ignore:checked_worlds.*broke:RuntimeWarning")
def test_world_that_shows_another_shape_than_declared_fails_with_the_message() -> None:
    report = check("checked_worlds:wrongly_shaped")
    assert not report.passed
    assert "shape (1,), declared is (2,)" in str(report)


@pytest.mark.filterwarnings("ignore:checked_worlds.*broke:RuntimeWarning")
def test_world_that_breaks_beyond_its_bounds_is_warned_of() -> None:
    finding = check("checked_worlds:touchy").of("bad action")
    assert finding.verdict == "warn" and "the motor burnt out" in finding.measured


def test_world_that_cannot_be_reset_after_a_fault_fails() -> None:
    report = check("checked_worlds:ResetsOnlyEndedRows")
    finding = report.of("faults")
    assert finding.verdict == "fail" and "cannot go home while it moves" in finding.measured
    assert [finding.name for finding in report.findings if finding.verdict == "fail"] == ["faults"]


# Worlds that speak the contract themselves, wrongly.


class Lying:
    """The toy worlds, with every step changed."""

    def __init__(self, change: Callable[[Step], Step]) -> None:
        self.honest = LockstepWorlds(ReachEnv(2), id="lying")
        self.count, self.spec, self.change = 2, self.honest.spec, change
        self.send, self.close = self.honest.send, self.honest.close

    def reset(self, seed: int, group: int = 1) -> Step:
        return self._told(self.honest.reset(seed, group))

    def recv(self) -> Step:
        return self._told(self.honest.recv())

    def _told(self, step: Step) -> Step:
        told = self.change(step)
        self.honest._handed = told.rows
        return told


def next_view(step: Step) -> Step:
    return replace(step, final=step.observation[step.ended]) if step.final is not None else step


@pytest.mark.parametrize(
    ("change", "name", "measured"),
    [
        (lambda step: replace(step, final=None), "last views", "0 last views where 2 rows ended"),
        (next_view, "last views", "4 of 4 equal the next episode's first view"),
        (lambda step: replace(step, played=step.played.int()), "shapes and types", "played is (2,) torch.int32"),
        (lambda step: replace(step, rewards=step.rewards[:, 0]), "shapes and types", "rewards is (2,)"),
        (lambda step: replace(step, rewards=step.rewards / 0), "shapes and types", "not finite"),
        (
            lambda step: replace(step, success=step.success | (step.rewards[:, 0] > 0)),
            "success once",
            "succeeded, and then had not",
        ),
        (lambda step: replace(step, played=step.played * 2), "whole episodes", "but the limit is 32"),
    ],
)
def test_lies_are_found(change: Callable[[Step], Step], name: str, measured: str) -> None:
    finding = check(lambda: Lying(change)).of(name)
    assert finding.verdict == "fail" and measured in finding.measured


# The report.


def test_report_shows_each_finding_on_a_line_and_the_verdict_last() -> None:
    report = Report(
        "mine/v0",
        (Finding("seeding", "pass", "well"), Finding("last views", "fail", "4 of 4 wrong", "Mend step().")),
    )
    assert not report.passed
    assert str(report).splitlines() == [
        "pass  seeding            well",
        "fail  last views         4 of 4 wrong",
        "                         → Mend step().",
        "mine/v0 breaks the contract: 1 fail, 0 warn, 1 pass",
    ]


def test_assert_contract_raises_with_the_whole_report() -> None:
    with pytest.raises(AssertionError, match=r"(?s)fail  seeding.*unseeded breaks the contract"):
        assert_contract(lockstep("unseeded"))


def test_wrong_names_and_counts_are_refused_before_anything_is_played() -> None:
    with pytest.raises(ValueError, match="Did you mean 'toy/reach-v0'"):
        check("toy/reach-v1")
    with pytest.raises(ValueError, match="no option 'size'"):
        check("toy/reach-v0", size=3)
    with pytest.raises(ValueError, match="at least 2 rows"):
        check("toy/reach-v0", count=1)


def test_world_that_cannot_be_made_is_a_finding() -> None:
    def make() -> LockstepWorlds:
        raise RuntimeError("no licence")

    report = check(make)
    assert verdicts(report) == {"start": "fail"} and "no licence" in str(report)
    assert np.all([finding.advice for finding in report.findings])
