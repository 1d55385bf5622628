"""A run of Found-RL: resuming equals never having stopped, and every variant reaches its result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palaestra.agents.found_rl.config import FoundRLConfig, GuardConfig, Guidance
from palaestra.launch import checkpoint
from palaestra.launch.cli import main
from palaestra.launch.commands import _options
from palaestra.launch.config import (
    FoundRLRecipe,
    TeacherConfig,
    WorldConfig,
    from_json,
    to_json,
    validate,
)
from palaestra.launch.found_rl import FoundRLRun
from palaestra.launch.result import read_result
from palaestra.launch.track import read_metrics
from palaestra.launch.train import load_policy, make_worlds, resume, train

SMALL = FoundRLRecipe(
    name="small",
    world=WorldConfig(
        id="driving/arterial-v0",
        count=6,
        chunk=3,
        options={"vehicles": 2, "walkers": 0, "map_count": 1, "max_episode_steps": 12},
    ),
    learner=FoundRLConfig(
        guidance="vmr+awag", hidden=16, batch=16, warmup=18, updates=1, capacity=600, guard=GuardConfig(window=2)
    ),
    teacher=TeacherConfig(quality="noisy", delay=1),
    iterations=4,
    decisions=4,
    every=2,
    episodes=6,
    final_episodes=6,
    videos=0,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def steady(run: Path) -> list[dict[str, float]]:
    """Return the metrics without the clock's."""
    rows = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "wall_s" and not k.startswith("time/")} for row in rows]


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(SMALL, whole)
    iterate = FoundRLRun.iterate

    def break_down(run: FoundRLRun) -> dict[str, float]:
        if run.iteration == 3:
            raise RuntimeError("the lights went out")
        return iterate(run)

    monkeypatch.setattr(FoundRLRun, "iterate", break_down)
    with pytest.raises(RuntimeError, match="lights went out"):
        train(SMALL, stopped)
    monkeypatch.setattr(FoundRLRun, "iterate", iterate)
    resume(stopped)
    assert steady(stopped) == steady(whole)
    ends = [checkpoint.load(checkpoint.latest(run) or run)[0] for run in (whole, stopped)]
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    rows = steady(whole)
    assert rows[-1]["advice/asked"] > 0 and rows[-1]["advice/age"] == 1
    assert {"eval/arrival", "eval/driving_score", "eval/success_once_low"} <= rows[-1].keys()
    # The first checkpoint, which the result refers to, and the newest two.
    assert sorted(folder.name for folder in (whole / "checkpoints").iterdir()) == ["000000", "000002", "000004"]
    assert [entry["name"] for entry in read_result(whole / "result.json")["evaluations"]] == ["before", "after"]


@pytest.mark.parametrize("guidance", ["none", "bc"])
def test_every_variant_reaches_its_result(guidance: Guidance, tmp_path: Path) -> None:
    learner = replace(SMALL.learner, guidance=guidance, algorithm="drqv2")
    run = train(replace(SMALL, learner=learner, iterations=2), tmp_path / guidance)
    recipe = from_json(run / "config.json")
    worlds = make_worlds(recipe, 2)
    try:
        policy = load_policy(run, recipe, worlds.spec)
        action = policy.act(worlds.reset(0).observation).action
    finally:
        worlds.close()
    assert isinstance(action, torch.Tensor) and action.shape == (2, 3, 2)
    assert len(read_result(run / "result.json")["evaluations"][0]["episode_list"]) == 6


def test_evaluation_is_on_other_roads_where_infractions_are_counted() -> None:
    trained, tested = make_worlds(SMALL, 2, training=True), make_worlds(SMALL, 2)
    try:
        environments = [worlds.venv for worlds in (trained, tested)]  # type: ignore[attr-defined]
        assert [env.endings for env in environments] == ["train", "evaluation"]
        lengths = [env.tables.route_length for env in environments]
        assert lengths[0].shape != lengths[1].shape or not torch.equal(*lengths)
    finally:
        trained.close()
        tested.close()


def test_the_recipe_survives_json_and_is_found_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(to_json(SMALL))
    assert from_json(path) == SMALL
    data = json.loads(path.read_text())
    data["learner"]["marign"] = 3
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="Did you mean 'margin'"):
        from_json(path)
    with pytest.raises(SystemExit):
        main(["train", "found-rl-driving", "--help"])
    shown = capsys.readouterr().out
    assert "--guidance" in shown and "--teacher.quality" in shown and "value margins in the critic" in shown


def test_options_of_worlds_keep_their_types_on_the_command_line() -> None:
    words = ["found-rl-driving", "--world.options", "view", "bev", "vehicles", "4", "cruise", "5.5"]
    options = _options(FoundRLRecipe(), words)
    assert options.recipe.world.options == {"view": "bev", "vehicles": 4, "cruise": 5.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": replace(SMALL.world, id="toy/reach-v0")}, "no teacher knows toy/reach-v0"),
        ({"teacher": TeacherConfig(delay=-1)}, "teacher.delay is -1"),
        ({"teacher": TeacherConfig(right=2.0)}, "teacher.right is 2.0"),
        ({"learner": replace(SMALL.learner, capacity=8)}, "capacity is 8"),
        ({"iterations": 0}, "iterations is 0"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(replace(SMALL, **changes))  # type: ignore[arg-type]
