"""The bench of driving: a short form of it measures what it says, on one thread, and writes it down."""

import json
from pathlib import Path

import pytest
import torch

from palaestra.launch.bench import BENCHES
from palaestra.launch.benches.driving import driving


def test_a_short_bench_compares_with_highway_env(tmp_path: Path) -> None:
    pytest.importorskip("highway_env")
    threads = torch.get_num_threads()
    result = driving(
        vehicles=5, counts=(1, 8), compiled=(), views=4, pixels=32, rounds=1, seconds=0.05,
        output=tmp_path / "bench.json",
    )  # fmt: skip
    assert torch.get_num_threads() == threads
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert BENCHES["driving"] is driving
    rates = result["rates"]
    assert set(rates) == {
        *(f"highway-env, {view}{kind}" for view in ("Kinematics", "OccupancyGrid") for kind in ("", ", 10 Hz")),
        *("ours, 1 worlds", "ours, 8 worlds", "ours, 4 worlds, 32 pixels"),
    }
    assert rates["ours, 8 worlds"] > 3 * rates["ours, 1 worlds"]
    ratio = result["ratios"]["ours, 8 worlds / highway-env, Kinematics"]["median"]
    assert ratio == pytest.approx(rates["ours, 8 worlds"] / rates["highway-env, Kinematics"], rel=0.01)
    assert set(result["paint"]) == {"painted", "packed", "unpacked"}
    assert result["paint"]["painted"] > rates["ours, 4 worlds, 32 pixels"]
