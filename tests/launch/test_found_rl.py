"""A run of Found-RL: resuming equals never having stopped, and every variant reaches its result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palaestra.agents.found_rl.config import FoundRLConfig, GuardConfig, Guidance, QueryConfig
from palaestra.agents.vlm.tiny_clip import build_tiny_clip
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
        options={"vehicles": 2, "walkers": 0, "map_count": 1},
    ),
    training={"endings": "endless", "max_episode_steps": 12},
    evaluation={"split": "test", "endings": "evaluation", "max_episode_steps": 12},
    learner=FoundRLConfig(
        guidance="vmr+awag",
        hidden=16,
        batch=16,
        warmup=18,
        updates=1,
        capacity=600,
        query=QueryConfig(),
        guard=GuardConfig(window=2),
    ),
    teacher=TeacherConfig(quality="noisy", delay=3),
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


def ends_of_a_run_and_of_one_that_broke_down(
    recipe: FoundRLRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Return the folders of a run and of the same run, broken down in the middle of a spell and resumed."""
    whole, stopped = folder / "whole", folder / "stopped"
    train(recipe, whole)
    iterate = FoundRLRun.iterate

    def break_down(run: FoundRLRun) -> dict[str, float]:
        if run.iteration == 3:
            raise RuntimeError("the lights went out")
        return iterate(run)

    monkeypatch.setattr(FoundRLRun, "iterate", break_down)
    with pytest.raises(RuntimeError, match="lights went out"):
        train(recipe, stopped)
    monkeypatch.setattr(FoundRLRun, "iterate", iterate)
    resume(stopped)
    return whole, stopped


def require_the_same(one: Path, other: Path) -> None:
    """Fail unless two runs have the same metrics and end in the same checkpoint, bit for bit."""
    assert steady(other) == steady(one)
    ends = [checkpoint.load(checkpoint.latest(run) or run)[0] for run in (one, other)]
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = ends_of_a_run_and_of_one_that_broke_down(SMALL, tmp_path, monkeypatch)
    require_the_same(whole, stopped)
    rows = steady(whole)
    assert rows[-1]["advice/asked"] == 16 * 6 and rows[-1]["advice/age"] == 3
    # Answers of the last two decisions before each of the two boundaries were outstanding there, and are given up.
    assert rows[-1]["advice/lost"] + rows[-1]["advice/outstanding"] == 2 * 2 * 6
    assert {"eval/arrival", "eval/driving_score", "eval/red_light_a_km", "eval/success_once_low"} <= rows[-1].keys()
    # The first checkpoint, which the result refers to, and the newest two.
    assert sorted(folder.name for folder in (whole / "checkpoints").iterdir()) == ["000000", "000002", "000004"]
    assert [entry["name"] for entry in read_result(whole / "result.json")["evaluations"]] == ["before", "after"]


def test_a_resumed_run_scales_its_bonuses_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = build_tiny_clip(tmp_path / "clip", image_size=32, width=32, layers=1, text_width=32, context=48)
    # One ask at a time, waited for: a model's answers may differ in their last bits with the size of a batch.
    learner = replace(SMALL.learner, guidance="ccaa", query=QueryConfig(every=6))
    teacher = TeacherConfig(kind="model", model=str(clip), delay=0)
    whole, stopped = ends_of_a_run_and_of_one_that_broke_down(
        replace(SMALL, learner=learner, teacher=teacher), tmp_path, monkeypatch
    )
    require_the_same(whole, stopped)
    tensors, _ = checkpoint.load(checkpoint.latest(whole) or whole)
    assert round(float(tensors["learner.advisor.teacher.count"])) == 16  # one a decision


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
        assert [env.endings for env in environments] == ["endless", "evaluation"]
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
