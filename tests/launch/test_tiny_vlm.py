"""`palaestra train tiny-vlm`: a run's folder, its resumption, adapters on top, and what cannot work."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from palaestra.agents.vlm.sft import SFTConfig
from palaestra.launch import checkpoint
from palaestra.launch.cli import main
from palaestra.launch.config_tuning import TuningRecipe, tuning_from_json
from palaestra.launch.statistics import wilson
from palaestra.launch.track import read_metrics
from palaestra.launch.train import resume, train

SHORT = replace(
    TuningRecipe(), questions=40, held_out=12, every=2, threads=1,
    sft=SFTConfig(steps=4, batch=4, warmup=1),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(SHORT, tmp_path_factory.mktemp("runs") / "full")


def test_a_run_says_what_it_did(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["recipe"] == "tiny-vlm" and result["seed"] == 0
    assert {"torch", "transformers", "peft"} <= result["versions"].keys()
    assert result["parameters"]["trained"] == result["parameters"]["all"] > 300_000
    assert result["seconds"]["cpu"] > 0
    assert [entry["name"] for entry in result["evaluations"]] == ["before", "after", "after, pictures shuffled"]
    for entry in result["evaluations"]:
        assert entry["count"] == 12 == sum(part["count"] for part in entry["families"].values())
        assert entry["right"] == sum(part["right"] for part in entry["families"].values())
        assert entry["interval"] == pytest.approx(wilson(entry["right"], 12))
        assert list(entry["families"]) == list(result["blind_rate"]) == list(SHORT.families)
    rows = read_metrics(finished / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert [row["iteration"] for row in rows if "eval/exact_match" in row] == [2, 4]
    assert tuning_from_json(finished / "config.json") == SHORT


def test_a_broken_run_ends_as_an_unbroken_one(finished: Path, tmp_path: Path) -> None:
    """Its last checkpoint and what followed it are lost, but not the run."""
    run = tmp_path / "broken"
    for path in finished.rglob("*"):
        if path.is_file() and "model" not in path.relative_to(finished).parts and path.name != "result.json":
            (run / path.relative_to(finished)).parent.mkdir(parents=True, exist_ok=True)
            (run / path.relative_to(finished)).write_bytes(path.read_bytes())
    (run / "checkpoints" / "000004" / "meta.json").unlink()
    assert resume(run) == run
    weights = (folder / "model" / "model.safetensors" for folder in (run, finished))
    assert next(weights).read_bytes() == next(weights).read_bytes()
    losses = [[row["train/loss"] for row in read_metrics(path / "metrics.jsonl")] for path in (run, finished)]
    assert losses[0] == losses[1]
    before = json.loads((run / "result.json").read_text())["evaluations"]
    assert before == json.loads((finished / "result.json").read_text())["evaluations"]
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"questions": 41}))
    with pytest.raises(checkpoint.CheckpointError, match="another recipe"):
        resume(run)


def test_an_adapter_is_trained_on_what_was_learnt(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line, with the options of the README, on the checkpoint of the first run."""
    words = ["train", "tiny-vlm", "--method", "lora", "--base", str(finished / "model"), "--families", "shape"]
    words += ["--steps", "2", "--batch", "4", "--questions", "40", "--held-out", "8", "--threads", "1"]
    run = tmp_path / "lora"
    assert main([*words, "--run", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "pictures shuffled" in shown and "best without eyes" in shown and "25.0 %" in shown
    result = json.loads((run / "result.json").read_text())
    assert result["parameters"]["trained"] < result["parameters"]["all"] / 4
    assert (run / "adapter" / "adapter_model.safetensors").exists() and not (run / "base").exists()
    # A finished run that is resumed is measured again, and comes out the same.
    assert main(["train", "--resume", str(run)]) == 0
    assert json.loads((run / "result.json").read_text())["evaluations"] == result["evaluations"]


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (replace(SHORT, sft=SFTConfig(method="lora")), "first run `palaestra train tiny-vlm"),
        (replace(SHORT, base="nowhere"), "'nowhere', which holds no config.json"),
        (replace(SHORT, sft=SFTConfig(steps=0)), "steps is 0"),
        (replace(SHORT, held_out=0), "held_out is 0"),
        (replace(SHORT, families=()), "families is empty"),
    ],
)
def test_what_cannot_work_is_refused_at_once(recipe: TuningRecipe, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_are_not_mixed_up(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(SHORT, finished)
    assert main(["train", "tiny-vml"]) == 1
    assert "Did you mean 'tiny-vlm'" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "tiny-vlm" in capsys.readouterr().out
