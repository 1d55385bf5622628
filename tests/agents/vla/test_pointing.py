"""Places as shares of tokens and back, by hand and as a round trip."""

import pytest
import torch

from palaestra.agents.vla.pointing import expected_places, shares


def test_shares_by_hand() -> None:
    """Of 2 x 2 tokens: the picture's middle is a quarter each; the upper left patch's own middle is all its own."""
    places = torch.tensor([[0.0, 0.0], [-0.5, 0.5], [0.25, 0.5], [-9.0, -9.0]])
    expected = [[0.25] * 4, [1, 0, 0, 0], [0.25, 0.75, 0, 0], [0, 0, 1, 0]]
    assert shares(places, 2).tolist() == expected


def test_there_and_back() -> None:
    """The mean of the shares is the place, anywhere between the middles of the outermost patches."""
    places = 1.5 * torch.rand(200, 3, 2, generator=torch.Generator().manual_seed(0)) - 0.75
    share = shares(places, 4)
    assert share.shape == (200, 3, 16) and ((share > 0).sum(-1) <= 4).all()
    torch.testing.assert_close(share.sum(-1), torch.ones(200, 3))
    torch.testing.assert_close(expected_places(share.log()), places, atol=1e-5, rtol=0)


def test_what_is_sure_is_a_middle_and_what_knows_nothing_is_the_picture_s() -> None:
    scores = torch.zeros(2, 9)
    scores[1, 2] = 1e4  # the upper right of 3 x 3
    torch.testing.assert_close(expected_places(scores), torch.tensor([[0.0, 0.0], [2 / 3, 2 / 3]]))
    assert expected_places(torch.zeros(4, 0, 16)).shape == (4, 0, 2)
    with pytest.raises(ValueError, match="6 tokens is no square"):
        expected_places(torch.zeros(1, 6))
