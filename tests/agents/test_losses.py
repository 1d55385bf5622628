"""Losses against hand-computed cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palaestra.agents.losses import clipped_surrogate, clipped_value, huber, trajectory_weights, weighted_mean


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        # clip .2: -min(r A, clip(r, .8, 1.2) A), and its derivative by r.
        (1.5, 2.0, -2.4, 0.0),  # gained and already far: -min(3, 2.4), no further push
        (0.5, 2.0, -1.0, -2.0),  # lost a good action: -min(1, 1.6), pulled back
        (1.5, -2.0, 3.0, 2.0),  # gained a bad action: -min(-3, -2.4), pushed down
        (0.5, -2.0, 1.6, 0.0),  # already far below: -min(-1, -1.6), no further push
        (1.1, 2.0, -2.2, -2.0),  # within the trust region nothing is clipped
        (0.9, -2.0, 1.8, 2.0),
        (1.3, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """Check 18: both signs of the advantage on both sides of the trust region, loss and gradient."""
    r = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
    found = clipped_surrogate(r, torch.tensor(advantage, dtype=torch.float64), 0.2)
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert r.grad is not None and r.grad.item() == pytest.approx(slope)


def test_clipped_surrogate_at_one() -> None:
    """At ratio 1, the first pass, the gradient is the policy gradient: -A, elementwise."""
    r = torch.ones(3, requires_grad=True)
    clipped_surrogate(r, torch.tensor([1.0, -2.0, 0.5]), 0.2).sum().backward()
    assert r.grad is not None and r.grad.tolist() == [-1.0, 2.0, -0.5]


@pytest.mark.parametrize(("error", "loss"), [(0, 0), (4, 8), (-4, 8), (10, 50), (12, 70), (-12, 70)])
def test_huber(error: float, loss: float) -> None:
    """Check 18: δ = 10: ½ e² up to 10 (4 → 8, 10 → 50), then 10 (|e| - 5) (12 → 70)."""
    assert huber(torch.tensor(float(error)), 10).item() == loss


@given(error=st.floats(-10, 10), delta=st.floats(10, 100))
@settings(deadline=None)
def test_huber_is_half_squared_error_below_delta(error: float, delta: float) -> None:
    """Check 18: below δ it is half the squared error; above, torch's own Huber loss agrees."""
    e = torch.tensor(error, dtype=torch.float64)
    assert huber(e, delta).item() == pytest.approx(0.5 * error**2)
    big = 10 * e
    torch.testing.assert_close(
        huber(big, 1.5), torch.nn.functional.huber_loss(big, torch.zeros_like(big), delta=1.5)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [
        # V_old = 1, target 3, clip .2. The clipped value stays in [.8, 1.2].
        (1.1, 1.805, -1.9),  # within: both are ½ 1.9²
        (2.0, 1.62, 0.0),  # moved too far towards the target: max(½ 1², ½ 1.8²), no further push
        (0.5, 3.125, -2.5),  # moved too far away: max(½ 2.5², ½ 2.2²), pulled back
        (6.0, 4.5, 3.0),  # overshot past the target: max(½ 3², ½ 1.8²), pulled back
    ],
)
def test_clipped_value(value: float, loss: float, slope: float) -> None:
    """Check 18: the larger of the plain and the clipped Huber loss, and its gradient."""
    v = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    old, target = torch.tensor(1.0, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    found = clipped_value(v, old, target, 0.2)
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert v.grad is not None and v.grad.item() == pytest.approx(slope)


def test_clipped_value_beyond_delta() -> None:
    """Check 18: an error of 20 costs 10 (20 - 5) = 150 and pulls with δ, not with 20."""
    v = torch.zeros((), requires_grad=True)
    loss = clipped_value(v, torch.zeros(()), torch.tensor(20.0), 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(150)
    assert v.grad is not None and v.grad.item() == -10


def test_weighted_mean() -> None:
    """Σ w x / Σ w = (1·1 + 3·2) / 3 = 7/3; 0 where every weight is 0."""
    assert weighted_mean(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 3.0, 0.0])).item() == pytest.approx(7 / 4)
    assert weighted_mean(torch.tensor([1.0, 2.0]), torch.zeros(2)).item() == 0


def test_masked_slots_have_zero_gradient() -> None:
    """Check 19: slots after the episode's end pull at nothing."""
    ratio = torch.ones(5, 2, requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0], [0, 0]], dtype=torch.bool)
    ended = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0], [0, 0]], dtype=torch.bool)
    advantage = torch.full((5, 2), 3.0)
    for weight in (mask.float(), trajectory_weights(mask, ended)):
        (gradient,) = torch.autograd.grad(weighted_mean(clipped_surrogate(ratio, advantage, 0.2), weight), ratio)
        assert torch.equal(gradient != 0, mask)


def test_trajectory_weights_by_hand() -> None:
    """Check 19: row 0 holds trajectories of 2 and 3 slots, row 1 one of 5, row 2 one of 3 and then nothing."""
    ended = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.bool)
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0]], dtype=torch.bool)
    third = 1 / 3
    expected = [[0.5, 0.2, third], [0.5, 0.2, third], [third, 0.2, third], [third, 0.2, 0], [third, 0.2, 0]]
    torch.testing.assert_close(trajectory_weights(mask, ended), torch.tensor(expected))


def test_trajectory_weights_cut_at_a_broken_world() -> None:
    """Check 19: a slot whose world broke ends its trajectory: slots 0, 1 are one, slot 3 begins another."""
    mask, ended = torch.tensor([[1], [1], [0], [1]], dtype=torch.bool), torch.zeros(4, 1, dtype=torch.bool)
    assert trajectory_weights(mask, ended)[:, 0].tolist() == [0.5, 0.5, 0.0, 1.0]


def total_by_trajectory(weight: Tensor, ended: Tensor, mask: Tensor) -> list[float]:
    """Return each trajectory's total weight, walked slot by slot; those without a known slot are left out."""
    totals = []
    for row in range(weight.shape[1]):
        total, known = 0.0, 0
        for t in range(len(weight)):
            total, known = total + weight[t, row].item(), known + int(mask[t, row])
            if ended[t, row] or not mask[t, row] or t == len(weight) - 1:
                totals += [total] if known else []
                total, known = 0.0, 0
    return totals


@given(seed=st.integers(0, 10_000), slots=st.integers(1, 12), rows=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_trajectory_weighs_one(seed: int, slots: int, rows: int) -> None:
    """Check 19: whatever its length, each trajectory's total weight is 1; masked slots weigh nothing."""
    generator = torch.Generator().manual_seed(seed)
    ended = torch.rand(slots, rows, generator=generator) < 0.3
    mask = torch.rand(slots, rows, generator=generator) < 0.8
    weight = trajectory_weights(mask, ended)
    assert torch.equal(weight > 0, mask)
    assert total_by_trajectory(weight, ended, mask) == pytest.approx(
        [1.0] * len(total_by_trajectory(weight, ended, mask))
    )
