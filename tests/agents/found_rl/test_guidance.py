"""Guidance against numbers worked out by hand, and the laws that the formulas promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from palaestra.agents.found_rl.guidance import (
    advice_weight,
    cosine,
    gaussian_cost,
    guided_action,
    hold_then_fall,
    squashed_cost,
    value_margin,
)

LABELLED = torch.tensor([True, False, True])


def test_the_margin_of_three_rows_by_hand() -> None:
    advised, taken = torch.tensor([[3.0, 9.0, 0.0]]), torch.tensor([[2.0, 0.0, 1.0]])
    # (3 - 2 - 2)² = 1 and (0 - 1 - 2)² = 9; the row without a label adds nothing, and the mean is over all three.
    assert value_margin(advised, taken, LABELLED, 2.0).item() == pytest.approx(10 / 3)
    both = value_margin(advised.expand(2, 3), taken.expand(2, 3), LABELLED, 2.0)
    assert both.item() == pytest.approx(20 / 3)


def test_the_released_margin_also_moves_rows_without_a_label() -> None:
    advised, taken = torch.tensor([[3.0, 9.0, 0.0]]), torch.tensor([[2.0, 0.0, 1.0]])
    # (1 + 49 + 9) / 3, times the share of labels, 2 / 3.
    assert value_margin(advised, taken, LABELLED, 2.0, literal=True).item() == pytest.approx(59 / 3 * 2 / 3)
    everyone = torch.ones(3, dtype=torch.bool)
    plain, literal = (value_margin(advised, taken, everyone, 2.0, form) for form in (False, True))
    assert plain.item() == pytest.approx(literal.item())


def test_a_margin_moves_only_the_advised_value_of_labelled_rows() -> None:
    advised = torch.tensor([[3.0, 9.0, 3.0]], requires_grad=True)
    taken = torch.tensor([[2.0, 0.0, 1.0]], requires_grad=True)
    value_margin(advised, taken, LABELLED, 2.0).backward()
    assert taken.grad is None
    assert advised.grad is not None
    assert advised.grad.tolist() == [[pytest.approx(-2 / 3), 0.0, 0.0]]  # the third is exactly its margin above


def test_weights_are_exponential_and_capped_and_closed_below_zero() -> None:
    advantage = torch.tensor([2.0, 5.991465, 7.0, 0.0, -1.0, 2.0])
    labelled = torch.tensor([True, True, True, True, True, False])
    weight = advice_weight(advantage, labelled, temperature=2.0, most=20.0, normalised=False)
    assert weight.tolist() == pytest.approx([math.e, 20.0, 20.0, 0.0, 0.0, 0.0], rel=1e-5)


def test_normalised_weights_do_not_depend_on_the_scale_of_returns() -> None:
    advantage, labelled = torch.randn(64), torch.rand(64) < 0.5
    one, thousand = (advice_weight(scale * advantage, labelled) for scale in (1.0, 1000.0))
    torch.testing.assert_close(one, thousand)
    # |2| and |-4| have the mean 3, so 2 becomes 2/3 and its weight exp(1/3).
    by_hand = advice_weight(torch.tensor([2.0, -4.0]), torch.ones(2, dtype=torch.bool))
    assert by_hand.tolist() == pytest.approx([math.exp(1 / 3), 0.0])


def test_no_gradient_reaches_the_critics_through_weights() -> None:
    advantage = torch.tensor([1.0, 2.0], requires_grad=True)
    assert not advice_weight(advantage, torch.ones(2, dtype=torch.bool)).requires_grad


def test_a_closed_gate_costs_nothing_and_is_no_nan() -> None:
    cost = torch.tensor([1.0, math.inf], requires_grad=True)
    loss = guided_action(torch.zeros(2), cost)
    assert loss.item() == 0
    loss = guided_action(torch.tensor([3.0, 0.0]), torch.tensor([2.0, math.inf]))
    assert loss.item() == 6  # of one open row, not of two


def test_costs_are_the_log_probabilities_of_torch() -> None:
    mean, log_std, advised = torch.randn(16, 2), 0.3 * torch.randn(16, 2), 1.8 * torch.rand(16, 2) - 0.9
    expected = -Normal(mean, 0.4).log_prob(advised).sum(1)
    torch.testing.assert_close(gaussian_cost(mean, 0.4, advised), expected)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    torch.testing.assert_close(squashed_cost(mean, log_std, advised), -squashed.log_prob(advised).sum(1))
    edge = torch.ones(1, 2)
    assert bool(torch.isfinite(squashed_cost(mean[:1], log_std[:1], edge)).all())


@pytest.mark.parametrize(("step", "weight"), [(0, 1.0), (50_000, 1.0), (100_000, 0.5), (150_000, 0.0), (10**6, 0.0)])
def test_the_margin_fades_as_released_in_a_run_of_a_million_steps(step: int, weight: float) -> None:
    assert hold_then_fall(step / 1e6, 0.05, 0.15) == pytest.approx(weight)


def test_a_margin_that_ends_where_it_holds_falls_at_once() -> None:
    assert (hold_then_fall(0.2, 0.2, 0.2), hold_then_fall(0.21, 0.2, 0.2)) == (1.0, 0.0)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.03), (150_000, 0.00967), (300_000, 0.0), (900_000, 0.0)])
def test_the_action_weight_fades_as_released_in_a_run_of_a_million_steps(step: int, weight: float) -> None:
    assert 0.03 * cosine(step / 1e6, 0.3) == pytest.approx(weight, abs=5e-6)
