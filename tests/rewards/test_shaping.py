"""Rewards by hand: success once, progress, weighted sums."""

from __future__ import annotations

import pytest
import torch

from palaestra.envs.core import Fault, Observation, Step
from palaestra.rewards.core import WeightedSum, WorldReward
from palaestra.rewards.shaping import ProgressReward
from palaestra.rewards.success import SuccessReward


def step_of(rewards: list[list[float]], played: list[int], ended: list[bool], success: list[bool]) -> Step:
    count = len(rewards)
    return Step(
        rows=torch.arange(count),
        observation=Observation(state=torch.zeros(count, 1)),
        rewards=torch.tensor(rewards),
        played=torch.tensor(played),
        terminated=torch.tensor(ended),
        truncated=torch.zeros(count, dtype=torch.bool),
        success=torch.tensor(success),
        success_once=torch.tensor(success),
    )


def test_progress_telescopes_and_starts_afresh() -> None:
    progress = ProgressReward(1)
    first = progress(step_of([[0.25, 0.5]], [2], [False], [False]))
    # The first action has nothing before it; the second rose by 1/4.
    assert first.tolist() == [[0.0, 0.25]]
    second = progress(step_of([[1.0, 0.0]], [1], [True], [True]))
    # 1/2 to 1, then the episode ended: the second column was never played.
    assert second.tolist() == [[0.5, 0.0]]
    # The next episode starts low: no fall is charged to it.
    assert progress(step_of([[0.125, 0.125]], [2], [False], [False])).tolist() == [[0.0, 0.0]]


def test_progress_of_a_reset_row_starts_afresh() -> None:
    progress = ProgressReward(1)
    progress(step_of([[0.5]], [1], [False], [False]))
    progress(step_of([[0.0]], [0], [False], [False]))  # what a reset reports
    assert progress(step_of([[0.75]], [1], [False], [False])).tolist() == [[0.0]]


def test_success_is_paid_once_an_episode_on_the_last_action_played() -> None:
    reward = SuccessReward(2)
    steps = [
        step_of([[0.0, 0.0]] * 2, [2, 2], [False, False], [False, True]),
        step_of([[0.0, 0.0]] * 2, [1, 2], [True, False], [True, True]),
        step_of([[0.0, 0.0]] * 2, [2, 2], [True, True], [True, True]),
    ]
    paid = [reward(step).tolist() for step in steps]
    # Row 0 succeeds in each of two episodes, row 1 succeeds once and goes on: it is paid the first time only.
    assert paid[0] == [[0.0, 0.0], [0.0, 1.0]]
    assert paid[1] == [[1.0, 0.0], [0.0, 0.0]]
    assert paid[2] == [[0.0, 1.0], [0.0, 0.0]]


def test_a_fault_pays_nothing_and_forgets() -> None:
    reward = SuccessReward(1)
    reward(step_of([[0.0]], [1], [False], [True]))
    broken = step_of([[0.0]], [0], [False], [False])
    object.__setattr__(broken, "faults", (Fault(0, "step", "broke"),))
    assert reward(broken).tolist() == [[0.0]]
    assert reward(step_of([[0.0]], [1], [False], [True])).tolist() == [[1.0]]


def test_weighted_sum_keeps_its_parts() -> None:
    total = WeightedSum({"success": (2.0, SuccessReward(1)), "world": (0.5, WorldReward())})
    assert total(step_of([[1.0, 3.0]], [2], [True], [True])).tolist() == [[0.5, 3.5]]
    assert total.clear() == {"success": 2.0, "world": 2.0}
    assert total.clear() == {}


def test_a_part_that_is_not_finite_is_named() -> None:
    total = WeightedSum({"world": (1.0, WorldReward())})
    with pytest.raises(FloatingPointError, match="'world' of row 0"):
        total(step_of([[float("nan")]], [1], [False], [False]))
