"""The bench of learners trains each on the same worlds and says what it reached."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palaestra.agents.found_rl.config import FoundRLConfig
from palaestra.launch.benches.learners import LEARNERS, learners, steps_of
from palaestra.launch.config import FoundRLRecipe, WorldConfig

SMALL = FoundRLRecipe(
    world=WorldConfig(
        id="driving/arterial-v0",
        count=4,
        chunk=3,
        options={"vehicles": 2, "walkers": 0, "map_count": 1},
    ),
    training={"endings": "endless", "max_episode_steps": 12},
    evaluation={"split": "test", "endings": "evaluation", "max_episode_steps": 12},
    learner=FoundRLConfig(hidden=16, batch=16, warmup=8, updates=1, capacity=600),
    iterations=2,
    decisions=8,
    final_episodes=4,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_learner_has_its_entry(tmp_path: Path) -> None:
    found = learners(SMALL, seeds=(3,), output=tmp_path / "bench.json")
    assert [entry["learner"] for entry in found["entries"]] == list(LEARNERS)
    assert all(entry["seed"] == 3 and entry["train_cpu"] > 0 for entry in found["entries"])
    assert all(0 <= entry["interval"][0] <= entry["success_once"] <= 1 for entry in found["entries"])
    assert json.loads((tmp_path / "bench.json").read_text())["entries"] == found["entries"]


def test_a_budget_is_counted_in_single_actions() -> None:
    assert steps_of(SMALL) == 2 * 8 * 4 * 3
    assert steps_of(replace(SMALL, iterations=4)) == 4 * 8 * 4 * 3
