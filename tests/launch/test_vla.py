"""A vision-language-action policy from demonstrations to reinforcement, end to end and small."""

from dataclasses import replace
from pathlib import Path

import torch

from palaestra.agents.flow.imitation import ImitationConfig
from palaestra.launch import checkpoint
from palaestra.launch.config import DemonstrationConfig, VLARecipe, from_json
from palaestra.launch.recipes import VLA_TABLETOP
from palaestra.launch.train import load_policy, make_policy, make_worlds, train

SMALL = replace(
    VLA_TABLETOP,
    world=replace(VLA_TABLETOP.world, count=4, options=VLA_TABLETOP.world.options | {"pixels": 32}),
    policy=replace(VLA_TABLETOP.policy, image_size=16, hidden=32),
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
