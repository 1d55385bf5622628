"""The training loop: resuming equals never having stopped, whatever the way it stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palaestra.agents.flow.imitation import ImitationConfig
from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.launch import checkpoint
from palaestra.launch.cli import main
from palaestra.launch.config import DemonstrationConfig, PolicyConfig, Recipe, WorldConfig, to_json
from palaestra.launch.recipes import RECIPES
from palaestra.launch.result import read_result
from palaestra.launch.track import read_metrics
from palaestra.launch.train import resume, train

SMALL = Recipe(
    name="small",
    world=WorldConfig(id="toy/reach-v0", count=8, chunk=4),
    policy=PolicyConfig(steps=2, hidden=32, layers=1),
    demonstrations=DemonstrationConfig(episodes=4),
    imitation=ImitationConfig(steps=20),
    pi_rl=PiRLConfig(batch=32, epochs=1),
    iterations=4,
    decisions=3,
    every=2,
    episodes=8,
    final_episodes=8,
    stop_at=2.0,
)
CUBE = replace(
    SMALL,
    name="small-cube",
    world=replace(RECIPES["pi-rl-push-cube"].world, count=2),
    demonstrations=DemonstrationConfig(episodes=1),
    episodes=2,
    final_episodes=2,
)


def final_state(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(run)
    assert newest is not None
    return checkpoint.load(newest)[0]


def steady(run: Path) -> list[dict[str, float]]:
    """Return the metrics without the clock's."""
    rows = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "wall_s" and not k.startswith("time/")} for row in rows]


@pytest.mark.parametrize(
    "recipe",
    [SMALL, replace(SMALL, pi_rl=PiRLConfig(batch=32, epochs=1, advantage="group", group=4)), CUBE],
    ids=["reach-ppo", "reach-grpo", "maniskill"],
)
def test_a_resumed_run_equals_an_unbroken_one(recipe: Recipe, tmp_path: Path) -> None:
    """Check 25, on the toy world and on ManiSkill's physics: bit for bit, metrics and weights."""
    if recipe is CUBE:
        pytest.importorskip("mani_skill")
    train(recipe, tmp_path / "whole")
    # As if it had been killed after the boundary at iteration 2: nothing later is on disk but a row of metrics.
    train(recipe, tmp_path / "broken")
    import shutil

    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "000004")
    (tmp_path / "broken" / "result.json").unlink()
    resume(tmp_path / "broken")
    left, right = final_state(tmp_path / "whole"), final_state(tmp_path / "broken")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert steady(tmp_path / "whole") == steady(tmp_path / "broken")
    whole, broken = (read_result(tmp_path / name / "result.json") for name in ("whole", "broken"))
    assert whole["evaluations"] == broken["evaluations"]


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    runs = [train(replace(SMALL, seed=seed), tmp_path / f"{place}") for place, seed in enumerate((0, 0, 1))]
    same, other = steady(runs[0]) == steady(runs[1]), steady(runs[0]) == steady(runs[2])
    assert same and not other


def start(run: Path) -> subprocess.Popen[bytes]:
    """Start a run that would take minutes, in a process of its own, and wait for its first boundary."""
    words = "train reach --world.count 16 --iterations 10000 --every 1 --episodes 4 --final-episodes 4 --stop-at 2"
    command = [
        sys.executable,
        "-m",
        "palaestra.launch.cli",
        *words.split(),
        "--imitation.steps",
        "5",
        "--run",
        str(run),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while checkpoint.latest(run) is None and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.2)
    return process


def test_kill_nine_leaves_a_run_that_loads(tmp_path: Path) -> None:
    process = start(tmp_path)
    time.sleep(1.5)
    process.kill()
    process.wait()
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    tensors, meta = checkpoint.load(newest)
    assert tensors and meta["iteration"] >= 0
    assert read_metrics(tmp_path / "metrics.jsonl")


def test_ctrl_c_saves_and_exits(tmp_path: Path) -> None:
    process = start(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    rows = read_metrics(tmp_path / "metrics.jsonl")
    newest = checkpoint.latest(tmp_path)
    assert newest is not None and int(newest.name) == rows[-1]["iteration"]


def test_another_recipe_does_not_resume(tmp_path: Path) -> None:
    train(replace(SMALL, iterations=2), tmp_path)
    (tmp_path / "config.json").write_text(to_json(replace(SMALL, iterations=6)))
    with pytest.raises(checkpoint.CheckpointError, match="another recipe"):
        resume(tmp_path)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(SMALL))
    with pytest.raises(FileExistsError, match="--resume"):
        train(SMALL, tmp_path)


def test_evaluate_replays_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(SMALL, tmp_path)
    assert main(["evaluate", "--replay", str(tmp_path / "result.json")]) == 0
    assert "every episode came out as recorded" in capsys.readouterr().out


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(SMALL, iterations=1), tmp_path)
    wider = replace(SMALL, iterations=1, policy=replace(SMALL.policy, hidden=64))
    (tmp_path / "config.json").write_text(to_json(wider))
    assert main(["evaluate", str(tmp_path), "--episodes", "2"]) == 1
    assert "network.enter.weight" in capsys.readouterr().err
