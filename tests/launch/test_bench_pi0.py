"""The bench of a policy of π0's size, run tiny and without a GPU."""

from pathlib import Path

import pytest
import torch

from palaestra.launch.bench import BENCHES
from palaestra.launch.benches import pi0 as module


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("kind", ["pi0", "pi05", "smolvla"])
def test_what_is_measured(kind: str, tmp_path: Path) -> None:
    """Rates are batches over seconds, and the share of the floor is what both say."""
    found = module.pi0(
        kind,  # type: ignore[arg-type]
        "tiny", "cpu", batches=(1, 3), steps=2, horizon=4, seconds=0.02, output=tmp_path / "bench.json",
    )  # fmt: skip
    assert (tmp_path / "bench.json").is_file() and found["dtype"] == "bfloat16"
    for name in ("decisions", "learning"):
        assert [entry["batch"] for entry in found[name]] == [1, 3]
        for entry in found[name]:
            assert entry["a_second"] == pytest.approx(entry["batch"] / entry["seconds"], rel=1e-3)
            share = entry["a_second"] / entry["floor_a_second"]
            assert entry["share_of_floor"] == pytest.approx(share, rel=0.02, abs=2e-4)
            assert entry["peak_memory_gib"] is None


def test_the_prefix_is_read_once() -> None:
    """The arithmetic of a decision grows by the same amount with every denoising step, and is not nothing at none."""
    policy, view = module._policy("pi0", "tiny", "cpu", 1, 4)
    spent = []
    for steps in (1, 2, 3):
        policy.steps = steps
        spent.append(module._flops(module._decide(policy), view))
    assert spent[2] - spent[1] == spent[1] - spent[0] > 0
    assert spent[0] > 2 * (spent[1] - spent[0])


def test_a_machine_without_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"torch sees none here.*size='tiny', device='cpu'"):
        BENCHES["pi0"]()
