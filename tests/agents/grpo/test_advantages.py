"""Advantages of conversations against numbers computed by hand."""

import math

import pytest
import torch

from palaestra.agents.grpo.advantages import (
    centred,
    equal_groups,
    gae_tokens,
    gdpo,
    grpo,
    lite_ppo,
    reinforce_baseline,
    reinforce_plus_plus,
    rloo,
    step_groups,
)

ALL = torch.ones(6, dtype=torch.bool)
SCORE = torch.tensor([1.0, 2.0, 6.0, 0.5, 0.5, 0.5])


def test_group_advantages_by_hand() -> None:
    """Scores 1, 2, 6: mean 3, unbiased std √7; a group of equal scores gives zeros, not a blown-up rounding error."""
    assert centred(SCORE, 3, ALL).tolist() == [-2, -1, 3, 0, 0, 0]
    torch.testing.assert_close(grpo(SCORE, 3, ALL)[:3] * math.sqrt(7), torch.tensor([-2.0, -1, 3]))
    assert rloo(SCORE, 3, ALL).tolist() == [1 - 4, 2 - 3.5, 6 - 1.5, 0, 0, 0]
    std = SCORE.std().item()
    torch.testing.assert_close(lite_ppo(SCORE, 3, ALL)[:3] * std, torch.tensor([-2.0, -1, 3]))


@pytest.mark.parametrize("function", [centred, grpo, rloo, lite_ppo])
def test_void_members_leave_their_group(function: object) -> None:
    """A member whose world broke has advantage 0, and the others are compared as if it had never been."""
    valid = torch.tensor([True, True, False, True])
    found = function(torch.tensor([1.0, 2.0, 99.0, 6.0]), 4, valid)  # type: ignore[operator]
    assert found[2] == 0
    torch.testing.assert_close(found[valid], function(torch.tensor([1.0, 2.0, 6.0]), 3, ALL[:3]))  # type: ignore[operator]


@pytest.mark.parametrize("function", [centred, grpo, rloo])
def test_laws_of_groups(function: object) -> None:
    """(i): sums of 0, and members permuted give advantages permuted."""
    torch.manual_seed(0)
    score, order = torch.rand(20), torch.randperm(5)
    found = function(score, 5, torch.ones(20, dtype=torch.bool)).reshape(4, 5)  # type: ignore[operator]
    assert found.sum(1).abs().max() < 1e-5
    permuted = function(score.reshape(4, 5)[:, order].flatten(), 5, torch.ones(20, dtype=torch.bool))  # type: ignore[operator]
    torch.testing.assert_close(permuted.reshape(4, 5), found[:, order])


def test_equal_groups_are_seen() -> None:
    assert equal_groups(SCORE, 3, ALL).tolist() == [False, True]
    lonely = torch.tensor([True, False, False, True, True, True])
    assert equal_groups(SCORE, 3, lonely).tolist() == [True, True]  # nobody to be compared with
    with pytest.raises(ValueError, match="6 conversations do not divide into groups of 4"):
        grpo(SCORE, 4, ALL)


def test_gdpo_normalises_each_reward_alone() -> None:
    """A reward a hundred times as large counts no more than another: that is the point of it."""
    parts = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    weights, valid = torch.tensor([0.5, 0.5]), torch.ones(4, dtype=torch.bool)
    found = gdpo(parts, weights, 4, valid)
    torch.testing.assert_close(found, gdpo(parts * torch.tensor([1.0, 100.0]), weights, 4, valid), atol=1e-4, rtol=0)
    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0, 0.0, 1.0]) * math.sqrt(2), atol=1e-4, rtol=0)


def test_reinforce_plus_plus() -> None:
    """Returns 1 and 0 over 2 + 4 tokens, whitened: mean 1/3, std √2/3; KL is paid from the token on."""
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    score, valid = torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool)
    found = reinforce_plus_plus(score, valid, mask, torch.zeros(2, 4), 0.1)
    std = math.sqrt(2) / 3
    torch.testing.assert_close(found[0], torch.tensor([0, 2 / 3, 2 / 3, 0]) / std, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], torch.full((4,), -1 / 3) / std, atol=1e-4, rtol=0)
    kl = torch.zeros(2, 4)
    kl[1, 2] = 1.0
    taxed = reinforce_plus_plus(torch.zeros(2), valid, mask, kl, 0.1)
    assert taxed[1, 0] == taxed[1, 1] == taxed[1, 2] < taxed[1, 3]


def test_reinforce_baseline() -> None:
    """Differences -2, -1, 3, 0, 0, 0 have mean 0 and variance 14/6 over the batch, not over the group."""
    found = reinforce_baseline(SCORE, 3, ALL)
    torch.testing.assert_close(found * math.sqrt(14 / 6), torch.tensor([-2.0, -1, 3, 0, 0, 0]), atol=1e-4, rtol=0)


def test_gae_skips_observations() -> None:
    """Tokens 1, 2 and 4 are the policy's: the error of 2 bootstraps from the value of 4, not from that of 3."""
    value = torch.tensor([[50.0, 1.0, 2.0, 77.0, 4.0, 99.0]])
    mask = torch.tensor([[False, True, True, False, True, False]])
    advantage, target = gae_tokens(torch.tensor([10.0]), value, mask, discount=0.5, decay=0.5)
    last = 10 - 4.0
    middle = 0.5 * 4 - 2 + 0.25 * last
    first = 0.5 * 2 - 1 + 0.25 * middle
    assert advantage.tolist() == [[0, first, middle, 0, last, 0]]
    assert target.tolist() == [[0, first + 1, middle + 2, 0, 10, 0]]
    squeezed, _ = gae_tokens(torch.tensor([10.0]), value[mask][None], torch.ones(1, 3, dtype=torch.bool), 0.5, 0.5)
    assert squeezed.tolist() == [[first, middle, last]]  # as if the observations were not there


def test_step_groups() -> None:
    """Two conversations begin alike and part: the shared state compares 1 · γ with 0, later states nobody."""
    found = step_groups([["start", "a"], ["start", "b", "c"]], torch.tensor([1.0, 0.0]), ALL[:2], discount=0.5)
    assert found[0][1:] == [0.0] and found[1][1:] == [0.0, 0.0]
    assert found[0][0] == pytest.approx(math.sqrt(0.5), abs=1e-4)  # (0.5 - 0.25) / std(0.5, 0) = 0.25 / 0.3536
    assert found[1][0] == pytest.approx(-math.sqrt(0.5), abs=1e-4)
    void = step_groups([["s"], ["s"]], torch.tensor([1.0, 0.0]), torch.tensor([True, False]))
    assert void == [[0.0], [0.0]]
