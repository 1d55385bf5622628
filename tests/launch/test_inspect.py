"""`palaestra doctor checkpoint`: each kind of folder is told and loaded, and what is wrong is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from palaestra.agents.vla.lerobot.checkpoint import write_policy
from palaestra.agents.vla.lerobot.fresh import TINY, fresh_policy
from palaestra.agents.vlm.tiny import CORPUS, build_tiny_vlm, train_tokenizer
from palaestra.agents.vlm.tiny_clip import build_tiny_clip
from palaestra.envs.registry import make
from palaestra.launch import checkpoint
from palaestra.launch.cli import main
from palaestra.launch.doctor import Finding
from palaestra.launch.inspect import inspect


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SmolVLA as LeRobot would write it."""
    worlds = make("tabletop/pick-place-v0", 1, chunk=2, pixels=32)
    tokenizer = train_tokenizer(CORPUS, 640, 2048)
    made = fresh_policy("smolvla", worlds.spec, TINY["smolvla"], tokenizer, horizon=3)
    worlds.close()
    return write_policy(made, tmp_path_factory.mktemp("lerobot") / "smolvla")


def found(path: Path) -> dict[str, Finding]:
    """Return findings by name."""
    return {finding.name: finding for finding in inspect(path)}


def test_a_policy_of_lerobot(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is described and loads; a tensor that is missing, and statistics of another width, are named."""
    findings = found(policy)
    assert "a policy of LeRobot, smolvla" in findings["folder"].found
    assert findings["sees"].found == "overhead 32×32, side 32×32; 5 numbers of proprioception, by MEAN_STD"
    assert findings["does"].found == "4 numbers, by MEAN_STD, 2 of 3 played, 10 denoising steps"
    assert findings["loads"].state == "ok" and "parameters" in findings["loads"].found
    assert main(["doctor", "checkpoint", str(policy)]) == 0
    assert "smolvla" in capsys.readouterr().out
    (tmp_path / "bad").mkdir()
    for file in policy.iterdir():
        (tmp_path / "bad" / file.name).write_bytes(file.read_bytes())
    weights = load_file(policy / "model.safetensors")
    weights.pop("model.state_proj.bias")
    save_file(weights, tmp_path / "bad" / "model.safetensors")
    broken = found(tmp_path / "bad")["loads"]
    assert broken.state == "missing" and "missing model.state_proj.bias [64]" in broken.found
    assert main(["doctor", "checkpoint", str(tmp_path / "bad")]) == 1
    name = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    other = "policy_preprocessor_step_5_normalizer_processor.safetensors"
    for file in (name, other):
        save_file({**load_file(policy / file), "action.std": torch.ones(9)}, tmp_path / "bad" / file)
    assert "std has shape [9]; the policy's is [4]" in found(tmp_path / "bad")["loads"].found


def test_models_of_other_libraries(tmp_path: Path) -> None:
    vlm = found(build_tiny_vlm(tmp_path / "vlm"))
    assert "a model of transformers, llava" in vlm["folder"].found and vlm["loads"].state == "ok"
    assert "it sees pictures" in vlm["reads"].found
    clip = found(build_tiny_clip(tmp_path / "clip"))
    assert "open_clip" in clip["folder"].found and clip["loads"].state == "ok"
    weights = load_file(tmp_path / "vlm" / "model.safetensors")
    gone = next(name for name in weights if "vision" in name)
    weights.pop(gone)
    save_file(weights, tmp_path / "vlm" / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 of the model's weights" in found(tmp_path / "vlm")["loads"].found
    (tmp_path / "vlm" / "tokenizer.json").unlink()
    (tmp_path / "vlm" / "tokenizer_config.json").unlink()
    assert found(tmp_path / "vlm")["tokenizer"].state == "missing"


def test_our_own_checkpoints(tmp_path: Path) -> None:
    """A checkpoint without its run is whole, and more cannot be said; an altered one is not."""
    folder = checkpoint.save(tmp_path / "run" / "checkpoints" / "000001", {"a": torch.ones(3)}, {})
    lone = found(folder)["loads"]
    assert lone.state == "warn" and lone.found == "1 tensors, whole and unaltered"
    (folder / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes() + b" ")
    assert "cut off" in found(folder)["loads"].found
    assert found(tmp_path / "run")["loads"].state == "missing"


def test_folders_that_hold_nothing_of_ours(tmp_path: Path) -> None:
    assert "it is empty" in found(tmp_path)["folder"].found
    (tmp_path / "config.json").write_text(json.dumps({"type": "act"}))
    act = found(tmp_path)["folder"]
    assert act.state == "missing" and "type 'act'; read are pi0, pi05, smolvla" in act.found
    (tmp_path / "config.json").write_text(json.dumps({"hidden": 3}))
    assert "neither LeRobot nor transformers" in found(tmp_path)["folder"].found
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    assert "it changes some/base" in found(tmp_path)["loads"].found
    assert main(["doctor", "checkpoint", str(tmp_path / "none")]) == 1
    assert main(["doctor", "checkpont"]) == 2
