"""highway-env's worlds by their Gymnasium ids: nobody has to import that package first."""

import subprocess
import sys
from importlib.util import find_spec

import gymnasium
import pytest
import torch

from palaestra.envs.check import check
from palaestra.envs.registry import make

pytestmark = pytest.mark.skipif(find_spec("highway_env") is None, reason="needs palaestra[driving]")
QUICK = {"vehicles_count": 3, "duration": 3, "simulation_frequency": 5}


def test_nobody_has_to_import_the_package_first() -> None:
    lines = (
        "import sys; from palaestra.envs.registry import find",
        "find('CartPole-v1'); assert 'highway_env' not in sys.modules",
        "print(find('roundabout-v0').args[0].entry_point)",
    )
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith(":RoundaboutEnv")
    assert "Warning" not in found.stderr


def test_a_highway_keeps_the_contract() -> None:
    report = check("highway-v0", turns=6, config={**QUICK, "duration": 2})
    assert report.passed, str(report)


@pytest.mark.parametrize(("id", "actions"), [("highway-v0", 5), ("intersection-v0", 3), ("merge-v0", 5)])
def test_tables_are_shown_as_state_vectors(id: str, actions: int) -> None:
    worlds = make(id, count=2, workers=1, config=QUICK)
    try:
        step = worlds.reset(seed=0)
        assert isinstance(worlds.spec.action, gymnasium.spaces.Discrete)
        assert worlds.spec.action.n == actions
        rows, columns = (15, 7) if id == "intersection-v0" else (5, 5)
        assert step.observation.state is not None
        assert step.observation.state.shape == (2, rows * columns) == (2, worlds.spec.state)
        worlds.send(step.rows, torch.ones(2, 1, dtype=torch.int64))
        assert torch.isfinite(worlds.recv().reward).all()
    finally:
        worlds.close()
