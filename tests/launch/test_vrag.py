"""The recipe vrag-pages from end to end, far too short to learn anything."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from palaestra.agents.grpo.imitation import ImitationConfig
from palaestra.agents.grpo.pretrain import PretrainConfig
from palaestra.launch.commands import train_command
from palaestra.launch.runs import read_run
from palaestra.launch.vrag import train_vrag
from palaestra.launch.vrag_config import VragRecipe

SHORT = VragRecipe(
    pretrain=PretrainConfig(pages=8, vision_steps=2, vision_batch=4, steps=2, batch=8),
    imitation=ImitationConfig(trajectories=16, epochs=1, batch=8),
    updates=2,
    prompts=2,
    questions=6,
    watched=3,
    every=2,
)


def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    run = train_vrag(SHORT, tmp_path / "run")
    found = read_run(run)
    assert [outcome.name for outcome in found.outcomes] == ["before", "before, sampled", "after", "after, sampled"]
    assert all(len(outcome.episodes) == 6 and outcome.seeds == tuple(range(6)) for outcome in found.outcomes)
    assert {"ndcg", "ndcg_interval", "finished", "invalid_share_of_actions", "crops_mean"} <= found.result[
        "evaluations"
    ][0].keys()
    assert [row["iteration"] for row in found.metrics] == [1, 2]
    assert found.metrics[1]["train/sampler_gap"] < 1e-5 and "eval/success_once" in found.metrics[1]
    before, after = (load_file(run / f"{name}.safetensors") for name in ("imitated", "learnt"))
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before if name.startswith("eyes."))  # frozen
    with pytest.raises(FileExistsError, match="already holds a run"):
        train_vrag(SHORT, run)
    again = train_vrag(replace(SHORT, imitated=str(run / "imitated.safetensors")), tmp_path / "again")
    assert read_run(again).outcomes[0].episodes == found.outcomes[0].episodes  # the same model, the same questions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 0}, "prompts is 0"),
        ({"updates": -1}, "updates is -1"),
        ({"base": "nowhere.safetensors"}, "base is 'nowhere.safetensors'"),
        ({"imitated": "nowhere.safetensors"}, "imitated is 'nowhere.safetensors'"),
        ({"objective": "grop"}, "Did you mean 'grpo'"),
    ],
)
def test_what_cannot_work_is_refused_first(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        train_vrag(replace(SHORT, **changes), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_it_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_command([]) == 2
    assert "vrag-pages" in capsys.readouterr().out
