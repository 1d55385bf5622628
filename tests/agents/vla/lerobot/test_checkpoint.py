"""LeRobot's folders: written back as they were read, and refused by name where they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.vla.lerobot.checkpoint import open_folder, policy_spec, read_policy, write_policy
from palaestra.agents.vla.lerobot.format import FormatError
from palaestra.envs.core import Observation

Make = Callable[[str, Path], dict[str, Any]]
NORMALISER = "policy_preprocessor_step_5_normalizer_processor.safetensors"
UNNORMALISER = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"


@pytest.mark.parametrize("kind", ["smolvla", "pi0", "pi05"])
def test_a_round_trip(
    kind: str, policies: dict[str, FlowPolicy], folders: dict[str, Path], tmp_path: Path, view: Observation
) -> None:
    """Documents, tensors and statistics come back bit for bit, and LeRobot's file has the names that LeRobot gave."""
    written = write_policy(policies[kind], tmp_path / "again")
    for path in sorted(folders[kind].iterdir()):
        if path.name in ("config.json", "policy_preprocessor.json", "policy_postprocessor.json"):
            assert json.loads((written / path.name).read_text()) == json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            before, after = load_file(path), load_file(written / path.name)
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before)
    torch.manual_seed(0)
    first = policies[kind].act(view).action
    torch.manual_seed(0)
    assert torch.equal(first, read_policy(written).act(view).action)  # type: ignore[arg-type]
    with pytest.raises(FileExistsError, match="choose a new folder"):
        write_policy(policies[kind], written)


def test_fitted_statistics_travel(folders: dict[str, Path], tmp_path: Path) -> None:
    """What imitation fitted is in the file, beside the statistics that nobody touched."""
    policy = read_policy(folders["pi05"])
    samples = torch.randn(400, 3) * torch.tensor([1.0, 2.0, 0.0])
    policy.scale.fit(samples)
    written = write_policy(policy, tmp_path / "fitted")
    found = load_file(written / UNNORMALISER)
    torch.testing.assert_close(found["action.q01"][:2], samples[:, :2].quantile(0.01, 0))
    assert found["action.q99"][2] - found["action.q01"][2] == 1  # an idle joint is not blown up
    assert torch.equal(found["action.mean"], load_file(folders["pi05"] / UNNORMALISER)["action.mean"])
    assert torch.equal(read_policy(written).scale.q99, policy.scale.q99)


def test_either_name_of_a_tied_tensor(folders: dict[str, Path], made: Make, tmp_path: Path) -> None:
    """LeRobot saves the vocabulary's head or the embedding, which are one; both are taken where they agree."""
    made("pi0", tmp_path / "pi0")
    path = tmp_path / "pi0" / "model.safetensors"
    tensors = load_file(path)
    head = "model.paligemma_with_expert.paligemma.lm_head.weight"
    embedding = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    save_file({**tensors, embedding: tensors[head].clone()}, path)
    read_policy(tmp_path / "pi0")
    save_file({**tensors, embedding: tensors[head] + 1}, path)
    with pytest.raises(FormatError, match="are one tensor"):
        read_policy(tmp_path / "pi0")


def test_cameras_that_are_renamed_or_empty(made: Make, tmp_path: Path, view: Observation) -> None:
    """A name of the world's own leads to the policy's camera; a camera declared empty is none that worlds must show."""
    made("pi0", tmp_path / "pi0")
    before = tmp_path / "pi0" / "policy_preprocessor.json"
    document = json.loads(before.read_text())
    document["steps"][0]["config"]["rename_map"] = {"observation.images.front": "observation.images.base"}
    before.write_text(json.dumps(document))
    config = tmp_path / "pi0" / "config.json"
    document = json.loads(config.read_text())
    wrist = document["input_features"].pop("observation.images.wrist")
    document["input_features"]["observation.images.empty_camera_0"] = wrist
    config.write_text(json.dumps(document))
    policy = read_policy(tmp_path / "pi0")
    seen = Observation({"front": view.images["base"]}, view.state, view.text)
    assert policy.network.cameras == {"front": (20, 28, 3)} and policy.act(seen).action.shape == (2, 4, 3)  # type: ignore[attr-defined, union-attr]
    assert "front" in policy_spec(tmp_path / "pi0").images


ONE = "model.vlm_with_expert.lm_expert.layers.1.self_attn.k_proj.weight"
TOLD = "model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(ONE), rf"missing {ONE} \[128, 128\]"),
        (lambda t: t.pop(TOLD), f"lacks {TOLD}, which tells a size"),
        (lambda t: t.update(surplus=torch.zeros(2)), r"extra surplus \[2\]"),
        (lambda t: t.update({ONE: torch.zeros(64, 128)}), rf"reshaped {ONE} \[64, 128\] instead of \[128, 128\]"),
        (lambda t: t.update({"normalize_inputs.a": torch.zeros(2)}), "migrate_policy_normalization"),
        (lambda t: t.update({"model.a.lora_A": torch.zeros(2)}), "merge_and_unload"),
        (lambda t: t[ONE].fill_(torch.nan), rf"not finite, such as {ONE}"),
    ],
)
def test_tensors_that_do_not_fit(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, made: Make, tmp_path: Path
) -> None:
    made("smolvla", tmp_path / "bad")
    path = tmp_path / "bad" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(FormatError, match=message):
        read_policy(tmp_path / "bad")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (NORMALISER, lambda t: t.update({"action.std": torch.ones(7)}), r"action: std has shape \[7\].*is \[3\]"),
        (NORMALISER, lambda t: t.update({"observation.state.mean": torch.ones(2)}), r"observation.state: mean.*\[2\]"),
        (NORMALISER, lambda t: t.pop("observation.state.std"), "std is missing, which MEAN_STD needs"),
        (NORMALISER, lambda t: t["action.mean"].fill_(torch.nan), "mean holds NaN"),
        (UNNORMALISER, lambda t: t["action.mean"].add_(1), "action.mean of the policy_postprocessor is not that"),
    ],
)
def test_statistics_that_do_not_fit(
    file: str, change: Callable[[dict[str, torch.Tensor]], Any], message: str, made: Make, tmp_path: Path
) -> None:
    made("smolvla", tmp_path / "bad")
    tensors = load_file(tmp_path / "bad" / file)
    change(tensors)
    save_file(tensors, tmp_path / "bad" / file)
    with pytest.raises(FormatError, match=message):
        open_folder(tmp_path / "bad")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda d: d.update(type="act"), "type 'act'; read are pi0, pi05, smolvla"),
        ("config.json", lambda d: d.update(chunk_sise=4), "no entry 'chunk_sise'; did you mean 'chunk_size'"),
        ("config.json", lambda d: d.update(adapt_to_pi_aloha=True), "adapt_to_pi_aloha is True; built here is False"),
        ("config.json", lambda d: d.update(n_action_steps=99), "n_action_steps is 99; it is 1 to chunk_size, 6"),
        ("config.json", lambda d: d.update(num_expert_layers=2), "num_expert_layers is 2"),
        ("config.json", lambda d: d["input_features"].pop("observation.state"), "lacks observation.state"),
        (
            "config.json",
            lambda d: d["output_features"]["action"].update(shape=[9]),
            "action is 9 wide; the policy takes 1 to 8",
        ),
        ("policy_preprocessor.json", lambda d: d["steps"].pop(2), "holds the steps rename_observations_processor"),
        ("policy_postprocessor.json", lambda d: d["steps"][0].pop("state_file"), "raw actions would reach the robot"),
        (
            "policy_postprocessor.json",
            lambda d: d["steps"][0]["config"]["norm_map"].update(ACTION="MIN_MAX"),
            "normalises by",
        ),
    ],
)
def test_documents_that_do_not_fit(
    file: str, change: Callable[[dict[str, Any]], Any], message: str, made: Make, tmp_path: Path
) -> None:
    made("smolvla", tmp_path / "bad")
    path = tmp_path / "bad" / file
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FormatError, match=message):
        open_folder(tmp_path / "bad")


def test_files_that_are_not_there(made: Make, tmp_path: Path) -> None:
    made("smolvla", tmp_path / "bad")
    (tmp_path / "bad" / "tokenizer.json").unlink()
    (tmp_path / "bad" / "tokenizer_config.json").unlink()
    with pytest.raises(FormatError, match=r"give tokenizer=FOLDER"):
        read_policy(tmp_path / "bad")
    whole = (tmp_path / "bad" / "model.safetensors").read_bytes()
    (tmp_path / "bad" / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(FormatError, match="was the file cut off"):
        open_folder(tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"has no model.safetensors"):
        open_folder(tmp_path / "bad")
    with pytest.raises(FormatError, match=r"has no config.json"):
        open_folder(tmp_path)
