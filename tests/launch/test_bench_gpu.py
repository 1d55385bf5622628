"""The GPU's bench: small on a CPU, and as it is where there is a GPU."""

import json
from pathlib import Path

import pytest
import torch

from palaestra.launch.bench import BENCHES
from palaestra.launch.benches.gpu import gpu


def test_small_on_a_cpu(tmp_path: Path) -> None:
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    result = gpu(
        batches=(1, 4), seconds=0.5, image_size=32, max_tokens=4, device="cpu", vision=small,
        text=small | {"num_key_value_heads": 2, "head_dim": 32}, output=tmp_path / "gpu.json",
    )  # fmt: skip
    assert json.loads((tmp_path / "gpu.json").read_text()) == result
    # Llama: 2 layers of 4 * 64 * 64 + 3 * 64 * 128 numbers and the words' vectors; the tower about as much.
    assert 100_000 < result["parameters"] < 300_000
    assert all(rate > 0 for rate in result["pictures a second"].values()) and result["gain"] >= 1
    assert result["batcher over by hand"] > 0.2


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="torch sees none"):
        BENCHES["gpu"]()


@pytest.mark.gpu
def test_batching_gains_on_a_gpu() -> None:
    result = gpu(batches=(1, 64), seconds=2.0, output=None)
    assert 4e8 < result["parameters"] < 6e8 and result["gain"] > 4 and result["batcher over by hand"] > 0.8
