"""Advantages against their definitions, computed another way."""

import itertools

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from palaestra.agents.advantages import gae, group_advantage, normalise


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)[:, None]


def brute_force(slots: list[dict], discount: float, decay: float) -> list[float]:
    """Return A_t = G_t^λ - V_t with G_t^λ = (1 - λ) Σ_n λ^{n-1} G_t^{(n)} written out (Sutton and Barto, eq. 12.3).

    G_t^{(n)} sums n discounted rewards and bootstraps; the run ends at an end, before a masked slot or at the last
    slot, and all the weight that is left goes to the longest return.
    """
    advantages = []
    for t, slot in enumerate(slots):
        if not slot["mask"]:
            advantages.append(0.0)
            continue
        returns, summed = [], 0.0
        for n, later in enumerate(slots[t:], start=1):
            summed += discount ** (n - 1) * later["reward"]
            returns.append(summed + (0.0 if later["terminated"] else discount**n * later["next_value"]))
            last = t + n == len(slots) or not slots[t + n]["mask"]
            if later["terminated"] or later["truncated"] or last:
                break
        mixture = sum((1 - decay) * decay ** (n - 1) * g for n, g in enumerate(returns[:-1], start=1))
        advantages.append(mixture + decay ** (len(returns) - 1) * returns[-1] - slot["value"])
    return advantages


numbers = st.floats(-5, 5, allow_nan=False, width=32)
slots = st.fixed_dictionaries(
    {
        "reward": numbers,
        "value": numbers,
        "next_value": numbers,
        "end": st.sampled_from(["none", "none", "terminated", "truncated", "both"]),
        "mask": st.sampled_from([True, True, True, False]),
    }
)


@given(rows=st.lists(slots, min_size=1, max_size=12), discount=st.floats(0, 1), decay=st.floats(0, 1))
@settings(max_examples=100, deadline=None, phases=[Phase.generate, Phase.shrink])
def test_gae_equals_brute_force_lambda_returns(rows: list[dict], discount: float, decay: float) -> None:
    """Check 17: any rewards, values, ends, time limits and holes; the value target is advantage + value."""
    for slot, later in itertools.zip_longest(rows, rows[1:]):
        if slot["end"] == "none" and later is not None:
            slot["next_value"] = later["value"]
        slot["terminated"] = slot["end"] in ("terminated", "both")
        slot["truncated"] = slot["end"] in ("truncated", "both")
    stacked = {
        name: torch.tensor([[float(slot[name])] for slot in rows], dtype=torch.float64)
        for name in ("reward", "value", "next_value")
    }
    ends = {name: torch.tensor([[slot[name]] for slot in rows]) for name in ("terminated", "truncated", "mask")}
    advantage, target = gae(**stacked, **ends, discount=discount, decay=decay)
    assert advantage[:, 0].tolist() == pytest.approx(brute_force(rows, discount, decay), abs=1e-9)
    assert torch.equal(target, advantage + stacked["value"])


def test_gae_by_hand_terminated_and_truncated() -> None:
    """Check 17, by hand: γ = .9, λ = .5, rewards 1 2 3, values 1 2 3, next values 2 3 10.

    δ = 1 + .9·2 - 1 = 1.8;  2 + .9·3 - 2 = 2.7;  terminated: 3 - 3 = 0; truncated: 3 + .9·10 - 3 = 9.
    Terminated: A = [1.8 + .45·2.7, 2.7 + .45·0, 0] = [3.015, 2.7, 0].
    Truncated: A_2 = 9, A_1 = 2.7 + .45·9 = 6.75, A_0 = 1.8 + .45·6.75 = 4.8375.
    """
    given_values = (column(1, 2, 3), column(1, 2, 3), column(2, 3, 10))
    end, no, everything = flags(0, 0, 1), flags(0, 0, 0), flags(1, 1, 1)
    terminated, target = gae(*given_values, end, no, everything, 0.9, 0.5)
    assert terminated[:, 0].tolist() == pytest.approx([3.015, 2.7, 0.0])
    assert target[:, 0].tolist() == pytest.approx([4.015, 4.7, 3.0])
    truncated, _ = gae(*given_values, no, end, everything, 0.9, 0.5)
    assert truncated[:, 0].tolist() == pytest.approx([4.8375, 6.75, 9.0])
    # A rollout that is cut while the episode goes on bootstraps just as a time limit does.
    cut, _ = gae(*given_values, no, no, everything, 0.9, 0.5)
    assert torch.equal(cut, truncated)


def test_gae_does_not_leak_through_an_end() -> None:
    """Check 17: after an auto-reset the next episode's rewards change nothing before it; a time limit carries none."""
    for terminated, truncated in ((flags(0, 1, 0, 0), flags(0, 0, 0, 0)), (flags(0, 0, 0, 0), flags(0, 1, 0, 0))):
        outcomes = []
        for reward in (1.0, 1000.0):
            rewards, values = column(1, 1, reward, reward), column(0.5, 0.5, reward, 0.5)
            next_values = column(0.5, 7, 0.5, 0.5)
            outcomes.append(gae(rewards, values, next_values, terminated, truncated, flags(1, 1, 1, 1), 0.9, 0.95)[0])
        assert torch.equal(outcomes[0][:2], outcomes[1][:2])
        assert not torch.equal(outcomes[0][2:], outcomes[1][2:])


def test_gae_mask_cuts() -> None:
    """Check 17: a slot whose world broke has advantage 0; the slot before bootstraps from its value alone.

    γ = λ = 1: A_0 = 1 + 4 - 1 = 4 whatever slot 1 says, A_1 = 0, A_2 = 1 + 2 - 3 = 0.
    """
    for broken in (5.0, float("nan"), float("inf")):
        advantage, _ = gae(
            column(1, broken, 1), column(1, 4, 3), column(4, broken, 2), flags(0, 0, 0), flags(0, 0, 0),
            flags(1, 0, 1), 1.0, 1.0,
        )  # fmt: skip
        assert advantage[:, 0].tolist() == [4.0, 0.0, 0.0]


def test_gae_ignores_what_follows_a_termination() -> None:
    """Check 17: the value of what a terminated slot led to is not looked at, NaN or not."""
    advantage, _ = gae(column(1), column(0.25), column(float("nan")), flags(1), flags(0), flags(1), 0.9, 0.9)
    assert advantage.item() == 0.75


def test_gae_rows_are_independent() -> None:
    """Two rows side by side give what each gives alone, in the dtype of the values."""
    torch.manual_seed(0)
    reward, value, following = torch.randn(3, 6, 2).unbind()
    ends = [torch.rand(6, 2) < 0.3 for _ in range(2)] + [torch.rand(6, 2) < 0.8]
    both, _ = gae(reward, value, following, *ends, 0.9, 0.95)
    assert both.dtype == torch.float32
    for row in range(2):
        part = [tensor[:, row : row + 1] for tensor in (reward, value, following, *ends)]
        assert torch.equal(gae(*part, 0.9, 0.95)[0], both[:, row : row + 1])


def test_normalise_over_the_mask() -> None:
    """Mean 0 and standard deviation 1 over known slots, 0 elsewhere: 1, 3 become -1, 1, whatever the third says."""
    for unknown in (100.0, float("nan")):
        normal = normalise(column(1, unknown, 3), flags(1, 0, 1))
        assert normal[:, 0].tolist() == pytest.approx([-1, 0, 1], abs=1e-4)


def test_normalise_broadcasts_its_mask() -> None:
    """A mask over slots covers each action's advantage: 1 3 | 5 7 has mean 4 and variance 5."""
    normal = normalise(torch.tensor([[1.0, 3.0], [5.0, 7.0], [9.0, 9.0]]), flags(1, 1, 0))
    assert normal.flatten().tolist() == pytest.approx([-1.3416, -0.4472, 0.4472, 1.3416, 0, 0], abs=1e-4)


def test_normalise_degenerate() -> None:
    """Equal advantages, one slot or none give zeros, not NaN."""
    for values, known in ((column(2, 2), flags(1, 1)), (column(2, 5), flags(1, 0)), (column(2, 5), flags(0, 0))):
        assert torch.equal(normalise(values, known), torch.zeros_like(values))


def test_group_advantage_by_hand() -> None:
    """Check 20: scores 1 0 0 1 in one group: mean .5, std .5, A = ±1; the other group is on its own."""
    score = torch.tensor([1, 0, 0, 1, 2, 2, 6, 6], dtype=torch.float64)
    advantage, kept = group_advantage(score, 4)
    assert advantage.tolist() == pytest.approx([1, -1, -1, 1, -1, -1, 1, 1], abs=1e-5)
    assert bool(kept.all())


@given(score=st.floats(-1000, 1000, width=32), size=st.integers(1, 16))
@settings(max_examples=100, deadline=None)
def test_equal_group_has_zero_advantage(score: float, size: int) -> None:
    """Check 20: a group whose scores are all equal teaches exactly nothing, whatever the score rounds to."""
    advantage, _ = group_advantage(torch.full((2 * size,), score, dtype=torch.float32), size)
    assert torch.equal(advantage, torch.zeros(2 * size))


def test_equal_group_has_zero_gradient() -> None:
    """Check 20: through the policy's log-densities an all-equal group's gradient is 0 and finite."""
    density = torch.randn(8, requires_grad=True)
    advantage, _ = group_advantage(torch.full((8,), 100.1), 8)
    (density.exp() * advantage).mean().backward()
    assert density.grad is not None and torch.equal(density.grad, torch.zeros(8))


@pytest.mark.parametrize(
    ("wins", "kept"), [(0, False), (1, True), (5, True), (9, True), (10, False)], ids=lambda value: str(value)
)
def test_group_filter(wins: int, kept: bool) -> None:
    """Check 20: groups of ten with mean score in [.1, .9] are kept, bounds included; all-lost and all-won are not."""
    score = torch.tensor([1.0] * wins + [0.0] * (10 - wins))
    _, mask = group_advantage(score, 10, keep=(0.1, 0.9))
    assert mask.tolist() == [kept] * 10


def test_group_filter_just_outside() -> None:
    """Check 20: mean .0625 and .9375 (1 and 15 of 16) are dropped by [.1, .9], each group by its own mean."""
    score = torch.zeros(48)
    score[0] = 1
    score[16:31] = 1
    score[32:40] = 1
    _, mask = group_advantage(score, 16, keep=(0.1, 0.9))
    assert mask.reshape(3, 16).all(1).tolist() == [False, False, True]
    assert not bool(mask[:32].any())


def test_group_must_divide() -> None:
    """Bad input: trajectories that do not fill whole groups are refused, with both numbers."""
    with pytest.raises(ValueError, match=r"10 trajectories .* groups of 4"):
        group_advantage(torch.zeros(10), 4)
