"""LeRobot's normalisation, by hand."""

import pytest
import torch

from palaestra.agents.vla.lerobot.statistics import NAMES, Mode, Statistics


@pytest.mark.parametrize(
    ("mode", "found", "value", "normal"),
    [
        ("IDENTITY", {}, 5.0, 5.0),
        ("MEAN_STD", {"mean": 1.0, "std": 2.0}, 5.0, 2.0),
        ("MIN_MAX", {"min": 1.0, "max": 5.0}, 2.0, -0.5),
        ("QUANTILES", {"q01": 1.0, "q99": 5.0}, 7.0, 2.0),
        ("QUANTILE10", {"q10": -1.0, "q90": 0.0}, -1.0, -1.0),
    ],
)
def test_modes(mode: Mode, found: dict[str, float], value: float, normal: float) -> None:
    """(5 - 1) / 2 = 2; 2 lies a quarter of the way from 1 to 5; 7 lies as far beyond; and back."""
    statistics = Statistics(mode, 1)
    statistics.take({name: torch.tensor([number]) for name, number in found.items()})
    assert statistics(torch.tensor([value])).item() == pytest.approx(normal)
    assert statistics.invert(torch.tensor([normal])).item() == pytest.approx(value)
    assert tuple(statistics.state_dict()) == NAMES[mode]


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"])
def test_what_was_fitted_is_undone(mode: Mode) -> None:
    """Fitted to samples they come back; an entry that never moved is centred and not blown up."""
    samples = torch.randn(500, 3) * torch.tensor([1.0, 4.0, 0.0]) + 2
    statistics = Statistics(mode, 3)
    statistics.fit(samples)
    normal = statistics(samples)
    torch.testing.assert_close(statistics.invert(normal), samples, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normal[:, 2], torch.zeros(500))
    assert normal[:, 0].std().item() == pytest.approx(normal[:, 1].std().item(), rel=0.2)
    with pytest.raises(ValueError, match=r"samples \[N, 3\]"):
        statistics.fit(samples[:, :2])
    with pytest.raises(ValueError, match=r"infinity in entries \[1\]"):
        statistics.fit(torch.tensor([[0.0, torch.inf, 0.0]]))


def test_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="no normalisation 'ZSCORE'; there are IDENTITY, MEAN_STD"):
        Statistics("ZSCORE", 1)  # type: ignore[arg-type]
