"""The likelihood of chains: densities, their gradients, and what policy gradients rest on."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from palaestra.agents.flow.likelihood import transitions
from palaestra.agents.flow.pi_rl import PiRL, PiRLConfig
from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.flow.samplers import (
    Field,
    Method,
    gaussian_entropy,
    log_density,
    moments,
    noise_level_at,
    sample,
    times,
    weights,
)
from palaestra.envs.core import Observation


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Compute in float64, so that tolerances test the maths and not the arithmetic."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class AffineNetwork(nn.Module):
    """v = gain x + slope t + context, std by step: a chain under it is one Gaussian vector."""

    horizon, width = 1, 1

    def __init__(self, gain: float = -0.4, slope: float = 0.3, std: float = 0.2) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.slope = nn.Parameter(torch.tensor(slope))
        self.std = nn.Parameter(torch.tensor(std))

    def observe(self, observation: Observation) -> Tensor:
        assert observation.state is not None
        return observation.state.to(torch.float64)

    def field(self, context: Tensor, x: Tensor, t: Tensor) -> Field:
        velocity = self.gain * x + self.slope * t[:, None, None] + context[:, :1, None]
        return Field(velocity, self.std * (1 + t[:, None, None]).expand_as(x), t[:, None])

    def summary(self, context: Tensor) -> Tensor:
        return context


def all_transitions(network: AffineNetwork, points: Tensor, context: Tensor, method: Method, level: Tensor) -> Tensor:
    """Return the log-densities [N, K] of every transition of one-number chains."""
    index = torch.arange(level.shape[1]).expand(len(points), -1)
    return transitions(network, context, points, index, level, method).log_density.flatten(2).squeeze(2)


def chain_of(network: AffineNetwork, context: Tensor, method: Method, level: Tensor) -> Tensor:
    """Return the points [N, K + 1, 1, 1] of a chain drawn under the network."""
    with torch.no_grad():
        start = torch.randn(len(context), 1, 1)
        return sample(lambda x, t: network.field(context, x, t), start, level.shape[1], method, level).points


def test_log_density_is_the_normal_distribution() -> None:
    """Check 10: equal to torch.distributions.Normal; deterministic entries contribute 0, whatever x is."""
    torch.manual_seed(0)
    x, mean = torch.randn(2, 4, 3, 2).unbind()
    std = torch.rand(4, 3, 2) + 0.01
    torch.testing.assert_close(log_density(x, mean, std), torch.distributions.Normal(mean, std).log_prob(x))
    std[0] = 0
    assert torch.equal(log_density(x, mean, std)[0], torch.zeros(3, 2))
    # By hand: N(1; 0, 2²) at x = 1 is -½ · ¼ - log 2 - ½ log 2π = -.125 - .693147 - .918939 = -1.737086.
    assert log_density(torch.ones(1), torch.zeros(1), torch.full((1,), 2.0)).item() == pytest.approx(
        -1.737086, abs=1e-6
    )


def test_deterministic_entries_pass_no_gradient() -> None:
    """Check 10: where σ = 0 the gradients are 0, not NaN, so a hybrid chain can be learned from."""
    mean, std = torch.zeros(3, requires_grad=True), torch.tensor([0.0, 0.5, 0.0], requires_grad=True)
    log_density(torch.ones(3), mean, std).sum().backward()
    assert mean.grad is not None and std.grad is not None
    assert mean.grad.tolist() == pytest.approx([0, 4, 0])  # (x - μ) / σ² = 1 / .25
    assert std.grad.tolist() == pytest.approx([0, 6, 0])  # (x - μ)² / σ³ - 1 / σ = 8 - 2


@pytest.mark.parametrize("method", ["sde", "cps", "noise"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_density_integrates_to_one(method: Method, index: int) -> None:
    """Check 11: ∫ exp(log p) dx' = 1 for one transition of K = 4, by the trapezoid rule over ±10 σ."""
    x, t = torch.full((1, 1, 1), 0.3), times(4, torch.tensor([index]))
    field = Field(torch.full((1, 1, 1), -0.8), torch.full((1, 1, 1), 0.12), torch.zeros(1, 1))
    mean, std = moments(method, x, field, t, 4, 0.5)
    reached = mean + std * torch.linspace(-10, 10, 4001)[:, None, None]
    total = torch.trapezoid(log_density(reached, mean, std).exp().flatten(), reached.flatten())
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_joint_density_is_the_sum_of_transitions() -> None:
    """Check 13: log N(x_0; 0, 1) + Σ_k log p(x_{k+1} | x_k) is the density of the whole chain as one Gaussian.

    With v = g x + s t + c and the ODE's mean, x_{k+1} = (1 - g/K) x_k - (s t_k + c)/K + σ_k ε: a linear system whose
    mean and covariance are written down here without the samplers.
    """
    torch.manual_seed(0)
    network, steps = AffineNetwork(), 4
    context = torch.randn(8, 1)
    points = chain_of(network, context, "noise", torch.ones(8, steps))
    terms = all_transitions(network, points, context, "noise", torch.ones(8, steps))
    start = torch.distributions.Normal(0.0, 1.0).log_prob(points[:, 0, 0, 0])

    gain, slope, spread = (parameter.item() for parameter in network.parameters())
    decay = 1 - gain / steps
    push = torch.tensor([1.0] + [spread * (2 - k / steps) for k in range(steps)])
    # x = L (push · ε) + offset with L[i, j] = decay^(i - j).
    lower = torch.tensor([[decay ** (i - j) if i >= j else 0.0 for j in range(steps + 1)] for i in range(steps + 1)])
    factor = lower * push
    shift = torch.zeros(8, steps + 1)
    for k in range(steps):
        shift[:, k + 1] = decay * shift[:, k] - (slope * (1 - k / steps) + context[:, 0]) / steps
    whole = torch.distributions.MultivariateNormal(shift, scale_tril=factor).log_prob(points[:, :, 0, 0])
    torch.testing.assert_close(start + terms.sum(1), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_initial_noise_cancels_in_the_ratio(reduction: str) -> None:
    """Check 13: a ratio of whole chains is that of their transitions; the mean version is its 1/(K+1) power."""
    torch.manual_seed(0)
    steps, context = 4, torch.randn(8, 1)
    old, new = AffineNetwork(), AffineNetwork(gain=-0.3, std=0.25)
    points = chain_of(old, context, "noise", torch.ones(8, steps))
    start = torch.distributions.Normal(0.0, 1.0).log_prob(points[:, :1, 0, 0])
    full, short = [], []
    for network in (old, new):
        terms = all_transitions(network, points, context, "noise", torch.ones(8, steps))
        whole = torch.cat([start, terms], 1)
        full.append(whole.sum(1) if reduction == "sum" else whole.mean(1))
        short.append(terms.sum(1) / (1 if reduction == "sum" else steps + 1))
    torch.testing.assert_close((full[1] - full[0]).exp(), (short[1] - short[0]).exp())
    assert not torch.allclose(full[1], full[0])


@pytest.mark.parametrize("method", ["sde", "cps", "noise"])
@pytest.mark.parametrize("index", [0, 2, 3])
def test_gradient_with_respect_to_velocity(method: Method, index: int) -> None:
    """Check 14: ∂ log p/∂v = (x' - μ)/σ² · ∂μ/∂v with ∂μ/∂v = -t w0 + (1 - t) w1, by autograd and differences.

    ODE means: -δ. SDE: -δ - (1 - t) σ² δ / (2t).
    """
    steps, level = 4, 0.5
    t = times(steps, torch.tensor([index]))
    x, reached = torch.tensor(0.4).reshape(1, 1, 1), torch.tensor(-0.2).reshape(1, 1, 1)
    learned = torch.full((1, 1, 1), 0.15)

    def density(velocity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, std = moments(method, x, Field(velocity, learned, velocity.flatten(1)), t, steps, level)
        return log_density(reached, mean, std), mean, std

    velocity = torch.tensor(0.7).reshape(1, 1, 1).requires_grad_()
    value, mean, std = density(velocity)
    (found,) = torch.autograd.grad(value, velocity)
    w0, w1, _ = weights(method, t, steps, level)
    slope = (-t * w0 + (1 - t) * w1).item()
    if method == "noise":
        assert slope == pytest.approx(-1 / steps)
    if method == "sde":
        sigma = noise_level_at(t, steps, level)
        assert slope == pytest.approx((-1 / steps - (1 - t) * sigma**2 / steps / (2 * t)).item())
    if method == "cps" and index == 3:
        assert std.item() == 0 and found.item() == 0  # CPS's last transition is deterministic
        return
    assert found.item() == pytest.approx(((reached - mean) / std**2).item() * slope, rel=1e-10)
    step = 1e-6
    with torch.no_grad():
        difference = (density(velocity + step)[0] - density(velocity - step)[0]) / (2 * step)
    assert found.item() == pytest.approx(difference.item(), rel=1e-6)


def gauss_hermite(degree: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of E over N(0, 1): exact for polynomials of degree up to 2 `degree` - 1."""
    nodes, share = np.polynomial.hermite_e.hermegauss(degree)
    return torch.as_tensor(nodes), torch.as_tensor(share / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("method", ["sde", "noise"])
@pytest.mark.parametrize("index", [0, 3])
def test_score_function_identity_and_bandit_gradient(method: Method, index: int) -> None:
    """Check 16: E[∇ log p] = 0, and E[R ∇ log p] is the gradient of E[R] for R = -(x' - c)², exactly.

    E[R] = -(μ - c)² - σ², so ∂E[R]/∂v = -2 (μ - c) ∂μ/∂v, and ∂E[R]/∂σ = -2 σ where the network learns σ.
    The expectation over ε is by Gauss-Hermite quadrature, exact for these polynomials.
    """
    steps, level, aim = 4, 0.5, 0.9
    t = times(steps, torch.tensor([index]))
    velocity = torch.tensor(0.7).reshape(1, 1, 1).requires_grad_()
    learned = torch.tensor(0.15).reshape(1, 1, 1).requires_grad_()
    field = Field(velocity, learned, torch.zeros(1, 1))
    mean, std = moments(method, torch.tensor(0.4).reshape(1, 1, 1), field, t, steps, level)
    nodes, share = gauss_hermite(6)
    reached = (mean + std * nodes[:, None, None]).detach()
    density = log_density(reached, mean, std).flatten()
    reward = -((reached.flatten() - aim) ** 2)
    parameters = [velocity, learned] if method == "noise" else [velocity]
    score = torch.autograd.grad((share * density).sum(), parameters, retain_graph=True)
    assert [part.item() for part in score] == pytest.approx([0.0] * len(parameters), abs=1e-10)
    gradient = torch.autograd.grad((share * reward * density).sum(), parameters)
    w0, w1, _ = weights(method, t, steps, level)
    expected = [(-2 * (mean - aim) * (-t * w0 + (1 - t) * w1)).item(), -2 * 0.15]
    assert [part.item() for part in gradient] == pytest.approx(expected[: len(parameters)], abs=1e-10)


def test_score_function_identity_over_whole_chains() -> None:
    """Check 16, by sampling: the mean score of 20,000 chains is 0 within 4 standard errors, in every parameter."""
    torch.manual_seed(0)
    network, count, steps = AffineNetwork(), 20_000, 3
    context = torch.zeros(count, 1)
    points = chain_of(network, context, "noise", torch.ones(count, steps))
    shared = {name: value.detach().expand(count).clone().requires_grad_() for name, value in network.named_parameters()}
    total = torch.zeros(count)
    for k in range(steps):
        t = 1 - k / steps
        x, reached = points[:, k, 0, 0], points[:, k + 1, 0, 0]
        mean = x - (shared["gain"] * x + shared["slope"] * t) / steps
        total = total + log_density(reached, mean, shared["std"] * (1 + t))
    torch.testing.assert_close(
        total, all_transitions(network, points, context, "noise", torch.ones(count, steps)).sum(1)
    )
    for name, score in zip(shared, torch.autograd.grad(total.sum(), list(shared.values())), strict=True):
        assert abs(score.mean().item()) < 4 * score.std().item() / math.sqrt(count), name
        assert score.std().item() > 0.1, name


@pytest.mark.parametrize("method", ["sde", "noise"])
def test_stored_and_recomputed_densities_are_equal(method: Method) -> None:
    """Check 12, the maths part: under unchanged weights the ratio of a stored chain to itself is 1 exactly."""
    torch.manual_seed(0)
    network, context, level = AffineNetwork(), torch.randn(6, 1), torch.full((6, 4), 0.5)
    points = chain_of(network, context, method, level)
    first, second = (all_transitions(network, points, context, method, level) for _ in range(2))
    assert torch.equal((second - first).exp(), torch.ones_like(first))


def test_chosen_transitions_are_those_of_the_whole() -> None:
    """`transitions` at some indices returns those columns of all of them, row by row."""
    torch.manual_seed(0)
    network, context, level = AffineNetwork(), torch.randn(6, 1), torch.rand(6, 4) + 0.1
    points = chain_of(network, context, "sde", level)
    every = all_transitions(network, points, context, "sde", level)
    index = torch.tensor([[0], [1], [2], [3], [0], [3]])
    chosen = transitions(network, context, points, index, level, "sde")
    assert chosen.log_density.shape == (6, 1, 1, 1)
    torch.testing.assert_close(chosen.log_density[:, :, 0, 0], every.gather(1, index))
    assert chosen.features[:, 0, 0].tolist() == [1, 0.75, 0.5, 0.25, 1, 0.25]


@pytest.mark.parametrize("index", ["row", "batch"])
def test_exploring_transition_is_uniform(index: str) -> None:
    """Check 9: hybrid chains explore in one transition, drawn uniformly: χ²(3) under its .999 quantile."""
    torch.manual_seed(0)
    policy = FlowPolicy(AffineNetwork(), np.full(1, -1.0), np.full(1, 1.0), chunk=1, steps=4)
    view = Observation(state=torch.zeros(8, 1))
    learner = PiRL(policy, PiRLConfig(index=index, level=0.3), view)  # type: ignore[arg-type]
    draws, count = (100, 800) if index == "row" else (400, 400)
    level = torch.cat([learner.act(view).trace["level"][: 8 if index == "row" else 1] for _ in range(draws)])
    assert level.shape == (count, 4)
    assert bool((level.gt(0).sum(1) == 1).all()) and level.max().item() == pytest.approx(0.3)
    assert ((level.gt(0).sum(0) - count / 4) ** 2 / (count / 4)).sum().item() < 16.27
    if index == "batch":
        assert bool((learner.act(view).trace["level"].std(0) == 0).all())


def test_entropy_is_that_of_a_normal() -> None:
    """½ log(2πe σ²): σ = 1 gives 1.418939, and torch's own for others."""
    assert gaussian_entropy(torch.ones(1)).item() == pytest.approx(1.418939, abs=1e-6)
    std = torch.tensor([0.08, 0.16])
    torch.testing.assert_close(gaussian_entropy(std), torch.distributions.Normal(torch.zeros(2), std).entropy())
