"""A recipe on a policy of LeRobot's kind: trained, evaluated, restored, exported, and looked at."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palaestra.agents.flow.imitation import ImitationConfig
from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.agents.vla.grounding import GroundingConfig
from palaestra.agents.vla.lerobot.checkpoint import policy_spec, write_policy
from palaestra.launch.cli import main
from palaestra.launch.config import DemonstrationConfig, VLAConfig, VLARecipe, WorldConfig
from palaestra.launch.inspect import inspect
from palaestra.launch.train import make_policy, make_worlds, train

RECIPE = VLARecipe(
    world=WorldConfig(id="tabletop/pick-place-v0", count=4, chunk=2, options={"pixels": 32}),
    policy=VLAConfig(horizon=3, steps=2, base="smolvla"),
    grounding=GroundingConfig(steps=0),
    demonstrations=DemonstrationConfig(episodes=2),
    imitation=ImitationConfig(steps=4, batch=8),
    pi_rl=PiRLConfig(epochs=1, batch=8),
    iterations=1,
    decisions=2,
    every=1,
    episodes=4,
    final_episodes=4,
    videos=0,
)


def test_a_run_and_the_run_that_goes_on_from_its_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained from nothing, exported to LeRobot's format, and fine-tuned from there by adapters, which are merged."""
    run = train(RECIPE, tmp_path / "first")
    assert json.loads((run / "result.json").read_text())["evaluations"]
    assert main(["export", str(run), "--to", str(tmp_path / "lerobot")]) == 0
    assert "lerobot" in capsys.readouterr().out
    spec = policy_spec(tmp_path / "lerobot")
    assert spec.images == {"overhead": (32, 32, 3), "side": (32, 32, 3)} and spec.chunk == 2
    found = inspect(run)
    assert [finding.state for finding in found] == ["ok"] * 3 and "a run of palaestra" in found[0].found
    base = str(tmp_path / "lerobot")
    policy = replace(RECIPE.policy, base=base, steps=3, imitation="frozen", reinforcement="lora", rank=2)
    again = train(replace(RECIPE, policy=policy), tmp_path / "second")
    assert main(["export", str(again), "--to", str(tmp_path / "adapted")]) == 0
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("lerobot", "adapted"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    language = "model.vlm_with_expert.vlm.model.text_model.layers."
    assert any(name.startswith(language) for name in moved) and not any("vision_model" in name for name in moved)


def test_worlds_that_the_policy_was_not_made_for(tmp_path: Path) -> None:
    worlds = make_worlds(RECIPE, 1)
    worlds.close()
    folder = write_policy(make_policy(RECIPE, worlds.spec), tmp_path / "policy")  # type: ignore[arg-type]
    policy = replace(RECIPE.policy, base=str(folder))
    other = replace(RECIPE, policy=policy, world=replace(RECIPE.world, options={"pixels": 48}))
    with pytest.raises(ValueError, match=r"sees cameras .* Choose options of the world that agree"):
        train(other, tmp_path / "run")
    with pytest.raises(ValueError, match=r"was not made to point: take --policy.head flow --grounding.steps 0"):
        train(replace(RECIPE, grounding=GroundingConfig(steps=5)), tmp_path / "pointing")
