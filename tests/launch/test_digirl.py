"""A run of DigiRL: whole episodes, resuming equals never having stopped, and recipes that cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palaestra.agents.digirl.config import DigiRLConfig
from palaestra.agents.digirl.episodes import Episode, read_episodes
from palaestra.agents.vlm.sft import SFTConfig
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.registry import make
from palaestra.launch import checkpoint, digirl
from palaestra.launch.config import DigiRLRecipe, JudgeConfig, WorldConfig, from_json, to_json, validate
from palaestra.launch.episodes import demonstrate, play
from palaestra.launch.result import read_result
from palaestra.launch.track import read_metrics
from palaestra.launch.train import load_policy, make_worlds, resume, train

SMALL = DigiRLRecipe(
    name="small",
    world=WorldConfig(id="android/general-v0", count=4, chunk=1, options={"level": 1, "max_steps": 3}),
    demonstrations=3,
    live_demonstrations=1,
    image_size=16,
    width=32,
    longest=12,
    imitation=SFTConfig(steps=3, batch=4, grouped=False),
    actor=SFTConfig(schedule="constant", warmup=0, learning_rate=1e-3),
    learner=DigiRLConfig(batch=4, fit=4, offline_values=2, offline_updates=1, online_values=1, online_updates=1),
    judge=JudgeConfig(kind="noisy", false_positive=0.5, false_negative=0.0),
    offline_episodes=8,
    iterations=3,
    every=1,
    episodes=4,
    final_episodes=4,
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


def test_the_expert_plays_whole_successful_episodes() -> None:
    found = demonstrate(replace(SMALL, world=replace(SMALL.world, options={"level": 1, "max_steps": 10})))
    assert len(found) == 4 and all(one.success for one in found)
    for one in found:
        length = len(one.actions)
        assert len(one.observation) == len(one.observation.text) == length
        screens, previous = one.observation.images["screen"], one.observation.images["previous"]
        assert torch.equal(previous[1:], screens[:-1])  # nobody wrote over what was seen
        assert torch.equal(one.last.images["previous"][0], screens[-1])


def test_episodes_are_cut_at_the_limit_and_say_so_by_failing() -> None:
    worlds = make("android/general-v0", 3, level=1, max_steps=4)
    try:
        played, faults = play(worlds, lambda view, rows: ["what is this?"] * len(rows), 5)
        assert not faults
        assert [len(one.actions) for one in played] == [4, 4, 4]
        assert not any(one.success for one in played)
        assert [one.observation.text[0].split("\n")[1] for one in played] == [""] * 3
    finally:
        worlds.close()


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(SMALL, whole)
    keep, kept = digirl.save_episode, 0

    def break_down(folder: Path, number: int, episode: Episode) -> Path:
        nonlocal kept
        kept += 1
        if kept == 15:  # after four demonstrations and eight offline, of the first round's four episodes the third
            raise RuntimeError("the lights went out")
        return keep(folder, number, episode)

    monkeypatch.setattr(digirl, "save_episode", break_down)
    with pytest.raises(RuntimeError, match="lights went out"):
        train(SMALL, stopped)
    assert len(list(read_episodes(stopped / "episodes"))) == 14
    monkeypatch.setattr(digirl, "save_episode", keep)
    resume(stopped)
    assert steady(stopped) == steady(whole)
    ends = [checkpoint.load(checkpoint.latest(run) or run)[0] for run in (whole, stopped)]
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    assert len(list(read_episodes(whole / "episodes"))) == 20
    for episode in read_episodes(whole / "episodes"):
        now, before = episode.features.chunk(2, 1)
        assert torch.equal(before, torch.cat([now[:1], now[:-1]]))  # at the start the frame stands for the one before
    measured = read_result(whole / "result.json")["evaluations"]
    assert [(entry["name"], entry["checkpoint"]) for entry in measured] == [
        ("before", "000000"), ("offline", "000001"), ("after", "000003"),
    ]
    assert all((whole / "checkpoints" / entry["checkpoint"]).is_dir() for entry in measured)
    rows = steady(whole)
    assert 0 <= rows[1]["judge/accuracy"] <= 1
    assert [("unseen/success_once" in row) for row in rows] == [True, True, False, True]
    assert any(name.startswith("kind/") for name in rows[0])
    assert any(name.startswith("judge/") and name.endswith("/accuracy") and name.count("/") == 2 for name in rows[1])
    recipe = from_json(whole / "config.json")
    worlds = make_worlds(recipe)
    assert isinstance(worlds, LockstepWorlds)
    try:
        assert load_policy(whole, recipe, worlds.spec).act(worlds.reset(0).observation).action
    finally:
        worlds.close()


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (replace(SMALL, world=replace(SMALL.world, chunk=2)), "world.chunk is 2"),
        (replace(SMALL, base="nowhere"), "base is 'nowhere'"),
        (replace(SMALL, learner=replace(SMALL.learner, batch=5)), "batch is 5, which fit = 4"),
        (replace(SMALL, judge=JudgeConfig(kind="noisy", false_positive=2.0)), "false_positive is 2.0"),
        (replace(SMALL, demonstrations=0), "demonstrations is 0"),
        (replace(SMALL, slips=1.0), "slips is 1.0"),
        (replace(SMALL, imitation=SFTConfig(steps=0)), "imitation.steps is 0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_slow(recipe: DigiRLRecipe, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        validate(recipe)


def test_a_run_goes_on_from_the_actor_of_another_in_a_world_that_changed(tmp_path: Path) -> None:
    small = replace(SMALL, iterations=1)
    train(small, tmp_path / "first")
    frozen = tmp_path / "first" / "actor"
    changed = replace(small.world, options={**small.world.options, "preset": "drift(2)"})
    train(replace(small, world=changed, base=str(frozen), imitation=SFTConfig(steps=0)), tmp_path / "second")
    weights = [load_file(folder / "model.safetensors") for folder in (frozen, tmp_path / "second" / "imitator")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len(list(read_episodes(tmp_path / "second" / "episodes"))) == 8  # of its own alone
    names = [entry["name"] for entry in read_result(tmp_path / "second" / "result.json")["evaluations"]]
    assert names == ["before", "after"]  # the frozen policy, and the one that went on learning


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(SMALL))
    assert from_json(tmp_path / "config.json") == SMALL


def test_a_world_without_an_expert_is_named() -> None:
    with pytest.raises(ValueError, match="toy/reach-v0 has no scripted expert"):
        demonstrate(replace(SMALL, world=WorldConfig(id="toy/reach-v0", count=2, chunk=1), demonstration={}))
