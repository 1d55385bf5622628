"""The bench of driving on a GPU, tried out on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from palaestra.launch.bench import BENCHES
from palaestra.launch.benches.driving_gpu import driving_gpu


def test_a_short_bench_on_a_cpu(tmp_path: Path) -> None:
    result = driving_gpu(
        vehicles=5, counts=(8,), compiled=(), views=4, pixels=32, rounds=1, seconds=0.05, device="cpu",
        output=tmp_path / "bench.json",
    )  # fmt: skip
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert set(result["rates"]) == {"ours, 8 worlds", "ours, 4 worlds, 32 pixels"}
    # A view of 32 pixels is 15 kB; a world's state with 6 vehicles (17 floats, 6 whole numbers and 3 flags each, and 20
    # bytes a walker and moment at most) is some 0.8 kB in and out.
    assert result["floor"]["views"] == pytest.approx(result["bandwidth"] / 15360, rel=1e-3)
    assert 1500 < result["bandwidth"] / result["floor"]["steps"] < 4000
    assert 0 < result["share of the floor"]["views"] < 1


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="torch sees none"):
        BENCHES["driving-gpu"]()
