"""Streams of batched worlds: what a reset's arguments mean."""

import pytest
import torch

from palaestra.envs.streams import draw, mixed, restarted


def test_one_number_counts_up_and_rows_that_do_not_start_keep_their_stream() -> None:
    stream = torch.arange(4)
    begun, mask = restarted(stream, 7, None, "worlds")
    assert mask.all() and torch.equal(begun, mixed(torch.tensor([7, 8, 9, 10])))
    assert torch.equal(begun, restarted(stream, [7, 8, 9, 10], None, "worlds")[0])
    some = torch.tensor([True, False, False, True])
    begun, mask = restarted(stream, None, {"reset_mask": some.numpy()}, "worlds")
    assert torch.equal(mask, some)
    assert torch.equal(begun[1:3], stream[1:3]) and torch.equal(begun[[0, 3]], mixed(stream[[0, 3]]))


def test_a_seed_too_few_is_named() -> None:
    with pytest.raises(ValueError, match=r"worlds: reset\(seed=\[\.\.\.\]\) takes one seed a world, 3; got 2"):
        restarted(torch.arange(3), [1, 2], None, "worlds")


def test_draws_are_uniform_and_of_their_own() -> None:
    drawn = draw(torch.arange(20_000), 5)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 / 12, abs=0.003)
    other = draw(torch.arange(20_000), 6)
    assert abs(torch.corrcoef(torch.stack([drawn, other]))[0, 1]) < 0.03
