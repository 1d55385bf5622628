"""Value functions: losses by hand, the least head, and no gradient through a value."""

import math

import pytest
import torch
from torch import tensor

from palaestra.agents.digirl.values import Value, value_loss


def test_losses_by_hand() -> None:
    logits = tensor([[0.0, 0.0], [math.log(3.0), math.log(3.0)]])  # probabilities 0.5 and 0.75
    success = tensor([1.0, 0.0])
    expected = math.log(2) + (-math.log(0.75) - math.log(0.25)) / 2
    assert value_loss(logits, success).item() == pytest.approx(expected)
    squares = 0.25 + (0.25**2 + 0.75**2) / 2
    assert value_loss(logits, success, "regression").item() == pytest.approx(squares)


def test_the_most_doubtful_head_decides_and_nothing_flows_back() -> None:
    torch.manual_seed(0)
    value, features = Value(6, heads=2), torch.randn(9, 6)
    found = value(features)
    torch.testing.assert_close(found, value.logits(features).sigmoid().min(0).values)
    assert not found.requires_grad


def test_a_value_learns_who_succeeds() -> None:
    torch.manual_seed(0)
    value = Value(8, heads=2, hidden=32)
    optimiser = torch.optim.Adam(value.parameters(), 1e-2)
    for _ in range(100):
        features = torch.randn(256, 8)
        optimiser.zero_grad()
        value_loss(value.logits(features), (features[:, 0] > features[:, 1]).float()).backward()
        optimiser.step()
    features = torch.randn(1000, 8)
    right = ((value(features) > 0.5) == (features[:, 0] > features[:, 1])).float().mean()
    assert right > 0.9
