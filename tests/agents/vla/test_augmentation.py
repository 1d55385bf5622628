"""Colours changed: each of the four by hand, alike for all cameras, and nothing where nothing is asked for."""

import pytest
import torch
from torch import Tensor

from palaestra.agents.vla.augmentation import AugmentationConfig, colour_matrix, recoloured
from palaestra.envs.core import Observation

RED = torch.tensor([200.0, 0.0, 0.0])


def changed(brightness: float = 1.0, saturation: float = 1.0, hue: float = 0.0) -> Tensor:
    """Return what red becomes."""
    matrix = colour_matrix(*(torch.tensor([number]) for number in (brightness, saturation, hue)))
    return matrix[0] @ RED


def test_by_hand() -> None:
    """Half as bright; gray by what red weighs, .299; a third of a turn is green, two thirds blue, a whole one red."""
    torch.testing.assert_close(changed(), RED)
    torch.testing.assert_close(changed(brightness=0.5), RED / 2)
    torch.testing.assert_close(changed(saturation=0.0), torch.full((3,), 59.8))
    torch.testing.assert_close(changed(saturation=0.5), (RED + 59.8) / 2)
    torch.testing.assert_close(changed(hue=1 / 3), torch.tensor([0.0, 200, 0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(changed(hue=2 / 3), torch.tensor([0.0, 0, 200]), atol=1e-4, rtol=0)
    torch.testing.assert_close(changed(hue=1.0), RED, atol=1e-4, rtol=0)
    torch.testing.assert_close(changed(hue=0.1).sum(), RED.sum())


def test_contrast_by_hand() -> None:
    """Grays of 50 and 150 have the mean 100: at half the contrast 75 and 125, at none 100, at three times 0 and 250."""
    picture = torch.tensor([50, 150], dtype=torch.uint8).view(1, 1, 2, 1).expand(3, 1, 2, 3)
    found = recoloured(picture, torch.eye(3).expand(3, 3, 3), torch.tensor([0.5, 0.0, 3.0]))
    assert found[..., 0].flatten(1).tolist() == [[75, 125], [100, 100], [0, 250]]
    assert found.dtype == torch.uint8 and found.shape == picture.shape


def test_each_view_is_changed_anew_and_its_cameras_alike() -> None:
    torch.manual_seed(0)
    picture = torch.randint(256, (2, 4, 4, 3), dtype=torch.uint8)[[0, 0]]
    view = Observation({"overhead": picture, "side": picture.clone()}, torch.zeros(2, 1), ("a", "b"))
    strong = AugmentationConfig(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
    assert strong.active
    seen = strong(view)
    assert torch.equal(seen.images["overhead"], seen.images["side"])
    assert not torch.equal(seen.images["side"][0], seen.images["side"][1])
    assert seen.text == view.text and torch.equal(view.images["side"], picture)
    assert not AugmentationConfig().active and AugmentationConfig()(view) is view


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"augmentation\.hue is 0\.7; it goes from 0 to 0\.5"):
        AugmentationConfig(hue=0.7)
