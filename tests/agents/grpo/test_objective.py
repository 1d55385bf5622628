"""The policy-gradient family against numbers computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from palaestra.agents.grpo.objective import (
    Objective,
    aggregate,
    clipped,
    divergence,
    log_ratio,
    loss,
    surrogate,
)
from palaestra.agents.grpo.presets import PRESETS, preset

MASK = torch.tensor([[False, True, True, False], [True, True, True, True]])


def one(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("clip", "ratio", "advantage", "value", "slope"),
    [
        # -min(r A, clip(r, .8, 1.28) A)
        ("clip", 1.5, 2.0, -2.56, 0.0),
        ("clip", 1.25, 2.0, -2.5, -2.0),  # clip-higher: within 1.28
        ("clip", 0.5, -2.0, 1.6, 0.0),
        ("clip", 4.0, -2.0, 8.0, 2.0),
        ("dual", 4.0, -2.0, 6.0, 0.0),  # a bad token's loss stops at c = 3
        ("dual", 2.0, -2.0, 4.0, 2.0),
        ("dual", 1.5, 2.0, -2.56, 0.0),
        # σ(τ (r - 1)) 4 / τ: at r = 1 it is 2 A / τ, and its slope A
        ("sapo", 1.0, 2.0, -4.0, -2.0),
        ("sapo", 1.0, -2.0, 4 / 1.05, 2.0),
        ("sapo", 3.0, 1.0, -4 / (1 + math.exp(-2)), -4 * math.exp(-2) / (1 + math.exp(-2)) ** 2),
    ],
)
def test_clip_rules(clip: str, ratio: float, advantage: float, value: float, slope: float) -> None:
    """Loss and slope by the ratio on both sides of the edges."""
    r = one(ratio).requires_grad_()
    found = surrogate(r, one(advantage), one(0.0), Objective(clip=clip, high=0.28))  # type: ignore[arg-type]
    found.sum().backward()
    assert found.item() == pytest.approx(value)
    assert r.grad is not None and r.grad.item() == pytest.approx(slope)


def test_cispo_weighs_the_log_probability() -> None:
    """-min(r, 5) A log π with the weight held fixed: its gradient never vanishes, even beyond the cut."""
    logprob = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    ratio = torch.tensor([[2.0, 9.0]], requires_grad=True)
    found = surrogate(ratio, torch.tensor([[3.0, 3.0]]), logprob, Objective(clip="cispo", high=5.0))
    assert found.tolist() == [[6.0, 30.0]]
    found.sum().backward()
    assert logprob.grad is not None and logprob.grad.tolist() == [[-6.0, -15.0]]
    assert ratio.grad is None
    assert clipped(ratio, torch.ones(1, 2), Objective(clip="cispo", high=5.0)).tolist() == [[False, True]]


def test_ratio_levels() -> None:
    """GSPO: the mean of log ρ over the tokens chosen, in each of them."""
    logprob = torch.tensor([[9.0, -1.0, -2.0, 9.0], [0.0, 1.0, 2.0, 3.0]])
    old = torch.tensor([[0.0, -1.5, -2.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    token = log_ratio(logprob, old, MASK, "token")
    torch.testing.assert_close(token, torch.tensor([[0.0, 0.5, 0.1, 0.0], [0.0, 1.0, 2.0, 3.0]]))
    sequence = log_ratio(logprob, old, MASK, "sequence")
    torch.testing.assert_close(sequence, torch.tensor([[0.3] * 4, [1.5] * 4]))
    product = log_ratio(logprob, old, MASK, "product")
    torch.testing.assert_close(product, torch.tensor([[0.6] * 4, [6.0] * 4]))


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ("sequence", ((2 + 3) / 2 + (5 + 6 + 7 + 8) / 4) / 2),
        ("token", (5 + 26) / 6),
        ("sum", (5 + 26) / 2),
        ("constant", (5 + 26) / 2 / 10),
    ],
)
def test_aggregation(how: str, value: float) -> None:
    tokens = torch.arange(1.0, 9.0).reshape(2, 4)
    assert aggregate(tokens, MASK, how, 10).item() == pytest.approx(value)  # type: ignore[arg-type]
    padded = torch.cat([tokens, torch.full((1, 4), 99.0)]), torch.cat([MASK, torch.zeros(1, 4, dtype=torch.bool)])
    assert aggregate(*padded, how, 10).item() == pytest.approx(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("none", 0.0),
        ("k1", -0.5),  # -(log π_ref - log π)
        ("k2", 0.125),
        ("k3", math.exp(0.5) - 1.5),
        ("unbiased", math.exp(0.2) * (math.exp(0.5) - 1.5)),
        ("forward", math.exp(0.7) * 0.5),
    ],
)
def test_divergences(kind: str, value: float) -> None:
    """log π = -1, log π_old = -1.2, log π_ref = -.5."""
    found = divergence(one(-1.0), one(-1.2), one(-0.5), kind)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(value)
    assert divergence(one(-50.0), one(-50.0), one(0.0), "k3").item() == 10  # bounded


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "unbiased"])
def test_means_of_divergences(kind: str) -> None:
    """Over all tokens, weighed by π: k1, k3 and unbiased have the divergence itself as their mean, k2 nearly."""
    torch.manual_seed(0)
    policy = torch.randn(6, dtype=torch.float64).log_softmax(0)
    reference = (policy + 0.05 * torch.randn(6, dtype=torch.float64)).log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum().item()
    found = (policy.exp() * divergence(policy, policy, reference, kind)).sum().item()  # type: ignore[arg-type]
    assert found == pytest.approx(exact, rel=0.1 if kind == "k2" else 1e-6)


def test_gradients_of_divergences() -> None:
    """Off the old policy, "unbiased" has the gradient of KL(π‖π_ref), "forward" that of KL(π_ref‖π); k3 neither."""
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    old, reference = (torch.randn(5, dtype=torch.float64).log_softmax(0) for _ in range(2))

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits)[0]

    policy = logits.log_softmax(0)
    reverse = gradient((policy.exp() * (policy - reference)).sum())
    found = {}
    for kind in ("k3", "unbiased", "forward"):
        policy = logits.log_softmax(0)
        found[kind] = gradient((old.exp() * divergence(policy, old, reference, kind)).sum())  # type: ignore[arg-type]
    policy = logits.log_softmax(0)
    forward = gradient((reference.exp() * (reference - policy)).sum())
    torch.testing.assert_close(found["unbiased"], reverse)
    torch.testing.assert_close(found["forward"], forward)
    assert (found["k3"] - reverse).abs().max() > 0.01


def case() -> tuple[Tensor, Tensor, Tensor]:
    """Two conversations by hand: ratios 2, 1 and 1, 0.5, 1, 1 at their own tokens; advantages 1 and -1."""
    old = torch.zeros(2, 4, dtype=torch.float64)
    logprob = torch.tensor([[7.0, math.log(2), 0.0, 7.0], [0.0, math.log(0.5), 0.0, 0.0]], dtype=torch.float64)
    return logprob, old, torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, 4)


BY_HAND = pytest.mark.parametrize(
    ("name", "value"),
    [
        # token losses -min: first (-1.2, -1), second (1, .8, 1, 1)
        ("vrag", (-2.2 / 2 + 3.8 / 4) / 2),
        ("dr_grpo", (-2.2 + 3.8) / 2 / 64),
        ("dapo", (-2.28 + 3.8) / 6),  # clip-higher: 1.28
        # sequence ratios 2^(1/2) and 2^(-1/4): clipped at 1.0004 and 1 - .0003
        ("gspo", (-1.0004 + 0.9997) / 2),
        ("luspo", (-1.0025 * 2 + 0.998 * 4) / 2),
        ("rloo", (-1.2 + 0.8) / 2),  # conversations are actions: ratios 2 and 1/2
        ("ppo", (-2.2 + 3.8) / 6),
        ("lite_ppo", (-2.2 + 3.8) / 6),
        ("reinforce++", (-2.2 + 3.8) / 6),
        ("reinforce++-baseline", (-2.2 + 3.8) / 6),
        ("gdpo", (-2.2 / 2 + 3.8 / 4) / 2),
        ("gigpo", (-2.2 / 2 + 3.8 / 4) / 2),
        ("rapo", (-2.2 / 2 + 3.8 / 4) / 2),
        ("dual", (-2.2 / 2 + 3.8 / 4) / 2),
        # -ρ A log π: first (-2 log 2, 0), second (0, -.5 log 2, 0, 0)
        ("cispo", -2.5 * math.log(2) / 6),
        # -σ(τ (ρ - 1)) 4 / τ A
        ("sapo", (-2 * (1 / (1 + math.exp(-1)) + 0.5) + 2 / 1.05 * (0.5 * 3 + 1 / (1 + math.exp(0.525))) / 2) / 2),
    ],
)

@BY_HAND
def test_presets_by_hand(name: str, value: float) -> None:
    """The whole loss of every named member, without its KL."""
    logprob, old, advantage = case()
    found, watched = loss(logprob, old, advantage, MASK, preset(name), reference=logprob)
    assert found.item() == pytest.approx(value, rel=1e-6)
    assert watched["ratio"].item() > 0


def test_every_preset_is_computed_by_hand() -> None:
    assert {case[0] for case in BY_HAND.args[1]} == set(PRESETS) - {"grpo"}  # vrag's, with more KL


def test_first_update_is_the_policy_gradient() -> None:
    """(h): at π = π_old every member has ratio 1, nothing clipped and no divergence."""
    torch.manual_seed(0)
    for name, objective in PRESETS.items():
        logprob = -torch.rand(2, 4, dtype=torch.float64)
        _, watched = loss(logprob, logprob, torch.randn(2, 4, dtype=torch.float64), MASK, objective, reference=logprob)
        assert watched["clip_fraction"] == 0 and watched["ratio"].item() == pytest.approx(1), name
        assert watched["approximate_kl"] == 0 and watched.get("kl", torch.zeros(())) == 0, name


@pytest.mark.parametrize("name", list(PRESETS))
def test_observations_have_no_gradient(name: str) -> None:
    """(f): what the policy did not choose gets exactly no gradient, and its value changes nothing."""
    torch.manual_seed(0)
    logprob = -torch.rand(2, 4, dtype=torch.float64).requires_grad_()
    old, advantage = -torch.rand(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    logprob.retain_grad()
    found, _ = loss(logprob, old, advantage, MASK, preset(name), reference=old - 0.1)
    found.backward()  # type: ignore[no-untyped-call]
    assert logprob.grad is not None and bool((logprob.grad[~MASK] == 0).all())
    other, _ = loss(torch.where(MASK, logprob, -3.0), old, advantage, MASK, preset(name), reference=old - 0.1)
    assert other.item() == found.item()


def test_what_is_missing_is_named() -> None:
    tokens = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="reference"):
        loss(tokens, tokens, tokens, MASK, Objective())
    with pytest.raises(ValueError, match="entropy"):
        loss(tokens, tokens, tokens, MASK, Objective(kl="none", entropy=0.1))
    with pytest.raises(LookupError, match="'gspo'"):
        preset("gpso")
