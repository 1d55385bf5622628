"""A vision-language-action policy from demonstrations to reinforcement, end to end and small."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palaestra.agents.flow.imitation import ImitationConfig, windows
from palaestra.agents.vla.grounding import GroundingConfig
from palaestra.envs import lerobot
from palaestra.envs.manipulation.tabletop.world import demonstrate
from palaestra.launch import checkpoint
from palaestra.launch.config import DemonstrationConfig, VLARecipe, from_json
from palaestra.launch.held_out import held_out
from palaestra.launch.recipes import VLA_TABLETOP
from palaestra.launch.train import load_policy, make_policy, make_worlds, train

SMALL = replace(
    VLA_TABLETOP,
    world=replace(VLA_TABLETOP.world, count=4, options=VLA_TABLETOP.world.options | {"pixels": 32}),
    policy=replace(VLA_TABLETOP.policy, image_size=16, hidden=32, width=32, imitation="full"),
    grounding=GroundingConfig(),
    demonstrations=DemonstrationConfig(episodes=4),
    imitation=ImitationConfig(steps=3, batch=4),
    iterations=1,
    decisions=2,
    episodes=4,
    final_episodes=4,
    videos=0,
)


def test_imitation_trains_the_backbone_and_reinforcement_does_not(tmp_path: Path) -> None:
    """The checkpoints tell: before against untrained, and after against before; and the policy comes back whole."""
    run = train(SMALL, tmp_path / "run")
    recipe = from_json(run / "config.json")
    assert recipe == SMALL and isinstance(recipe, VLARecipe)
    worlds = make_worlds(recipe, 2)
    fresh = make_policy(recipe, worlds.spec).state_dict()
    untrained = {f"learner.policy.{name}": value for name, value in fresh.items()}
    before, after = (checkpoint.load(run / "checkpoints" / name)[0] for name in ("000000", "000001"))
    backbone = [name for name in untrained if ".backbone." in name]
    assert len(backbone) > 50
    assert any(not torch.equal(untrained[name], before[name]) for name in backbone)
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    assert not torch.equal(before["learner.policy.network.leave.weight"], after["learner.policy.network.leave.weight"])
    policy = load_policy(run, recipe, worlds.spec)
    assert policy.act(worlds.reset(seed=0).observation).action.shape == (2, 4, 4)  # type: ignore[union-attr]
    worlds.close()


def test_tokens_are_a_head_of_the_same_recipe(tmp_path: Path) -> None:
    """Imitated by cross-entropy, reinforced by PPO and by GRPO, saved, restored, evaluated on every split."""
    policy = replace(SMALL.policy, head="tokens", bins=16, reinforcement="full")
    run = train(replace(SMALL, policy=policy), tmp_path / "ppo")
    before, after = (checkpoint.load(run / "checkpoints" / name)[0] for name in ("000000", "000001"))
    name = "learner.policy.network.codes.weight"
    assert before[name].shape == (16, 32) and not torch.equal(before[name], after[name])
    recipe = from_json(run / "config.json")
    assert isinstance(recipe, VLARecipe)
    names = [evaluation.name for evaluation in held_out(run, recipe, 4)]
    assert len(names) == 2 * (4 + 2) and {"before, train", "after, wording", "after, other words"} <= {*names}
    assert "before, object" not in names  # a drawer has no objects to hold out
    written = json.loads((run / "held_out.json").read_text())
    assert [entry["name"] for entry in written["evaluations"]] == names
    grpo = replace(SMALL.pi_rl, advantage="group", group=2, keep=(-9.0, 9.0))
    train(replace(SMALL, policy=policy, pi_rl=grpo), tmp_path / "grpo")


def test_a_grounded_backbone_is_kept_for_the_next_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taught once and frozen from then on, it is bit for bit the same in a run of another seed, which teaches none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = replace(
        SMALL,
        policy=replace(SMALL.policy, imitation="frozen"),
        grounding=GroundingConfig(steps=4, batch=8),
        imitation=ImitationConfig(steps=3, batch=4, reuse=True),
    )
    runs = [train(replace(recipe, seed=seed), tmp_path / str(seed)) for seed in (0, 1)]
    (kept,) = (tmp_path / "cache").rglob("*.safetensors")
    first, second = (checkpoint.load(run / "checkpoints" / "000001")[0] for run in runs)
    taught = load_file(kept)
    assert any("vision_tower" in name for name in taught)
    for name, value in taught.items():
        key = f"learner.policy.network.backbone.{name}"
        assert torch.equal(first[key], value) and torch.equal(second[key], value)
    rows = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert "train/pointing_error" in rows[0]
    adapted = train(replace(recipe, policy=replace(recipe.policy, reinforcement="lora")), tmp_path / "adapted")
    assert [*(tmp_path / "cache").rglob("*.safetensors")] == [kept], "taught without adapters, which come later"
    third = checkpoint.load(adapted / "checkpoints" / "000001")[0]
    key = "learner.policy.network.backbone.model.language_model.layers.0.self_attn.q_proj"
    assert torch.equal(third[f"{key}.base_layer.weight"], first[f"{key}.weight"])
    assert third[f"{key}.lora_B.default.weight"].any()


def test_a_lerobot_dataset_is_what_is_imitated(tmp_path: Path) -> None:
    """Written as LeRobot would, and named in place of the expert; one that lacks a camera is refused by name."""
    pytest.importorskip("pyarrow")
    episodes = demonstrate(2, seed=0, task="drawer", **SMALL.world.options)
    data = lerobot.write(tmp_path / "data", episodes, fps=10)
    recipe = replace(SMALL, demonstrations=DemonstrationConfig(source=str(data), episodes=2))
    run = train(recipe, tmp_path / "run")
    saved = checkpoint.load(run / "checkpoints" / "000000")[0]
    shown = windows(episodes, SMALL.policy.horizon)
    mean = shown.action[shown.mask].mean(0)
    torch.testing.assert_close(saved["learner.policy.scale.mean"], mean, atol=1e-5, rtol=1e-5)
    blind = [replace(episode, images={"side": episode.images["side"]}) for episode in episodes]
    lacking = DemonstrationConfig(source=str(lerobot.write(tmp_path / "blind", blind, fps=10)), episodes=2)
    with pytest.raises(ValueError, match=r"shows \['side'\]; the policy sees \['overhead', 'side'\]"):
        train(replace(recipe, demonstrations=lacking), tmp_path / "other")


def test_only_tables_point(tmp_path: Path) -> None:
    recipe = replace(SMALL, grounding=GroundingConfig(steps=1), world=replace(SMALL.world, id="toy/reach-v0"))
    with pytest.raises(ValueError, match=r"grounding\.steps 0"):
        train(recipe, tmp_path / "run")
