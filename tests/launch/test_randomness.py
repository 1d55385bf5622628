import random
from pathlib import Path

import numpy as np
import pytest
import torch

from palaestra.launch.checkpoint import load, save
from palaestra.launch.randomness import random_state, seeded, set_random_state


def draws() -> list[float]:
    # One normal draw each: NumPy and Python keep the second of a pair, which is state too.
    return [torch.randn(3).sum().item(), np.random.normal(), random.gauss(0, 1), np.random.rand(), random.random()]


@pytest.mark.parametrize("warm_up", [0, 1, 2])
def test_generators_go_on_as_if_never_stopped(tmp_path: Path, warm_up: int) -> None:
    for _ in range(warm_up):
        draws()
    folder = save(tmp_path / "checkpoints" / "000001", random_state(), {})
    expected = [draws() for _ in range(3)]
    set_random_state(load(folder)[0])
    assert [draws() for _ in range(3)] == expected


def test_seeded_is_repeatable_and_leaves_no_trace() -> None:
    before = random_state()
    with seeded(5):
        first = draws()
    with seeded(5):
        assert draws() == first
    with seeded(6):
        assert draws() != first
    with pytest.raises(RuntimeError, match="stop"), seeded(5):
        draws()
        raise RuntimeError("stop")
    after = random_state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_missing_generator_is_named() -> None:
    state = random_state()
    del state["random.numpy"]
    with pytest.raises(KeyError, match=r"random\.numpy"):
        set_random_state(state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_generators_go_on_as_if_never_stopped() -> None:
    torch.randn(3, device="cuda")
    state = random_state()
    expected = torch.randn(3, device="cuda")
    with seeded(5):
        torch.randn(3, device="cuda")
    set_random_state(state)
    assert torch.equal(torch.randn(3, device="cuda"), expected)
