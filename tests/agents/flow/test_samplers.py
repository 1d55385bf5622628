"""The samplers' maths: transitions, marginals, hybrid chains. Likelihoods are in test_likelihood.py."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palaestra.agents.flow.samplers import Chain, Field, Method, moments, noise_level_at, sample, times, weights

METHODS: tuple[Method, ...] = ("sde", "cps", "noise")

# K, a -> std and w1 of Flow-SDE's transitions, from t = 1 to t = 1/K: the printed table of the algorithm's brief.
TABLE = {
    (4, 0.5): ([0.5000, 0.4330, 0.2500, 0.1443], [0.6250, 0.3750, 0.1875, -0.0417]),
    (4, 0.2): ([0.2000, 0.1732, 0.1000, 0.0577], [0.7300, 0.4800, 0.2400, -0.0067]),
    (4, 0.8): ([0.8000, 0.6928, 0.4000, 0.2309], [0.4300, 0.1800, 0.0900, -0.1067]),
    (5, 0.5): ([0.5000, 0.4472, 0.2739, 0.1826, 0.1118], [0.6750, 0.4750, 0.3375, 0.1583, -0.0312]),
    (5, 0.3): ([0.3000, 0.2683, 0.1643, 0.1095, 0.0671], [0.7550, 0.5550, 0.3775, 0.1850, -0.0112]),
    (3, 0.5): ([0.5000, 0.4082, 0.2041], [0.5417, 0.2083, -0.0625]),
    (2, 0.5): ([0.5000, 0.3536], [0.3750, -0.1250]),
    (1, 0.5): ([0.5000], [-0.1250]),
}

# A ~ N(.7, .3²) with its exact velocity: the std of what K transitions generate, as the brief's own simulation of
# it printed them. Ours are exact, so the tolerance is that simulation's noise.
TARGET_MEAN, TARGET_STD = 0.7, 0.3
MARGINALS = {
    "ode": {1: 0.0, 4: 0.177, 5: 0.200, 10: 0.247, 50: 0.289, 400: 0.299},
    "sde": {1: 0.516, 2: 0.355, 4: 0.238, 5: 0.247, 10: 0.270, 50: 0.295, 400: 0.300},
    "flipped": {1: 0.515, 2: 0.474, 4: 0.510, 5: 0.550, 10: 0.661, 50: 0.893, 400: 1.202},
    "cps": {2: 0.082, 4: 0.172, 5: 0.191, 10: 0.230, 50: 0.265, 400: 0.275},
}

Transition = Callable[[Tensor, Field, Tensor, int, float], tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Compute in float64, so that tolerances test the maths and not the arithmetic."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def as_field(velocity: Tensor, std: Tensor | None = None) -> Field:
    return Field(velocity, std, velocity.flatten(1))


def grid(steps: int) -> Tensor:
    return times(steps, torch.arange(steps))


def gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Return E[ε - A | x_t] for A ~ N(m, s²), exactly.

    x_t = t ε + (1 - t) A ~ N((1 - t) m, V) with V = t² + (1 - t)² s², Cov(ε - A, x_t) = t - (1 - t) s², so the
    conditional mean is -m + (t - (1 - t) s²) / V · (x_t - (1 - t) m).
    """
    variance = t**2 + (1 - t) ** 2 * TARGET_STD**2
    gain = (t - (1 - t) * TARGET_STD**2) / variance
    return -TARGET_MEAN + gain * (x - (1 - t) * TARGET_MEAN)


def drift_form(sign: float) -> Transition:
    """Return x - δ [v + sign σ²/(2t) (x + (1 - t) v)], σ √δ: Flow-SDE's Euler-Maruyama step when sign is 1."""

    def transition(x: Tensor, field: Field, t: Tensor, steps: int, level: float) -> tuple[Tensor, Tensor]:
        sigma = noise_level_at(t, steps, level)[:, None, None]
        time = t[:, None, None]
        drift = field.velocity + sign * sigma**2 / (2 * time) * (x + (1 - time) * field.velocity)
        return x - drift / steps, sigma * math.sqrt(1 / steps)

    return transition


def product(method: Method) -> Transition:
    return lambda x, field, t, steps, level: moments(method, x, field, t, steps, level)


def generated(transition: Transition, steps: int, level: float) -> tuple[float, float]:
    """Return mean and std after K transitions from N(0, 1), exactly.

    The field is affine in x, so a transition is x ↦ offset + gain x + std ε: both follow from its values at 0 and 1,
    and mean' = offset + gain mean, variance' = gain² variance + std².
    """
    mean, variance = 0.0, 1.0
    probes = torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
    for t in grid(steps):
        time = t.expand(2)
        field = as_field(gaussian_velocity(probes, t))
        (offset, end), (std, _) = (part.flatten().expand(2) for part in transition(probes, field, time, steps, level))
        mean = float(offset + (end - offset) * mean)
        variance = float((end - offset) ** 2 * variance + std**2)
    return mean, math.sqrt(variance)


@given(
    steps=st.integers(1, 50),
    index=st.integers(0, 49),
    level=st.floats(0, 2),
    x=st.floats(-10, 10),
    v=st.floats(-10, 10),
    method=st.sampled_from(METHODS),
)
@settings(max_examples=200, deadline=None)
def test_zero_level_is_the_euler_step(steps: int, index: int, level: float, x: float, v: float, method: Method) -> None:
    """Check 1: at level 0 every method's mean is x - δ v, for any x, v, t and K; the learned noise's mean always is."""
    t = times(steps, torch.tensor([index % steps]))
    field = as_field(torch.tensor(v).reshape(1, 1, 1), std=torch.ones(1, 1, 1))
    mean, std = moments(method, torch.tensor(x).reshape(1, 1, 1), field, t, steps, 0.0)
    assert mean.item() == pytest.approx(x - v / steps, abs=1e-12)
    assert std.item() == 0
    w0, w1, _ = weights("noise", t, steps, level)
    assert (w0.item(), w1.item()) == pytest.approx((1 - t.item() + 1 / steps, t.item() - 1 / steps), abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 4, 10])
def test_zero_level_is_identical_across_methods(steps: int) -> None:
    """Check 2: at level 0 the SDE's mean is the ODE's bit for bit, and its std is 0 exactly."""
    t = grid(steps)
    x, v = torch.randn(2, steps, 3, 2).unbind()
    field = as_field(v, std=torch.full_like(v, 0.1))
    reference, _ = moments("noise", x, field, t, steps, 1.0)
    for level in (0.0, torch.zeros(steps)):
        for method in METHODS:
            mean, std = moments(method, x, field, t, steps, level)
            assert torch.equal(mean, reference), method
            assert torch.equal(std, torch.zeros_like(std)), method


@pytest.mark.parametrize(("steps", "level"), list(TABLE))
def test_sde_matches_the_printed_table(steps: int, level: float) -> None:
    """Check 3: std and w1 of the table to its last digit; w0 is 1 - (t - δ). The last w1 stays negative."""
    std, w1 = TABLE[steps, level]
    found = weights("sde", grid(steps), steps, level)
    assert found[0].tolist() == pytest.approx([(k + 1) / steps for k in range(steps)], abs=1e-12)
    assert found[1].tolist() == pytest.approx(w1, abs=1e-4)
    assert found[2].tolist() == pytest.approx(std, abs=1e-4)
    assert found[1][-1] < 0


def test_cps_keeps_the_noise_coefficient() -> None:
    """CPS: w1² + std² = (t - δ)². K = 2, a = .5 at t = 1: w1 = .5 cos(π/4) = .35355 = std."""
    w0, w1, std = weights("cps", grid(2), 2, 0.5)
    assert w0.tolist() == pytest.approx([0.5, 1.0])
    assert w1.tolist() == pytest.approx([0.353553, 0.0], abs=1e-6)
    assert std.tolist() == pytest.approx([0.353553, 0.0], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", range(1, 33))
def test_first_std_is_the_level(steps: int, dtype: torch.dtype) -> None:
    """Check 4: σ_1 √δ is a for every K, and no transition's std is infinite."""
    for level in (0.2, 0.5, 0.8):
        std = weights("sde", grid(steps).to(dtype), steps, level)[2]
        assert std[0].item() == pytest.approx(level, rel=1e-6)
        assert bool(torch.isfinite(std).all()) and bool((std > 0).all())


@pytest.mark.parametrize("steps", range(1, 33))
def test_last_transition_lands_on_the_data(steps: int) -> None:
    """The grid ends at t = 1/K in float32 too: w0 is 1 and the ODE's w1 is 0, up to rounding."""
    w0, w1, _ = weights("noise", grid(steps).float(), steps, 0.0)
    assert w0[-1].item() == pytest.approx(1, abs=1e-7)
    assert w1[-1].item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("steps", [1, 3, 4, 10, 400])
def test_drift_form_equals_prediction_form(steps: int) -> None:
    """Check 5: x - δ [v + σ²/(2t) (x + (1 - t) v)] is w0 x̂0 + w1 x̂1."""
    t = grid(steps)
    x, v = torch.randn(2, steps, 3, 2).unbind()
    ours = moments("sde", x, as_field(v), t, steps, 0.5)
    theirs = drift_form(1.0)(x, as_field(v), t, steps, 0.5)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours[1], theirs[1].expand_as(ours[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_forward_time_gives_the_same_path(steps: int) -> None:
    """Check 6: the paper's time τ = 1 - t with v_F = -v_R walks the same path with the same noise.

    dA = [v_F + ½ g² score] dτ + g dw with score = (τ v_F - A) / (1 - τ) and g = a √((1 - τ) / τ).
    """
    level, x = 0.5, torch.randn(64, 1, 1)
    forward = x.clone()
    for index in range(steps):
        t, noise = 1 - index / steps, torch.randn_like(x)
        field = as_field(gaussian_velocity(x, torch.tensor(t)))
        mean, std = moments("sde", x, field, torch.full((64,), t), steps, level)
        x = mean + std * noise
        tau = index / steps
        velocity = -gaussian_velocity(forward, torch.tensor(1 - tau))
        g = level * math.sqrt((1 - tau) / (tau if index else 1 / steps))
        score = (tau * velocity - forward) / (1 - tau)
        forward = forward + (velocity + g**2 / 2 * score) / steps + g * math.sqrt(1 / steps) * noise
    torch.testing.assert_close(forward, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "steps"), [(name, steps) for name, row in MARGINALS.items() for steps in row])
def test_gaussian_marginals(name: str, steps: int) -> None:
    """Check 7: the std of what is generated is the table's; its mean is .7 for the sound samplers."""
    transition = {"ode": product("sde"), "sde": product("sde"), "flipped": drift_form(-1.0), "cps": product("cps")}
    mean, std = generated(transition[name], steps, 0.0 if name == "ode" else 0.5)
    assert std == pytest.approx(MARGINALS[name][steps], abs=6e-4 if name in ("ode", "cps") else 4e-3)
    if name != "flipped":
        assert mean == pytest.approx(TARGET_MEAN, abs=6e-4 if name == "ode" else 0.03)


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.515388), (2, 0.355824)])
def test_gaussian_marginals_by_hand(steps: int, expected: float) -> None:
    """Check 7, by hand, a = .5.

    K = 1: x̂0 = .7, x̂1 = x, so x' = .7 - .125 x + .5 ε with variance .125² + .25 = .265625.
    K = 2: first x' = .35 + .375 x + .5 ε, variance .140625 + .25 = .390625. Then V = .25 + .25 · .09 = .2725, the
    velocity's gain is (.5 - .045) / .2725 = 1.669725, so x̂0 has gain 1 - .834862 = .165138, x̂1 has 1.834862, and
    x'' has .165138 - .125 · 1.834862 = -.064220 and std √.125: variance .004124 · .390625 + .125 = .126611.
    """
    assert generated(product("sde"), steps, 0.5)[1] == pytest.approx(expected, abs=1e-6)


def test_error_falls_as_one_over_steps() -> None:
    """Check 7: the target's std is reached to first order in 1/K by the ODE, and by the SDE at a low level."""
    for level, many in ((0.0, (50, 100, 200, 400, 800)), (0.2, (25, 50, 100, 200))):
        errors = [abs(generated(product("sde"), steps, level)[1] - TARGET_STD) for steps in many]
        ratios = [before / after for before, after in itertools.pairwise(errors)]
        assert all(1.9 < ratio < 2.1 for ratio in ratios), (level, ratios)


@pytest.mark.parametrize("steps", [400, 800, 1600, 3200])
def test_sde_reaches_the_target(steps: int) -> None:
    """Check 7: at a = .5 and large K the SDE's std is within .25 % of .3; CPS at a fixed level never arrives.

    The rest does not fall as 1/K, because of the replacement at t = 1: from N(0, 1) the first transition leads to
    variance (1 - a²/2)² + a² = 1 + a⁴/4 as K grows, where the marginal has 1, and contraction forgets it slowly.
    """
    assert generated(product("sde"), steps, 0.5)[1] == pytest.approx(TARGET_STD, rel=0.0025)
    assert generated(product("cps"), steps, 0.5)[1] < 0.95 * TARGET_STD
    _, w1, std = weights("sde", grid(100_000)[:1], 100_000, 0.5)
    assert (w1**2 + std**2).item() == pytest.approx(1 + 0.5**4 / 4, abs=1e-4)


def test_flipped_drift_diverges() -> None:
    """Check 7: the score's sign decides; flipped, the std at K = 400 is four times the target's."""
    assert generated(drift_form(-1.0), 400, 0.5)[1] > 1.0
    assert generated(product("sde"), 400, 0.5)[1] < 0.303


@pytest.mark.parametrize(("method", "expected"), [("sde", 0.270), ("cps", 0.230), (None, 0.247)])
def test_sampled_marginals(method: Method | None, expected: float) -> None:
    """Check 7, by `sample` itself at K = 10: 100,000 draws, so the std's standard error is .3 / √200,000 = .0007."""
    torch.manual_seed(0)
    steps, count = 10, 100_000
    level = None if method is None else torch.full((count, steps), 0.5)
    chain = sample(
        lambda x, t: as_field(gaussian_velocity(x, t[:, None, None])),
        torch.randn(count, 1, 1),
        steps,
        method or "sde",
        level,
    )
    assert chain.points[:, -1].std().item() == pytest.approx(expected, abs=0.003)
    exact = generated(product(method or "sde"), steps, 0.5 if method else 0.0)[0]
    assert chain.points[:, -1].mean().item() == pytest.approx(exact, abs=0.004)


CENTRES = torch.tensor([[-1.0, -0.5], [1.0, 0.5]], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
SPREAD = 0.2


def mixture_velocity(x: Tensor, t: Tensor) -> Tensor:
    """Return E[ε - A | x_t] for a mixture of two round Gaussians in the plane: each mode's, by its posterior share."""
    point, time = x[:, 0, None, :], t[:, None, None]
    variance = time**2 + (1 - time) ** 2 * SPREAD**2
    residual = point - (1 - time) * CENTRES
    share = (SHARES.log() - residual.pow(2).sum(-1) / (2 * variance[..., 0])).softmax(1)
    velocity = -CENTRES + (time - (1 - time) * SPREAD**2) / variance * residual
    return (share[..., None] * velocity).sum(1, keepdim=True)


def sliced_distance(left: Tensor, right: Tensor) -> float:
    """Return the sliced 2-Wasserstein distance of two equally large samples [N, 2], over 16 directions."""
    angle = torch.arange(16) * (math.pi / 16)
    directions = torch.stack([angle.cos(), angle.sin()])
    gap = (left @ directions).sort(0).values - (right @ directions).sort(0).values
    return float(gap.pow(2).mean().sqrt())


def test_sde_preserves_a_mixture() -> None:
    """Check 8: at large K the SDE keeps the modes' weights and lies as near to the ODE's samples as truth does."""
    torch.manual_seed(0)
    steps, count = 200, 10_000
    field = lambda x, t: as_field(mixture_velocity(x, t))  # noqa: E731
    ode = sample(field, torch.randn(count, 1, 2), steps).points[:, -1, 0]
    sde = sample(field, torch.randn(count, 1, 2), steps, "sde", torch.full((count, steps), 0.5)).points[:, -1, 0]
    mode = torch.multinomial(SHARES, count, replacement=True)
    truth = CENTRES[mode] + SPREAD * torch.randn(count, 2)
    # The share's standard error is √(.3 · .7 / 10,000) = .0046.
    for name, points in (("ode", ode), ("sde", sde)):
        assert (points[:, 0] < 0).double().mean().item() == pytest.approx(0.3, abs=0.02), name
        assert sliced_distance(points, truth) < 0.06, name
    assert sliced_distance(sde, ode) < 0.06
    assert sliced_distance(truth, truth[torch.randperm(count)] + torch.tensor([0.1, 0.0])) > 0.06  # it can tell


def hybrid_chain(method: Method, steps: int = 4, batch: int = 64) -> tuple[Chain, Tensor, Callable[..., Field]]:
    """Return a chain with one exploring transition a row, its levels, and the field."""
    levels = torch.zeros(batch, steps)
    levels[torch.arange(batch), torch.arange(batch) % steps] = 0.5

    def field(x: Tensor, t: Tensor) -> Field:
        return as_field(gaussian_velocity(x, t[:, None, None]).sin(), std=torch.full_like(x, 0.1))

    return sample(field, torch.randn(batch, 3, 2), steps, method, levels), levels, field


@pytest.mark.parametrize("method", METHODS)
def test_hybrid_replays_from_the_stored_chain(method: Method) -> None:
    """Check 9: exactly one transition of a row has std > 0; all others replay bit for bit from the stored points."""
    torch.manual_seed(1)
    chain, levels, field = hybrid_chain(method)
    steps = levels.shape[1]
    for index in range(steps):
        x = chain.points[:, index]
        t = times(steps, torch.full((len(x),), index))
        mean, std = moments(method, x, field(x, t), t, steps, levels[:, index])
        exploring = levels[:, index] > 0
        silent = method == "cps" and index == steps - 1  # CPS's last transition has std (t - δ) sin(πa/2) = 0
        assert torch.equal(std.flatten(1).gt(0).any(1), exploring & (not silent))
        assert torch.equal(chain.points[~exploring, index + 1], mean[~exploring])
        if not silent:
            moved = (chain.points[exploring, index + 1] != mean[exploring]).flatten(1)
            assert bool(moved.all())


def test_hybrid_with_one_method_a_row() -> None:
    """A row of zero levels is the ODE's path, whatever the other rows of the batch do."""
    torch.manual_seed(2)
    noise = torch.randn(8, 3, 2)
    levels = torch.full((8, 4), 0.5)
    levels[0] = 0
    field = lambda x, t: as_field(gaussian_velocity(x, t[:, None, None]))  # noqa: E731
    mixed, ode = sample(field, noise, 4, "sde", levels).points, sample(field, noise, 4).points
    torch.testing.assert_close(mixed[0], ode[0], rtol=1e-12, atol=1e-12)
    assert bool((mixed[1:, -1] != ode[1:, -1]).all())


def test_chain_keeps_points_and_features() -> None:
    """A chain starts at its noise and has K + 1 points and the features of the K evaluations, in order."""
    noise = torch.zeros(2, 3, 1)
    chain = sample(lambda x, t: Field(torch.ones_like(x), None, t[:, None]), noise, 4)
    assert chain.points.shape == (2, 5, 3, 1)
    assert chain.points[0, :, 0, 0].tolist() == [0.0, -0.25, -0.5, -0.75, -1.0]
    assert chain.features.tolist() == [[[1.0], [0.75], [0.5], [0.25]]] * 2


def test_ode_draws_no_random_numbers() -> None:
    """Check 24, the sampler's part: the ODE neither reads the generator nor the learned standard deviation."""
    noise = torch.randn(4, 2, 2)
    state = torch.get_rng_state()
    ends = [
        sample(lambda x, t, std=std: as_field(x.sin(), std=torch.full_like(x, std)), noise, 4).points  # type: ignore[misc]
        for std in (0.1, math.nan)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ends[0], ends[1])


def test_noise_method_without_a_head_is_refused() -> None:
    """Bad input: Flow-Noise needs the network's standard deviation, and says so."""
    x = torch.zeros(2, 1, 1)
    with pytest.raises(ValueError, match="noise head"):
        moments("noise", x, as_field(x), torch.ones(2), 4, 0.5)
