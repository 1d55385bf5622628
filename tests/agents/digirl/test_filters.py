"""DigiRL's filters against numbers worked out by hand, and their laws."""

import pytest
import torch
from torch import tensor

from palaestra.agents.digirl.filters import (
    advantage_weights,
    instruction_advantages,
    kept_steps,
    outcomes_to_go,
    step_advantages,
    successes_or_all,
    top_share,
)


def test_outcomes_halve_with_each_step_from_the_end() -> None:
    found = outcomes_to_go(tensor([1.0, 1.0, 1.0, 0.0]), tensor([2, 1, 0, 0]), 0.5)
    assert found.tolist() == [0.25, 0.5, 1.0, 0.0]


def test_advantage_of_a_success_by_hand() -> None:
    # Last step: m = 1, so A = 1 whatever the values. One before: 0.5 + 0.5 (0.6 - 0.4) = 0.6.
    found = step_advantages(tensor([0.9, 0.4]), tensor([0.0, 0.6]), tensor([1.0, 0.0]), tensor([1.0, 0.5]))
    torch.testing.assert_close(found, tensor([1.0, 0.6]))


def test_advantage_of_a_failure_is_the_change_of_value() -> None:
    found = step_advantages(tensor([0.2, 0.7]), tensor([0.7, 0.1]), torch.zeros(2), torch.zeros(2))
    torch.testing.assert_close(found, tensor([0.5, -0.6]))


def test_advantage_of_the_code_counts_the_last_reward_twice() -> None:
    value, next_value = tensor([0.3, 0.9]), tensor([0.4, 0.0])
    found = step_advantages(value, next_value, tensor([0.0, 1.0]), tensor([0.5, 1.0]), "code")
    torch.testing.assert_close(found, tensor([0.55, 1.0]))  # 0.1 - 0.05 + 0.5; -0.9 - 0.05 + 2 = 1.05, clamped


def test_threshold_is_one_over_the_horizon_and_strict() -> None:
    advantage = tensor([0.1, 0.11, 0.0, -0.2])
    assert kept_steps(advantage, 10).tolist() == [False, True, False, False]
    assert kept_steps(advantage, 10, "code").tolist() == [True, True, False, False]


def test_success_where_none_was_expected_ranks_first_and_failure_on_the_easy_last() -> None:
    success, value = tensor([1.0, 1.0, 0.0, 0.0]), tensor([0.1, 0.95, 0.05, 0.9])
    order = instruction_advantages(success, value).argsort(descending=True)
    assert order.tolist() == [0, 1, 2, 3]


def test_top_share_keeps_ties() -> None:
    scores = tensor([0.0] * 5 + [1.0] * 5)
    assert top_share(scores, 0.1).tolist() == [False] * 5 + [True] * 5
    assert top_share(torch.zeros(8), 0.1).all()
    assert top_share(torch.arange(10.0), 0.3).nonzero().flatten().tolist() == [7, 8, 9]  # the quantile is 6.3
    assert top_share(torch.randn(7), 1.0).all()


def test_top_share_does_not_depend_on_order_or_scale() -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))
    kept, shuffle = top_share(scores, 0.2), torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(top_share(scores[shuffle], 0.2), kept[shuffle])
    assert torch.equal(top_share(3 * scores + 7, 0.2), kept)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_top_share_refuses_what_is_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        top_share(torch.zeros(3), share)


def test_cloning_flips_to_everything_below_the_share() -> None:
    few, enough = torch.zeros(20), torch.zeros(20)
    few[0], enough[:2] = 1, 1
    assert successes_or_all(few, 0.1).all()
    assert successes_or_all(enough, 0.1).nonzero().flatten().tolist() == [0, 1]


def test_weights_have_mean_one_and_the_ratio_of_exponentials() -> None:
    weights = advantage_weights(tensor([0.0, 0.5, 1.0]), 0.5)
    assert weights.mean().item() == pytest.approx(1)
    torch.testing.assert_close(weights[1:] / weights[:-1], torch.full((2,), torch.e))
    assert (advantage_weights(tensor([0.0, 0.5]), 1e6) - 1).abs().max() < 1e-5  # a large temperature: all alike
    with pytest.raises(ValueError, match="temperature"):
        advantage_weights(torch.zeros(2), 0.0)
