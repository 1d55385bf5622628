"""The normaliser: its numbers, and that its statistics travel with the weights."""

import pytest
import torch

from palaestra.agents.normalise import Normaliser


def test_fit_by_hand() -> None:
    """Column 0: 1, 3 has mean 2 and standard deviation 1; column 1: 0, 8 has mean 4 and 4."""
    normaliser = Normaliser(2)
    normaliser.fit(torch.tensor([[1.0, 0.0], [3.0, 8.0]]))
    assert normaliser.mean.tolist() == [2.0, 4.0]
    assert normaliser.std.tolist() == [1.0, 4.0]
    assert normaliser(torch.tensor([3.0, 2.0])).tolist() == [1.0, -0.5]


def test_fresh_normaliser_is_the_identity() -> None:
    """Before it is fitted it changes nothing."""
    value = torch.randn(3, 4)
    assert torch.equal(Normaliser(4)(value), value)


def test_invert_undoes_forward() -> None:
    """A round trip returns the value, for any leading axes."""
    normaliser = Normaliser(3)
    normaliser.fit(5 * torch.randn(100, 3) - 2)
    for shape in ((3,), (7, 3), (2, 5, 3)):
        value = torch.randn(shape)
        torch.testing.assert_close(normaliser.invert(normaliser(value)), value, rtol=1e-5, atol=1e-5)


def test_normalised_samples_are_standard() -> None:
    """The samples it was fitted on come out with mean 0 and standard deviation 1."""
    normaliser, samples = Normaliser(3), 5 * torch.randn(1000, 3) - 2
    normaliser.fit(samples)
    normal = normaliser(samples)
    torch.testing.assert_close(normal.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normal.std(0, unbiased=False), torch.ones(3))


def test_entry_that_never_moved_is_centred_only() -> None:
    """A constant column is shifted to 0 and keeps its unit: .5 off stays .5 off, not .5 / 0."""
    normaliser = Normaliser(2)
    normaliser.fit(torch.tensor([[0.3, 1.0], [0.3, 3.0]]))
    assert normaliser(torch.tensor([0.8, 2.0])).tolist() == pytest.approx([0.5, 0.0])


def test_one_sample_is_enough() -> None:
    """With one sample nothing moved: it is centred, without NaN."""
    normaliser = Normaliser(2)
    normaliser.fit(torch.tensor([[4.0, -1.0]]))
    assert normaliser(torch.tensor([5.0, -1.0])).tolist() == [1.0, 0.0]


def test_statistics_travel_with_the_state_dict() -> None:
    """A checkpoint carries the statistics, and loading another width fails."""
    fitted, fresh = Normaliser(2), Normaliser(2)
    fitted.fit(torch.tensor([[1.0, 0.0], [3.0, 8.0]]))
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh.mean, fitted.mean) and torch.equal(fresh.std, fitted.std)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Normaliser(3).load_state_dict(fitted.state_dict())


@pytest.mark.parametrize("shape", [(10, 3), (0, 2), (2,), (4, 5, 2)])
def test_fit_refuses_wrong_shapes(shape: tuple[int, ...]) -> None:
    """Bad input: another width, no samples or another rank, named with what is expected."""
    normaliser = Normaliser(2)
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        normaliser.fit(torch.zeros(shape))
    assert torch.equal(normaliser.std, torch.ones(2))


def test_fit_refuses_values_that_are_not_finite() -> None:
    """Bad input: NaN and infinity in demonstrations are named by entry, before they spoil every action."""
    samples = torch.zeros(4, 3)
    samples[1, 2], samples[3, 0] = float("nan"), float("inf")
    with pytest.raises(ValueError, match=r"entries \[0, 2\]"):
        Normaliser(3).fit(samples)
