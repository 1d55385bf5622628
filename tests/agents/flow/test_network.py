"""The networks: bounds, shapes, and independence of rows."""

import math

import pytest
import torch
from torch import nn

from palaestra.agents.flow.network import NoiseHead, StateNetwork, mlp, time_embedding
from palaestra.envs.core import Observation


def fresh_network(horizon: int = 3) -> StateNetwork:
    torch.manual_seed(0)
    return StateNetwork(state=5, horizon=horizon, width=2, hidden=32, layers=2)


def randomised_head(bounds: tuple[float, float]) -> NoiseHead:
    """Return a noise head whose last layer is not zero any more."""
    torch.manual_seed(0)
    head = NoiseHead(4, 3, 2, bounds)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize("bounds", [(0.08, 0.16), (0.04, 0.10), (0.2, 0.2)])
@pytest.mark.parametrize("scale", [1.0, 1e6, -1e6])
def test_noise_head_stays_in_its_bounds(bounds: tuple[float, float], scale: float) -> None:
    """Check 15: σ_min ≤ σ ≤ σ_max for inputs of ±1e6 and any weights, to float32's rounding; the gradient is finite."""
    head = randomised_head(bounds)
    std = head(scale * torch.ones(8, 4))
    assert std.shape == (8, 3, 2)
    assert bool((std >= bounds[0] * (1 - 1e-6)).all()) and bool((std <= bounds[1] * (1 + 1e-6)).all())
    std.sum().backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in head.parameters())  # type: ignore[arg-type]


def test_noise_head_reaches_both_bounds() -> None:
    """Check 15: outputs of ±1e6 of the last layer give the bounds themselves."""
    head = NoiseHead(4, 1, 1, (0.08, 0.16))
    for bias, bound in ((-1e6, 0.08), (1e6, 0.16)):
        nn.init.constant_(head.layers[-1].bias, bias)  # type: ignore[arg-type]
        assert head(torch.zeros(1, 4)).item() == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("bounds", [(0.08, 0.16), (0.04, 0.10)])
def test_noise_head_starts_at_the_geometric_mean(bounds: tuple[float, float]) -> None:
    """Check 15: at head output 0, where a fresh head is for every input, σ = √(σ_min σ_max) (.08, .16: .113137)."""
    std = NoiseHead(4, 3, 2, bounds)(100 * torch.randn(8, 4))
    torch.testing.assert_close(std, torch.full((8, 3, 2), math.sqrt(bounds[0] * bounds[1])))


def test_noise_head_interpolates_geometrically() -> None:
    """Check 15: log σ² = log σ_min² + (log σ_max² - log σ_min²) (tanh(out) + 1) / 2, σ = exp(½ log σ²)."""
    head = NoiseHead(4, 1, 1, (0.05, 0.2))
    nn.init.constant_(head.layers[-1].bias, math.atanh(0.5))  # type: ignore[arg-type]
    # (.5 + 1) / 2 = .75 of the way from log .0025 to log .04: √(.0025^.25 · .04^.75) = √.02 = .141421.
    assert head(torch.zeros(1, 4)).item() == pytest.approx(0.141421, abs=1e-6)


@pytest.mark.parametrize("bounds", [(0.0, 0.1), (-0.1, 0.1), (0.2, 0.1)])
def test_noise_head_refuses_bounds(bounds: tuple[float, float]) -> None:
    """Bad input: bounds that are no interval of positive numbers are refused when the head is built."""
    with pytest.raises(ValueError, match="0 < low <= high"):
        NoiseHead(4, 1, 1, bounds)


def test_mlp_has_no_activation_after_its_last_layer() -> None:
    """mlp([2, 3, 1]) is Linear, SiLU, Linear."""
    layers = mlp([2, 3, 1])
    assert [type(layer) for layer in layers] == [nn.Linear, nn.SiLU, nn.Linear]
    assert [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)] == [
        (2, 3),
        (3, 1),
    ]


def test_time_embedding() -> None:
    """At t = 0 the sines are 0 and the cosines 1; frequencies run from ¼ cycle to 25 cycles over [0, 1]."""
    embedded = time_embedding(torch.tensor([0.0, 1.0, 0.01]), width=8)
    assert embedded.shape == (3, 8)
    assert embedded[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert embedded[1, 0].item() == pytest.approx(1, abs=1e-6)  # sin(2π / 4)
    assert embedded[2, 3].item() == pytest.approx(1, abs=1e-4)  # sin(2π · 25 · .01)


def test_time_embedding_tells_the_grid_apart() -> None:
    """Any two times of the finest grids in use have clearly different embeddings."""
    embedded = time_embedding(torch.linspace(0, 1, 101))
    assert torch.pdist(embedded).min().item() > 0.1


def test_field_shapes_and_rows() -> None:
    """Velocity and std are [N, H, D]; a row's answer does not depend on its neighbours."""
    network = fresh_network()
    context, x, t = torch.randn(6, 5), torch.randn(6, 3, 2), torch.rand(6)
    field = network.field(context, x, t)
    assert field.velocity.shape == (6, 3, 2) and field.features.shape == (6, 32)
    assert field.std is not None and field.std.shape == (6, 3, 2)
    alone = network.field(context[2:3], x[2:3], t[2:3])
    torch.testing.assert_close(alone.velocity, field.velocity[2:3])
    torch.testing.assert_close(alone.features, field.features[2:3])


def test_field_depends_on_all_its_inputs() -> None:
    """Observation, point and time each change the velocity."""
    network = fresh_network()
    context, x, t = torch.randn(4, 5), torch.randn(4, 3, 2), torch.rand(4)
    base = network.field(context, x, t).velocity
    for changed in ((context + 0.1, x, t), (context, x + 0.1, t), (context, x, t + 0.1)):
        assert bool((network.field(*changed).velocity != base).any(2).any(1).all())


def test_observe_normalises_and_clamps() -> None:
    """The state is normalised by the fitted statistics; what no demonstration came near is held at ±10."""
    network = fresh_network()
    network.normaliser.fit(torch.randn(1000, 5))
    state = torch.zeros(2, 5)
    state[1] = 1e6
    seen = network.observe(Observation(state=state))
    torch.testing.assert_close(seen[0], network.normaliser(state[0]))
    assert seen[1].tolist() == [10.0] * 5
    assert torch.equal(network.summary(seen), seen)


def test_observe_needs_a_state() -> None:
    """Bad input: worlds without a state vector are refused, with what to use instead."""
    with pytest.raises(ValueError, match="network for images"):
        fresh_network().observe(Observation(text=("go",)))


def test_no_layer_differs_between_training_and_evaluation() -> None:
    """Check 23: nothing such as dropout makes the two passes of a ratio differ."""
    network = fresh_network()
    inputs = torch.randn(4, 5), torch.randn(4, 3, 2), torch.rand(4)
    training = network.train().field(*inputs).velocity
    assert torch.equal(network.eval().field(*inputs).velocity, training)
