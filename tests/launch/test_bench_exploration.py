"""The bench of exploration: its limits are known."""

import json
from pathlib import Path

from palaestra.launch.benches.exploration import exploration


def test_without_noise_a_rollout_is_the_ode_and_with_much_it_is_worse(tmp_path: Path) -> None:
    result = exploration("reach", steps=(2,), levels=(1e-6, 3.0), episodes=64, output=tmp_path / "bench.json")
    ode, quiet, loud = (entry["success_once"] for entry in result["entries"])
    assert abs(quiet - ode) < 0.15, "the same but for other draws of the initial noise"
    assert loud < 0.1 < ode
    assert json.loads((tmp_path / "bench.json").read_text()) == result
