"""Recipes of agents that talk to worlds of tools, from end to end, far too short to learn anything."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palaestra.agents.grpo.curriculum import CurriculumConfig
from palaestra.agents.grpo.imitation import ImitationConfig
from palaestra.agents.grpo.learner import GRPOConfig
from palaestra.agents.grpo.pretrain import PretrainConfig
from palaestra.launch import checkpoint
from palaestra.launch.commands import train_command
from palaestra.launch.config import to_json
from palaestra.launch.config_conversation import (
    AnswerJudgeConfig,
    ConversationRecipe,
    LedgerRecipe,
    VragRecipe,
    conversation_from_json,
)
from palaestra.launch.runs import read_run
from palaestra.launch.train import resume, train

SHORT = VragRecipe(
    pretrain=PretrainConfig(pages=8, vision_steps=2, vision_batch=4, steps=2, batch=8),
    imitation=ImitationConfig(trajectories=16, epochs=1, batch=8),
    iterations=2,
    prompts=2,
    final_episodes=6,
    episodes=3,
    every=1,
)
LEDGER = LedgerRecipe(
    objective="ppo", imitation=ImitationConfig(trajectories=64, epochs=2, batch=16), iterations=3, prompts=3,
    final_episodes=6, episodes=3, every=1, curriculum=CurriculumConfig("seele", rounds=2),
    grpo=GRPOConfig(group=2, hint_weight=0.001),
)  # fmt: skip


def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    run = train(SHORT, tmp_path / "run")
    found = read_run(run)
    assert [outcome.name for outcome in found.outcomes] == ["before", "before, sampled", "after", "after, sampled"]
    assert all(len(outcome.episodes) == 6 and outcome.seeds == tuple(range(6)) for outcome in found.outcomes)
    assert {"ndcg", "ndcg_interval", "finished", "invalid", "crops"} <= found.result["evaluations"][0].keys()
    assert [row["iteration"] for row in found.metrics] == [0, 1, 2]
    assert found.metrics[1]["train/sampler_gap"] < 1e-5 and "eval/success_once" in found.metrics[1]
    before, state = load_file(run / "imitated.safetensors"), checkpoint.load(run / "checkpoints" / "000002")[0]
    assert all(bool((before[name] == state[f"learner.speaker.{name}"]).all()) for name in before if "eyes." in name)
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(SHORT, run)
    again = train(replace(SHORT, imitated=str(run / "imitated.safetensors")), tmp_path / "again")
    assert read_run(again).outcomes[0].episodes == found.outcomes[0].episodes  # the same model, the same questions


@pytest.mark.parametrize("recipe", [SHORT, LEDGER], ids=["vrag-pages", "ledger"])
def test_resume_equals_an_unbroken_run(recipe: ConversationRecipe, tmp_path: Path) -> None:
    """Stopped after the first boundary, or right after imitation: the same weights, critic and memory, bit for bit."""
    whole, broken = train(recipe, tmp_path / "whole"), tmp_path / "broken"
    train(replace(recipe, iterations=1), broken)
    (broken / "result.json").unlink()
    (broken / "config.json").write_text(to_json(recipe))
    _disguise(broken / "checkpoints", recipe)
    resume(broken)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "imitated.safetensors").write_bytes((whole / "imitated.safetensors").read_bytes())
    (fresh / "config.json").write_text(to_json(recipe))
    resume(fresh)
    name = f"{recipe.iterations:06d}"
    expected = checkpoint.load(whole / "checkpoints" / name)[0]
    for run in (broken, fresh):
        state = checkpoint.load(run / "checkpoints" / name)[0]
        assert state.keys() == expected.keys() and any(key.startswith("learner.learner.optimiser") for key in state)
        assert all(torch.equal(state[key], expected[key]) for key in state), run
    assert read_run(broken).outcomes == read_run(whole).outcomes


def _disguise(checkpoints: Path, recipe: ConversationRecipe) -> None:
    """Let a run that was meant to be shorter look as if it had been stopped: its end is then an ordinary boundary."""
    for folder in sorted(checkpoints.iterdir()):
        tensors, meta = checkpoint.load(folder)
        named = [entry for entry in meta["named"] if not entry[0]["name"].startswith("after")]
        checkpoint.save(folder, tensors, meta | {"recipe": checkpoint.fingerprint(to_json(recipe)), "named": named})


def test_recipes_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for recipe in (SHORT, LEDGER):
        path.write_text(to_json(recipe))
        assert conversation_from_json(path) == recipe
    path.write_text("{}")
    assert conversation_from_json(path) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 0}, "prompts is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"base": "nowhere.safetensors"}, "base is 'nowhere.safetensors'"),
        ({"imitated": "nowhere.safetensors"}, "imitated is 'nowhere.safetensors'"),
        ({"objective": "grop"}, "Did you mean 'grpo'"),
        ({"grpo": GRPOConfig(group=1)}, "compares conversations within a group"),
    ],
)
def test_what_cannot_work_is_refused_first(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        train(replace(SHORT, **changes), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_judge_that_is_down_voids_what_it_should_judge(tmp_path: Path) -> None:
    """Nothing is learnt from such episodes; what is reported is the truth, which needs no judge."""
    recipe = replace(SHORT, iterations=1, judge=AnswerJudgeConfig("model", "http://127.0.0.1:9"))
    found = read_run(train(recipe, tmp_path / "run"))
    assert all(outcome.faults == 0 for outcome in found.outcomes)
    assert found.metrics[1].get("rollout/form", 0.0) == 0.0  # whoever kept the form was to be judged, and is void


def test_they_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_command([]) == 2
    shown = capsys.readouterr().out
    assert "vrag-pages" in shown and "ledger" in shown
