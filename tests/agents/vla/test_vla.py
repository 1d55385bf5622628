"""π_RL's checks that need a vision-language model, on tables: reuse, masks, what is frozen, what is detached."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from palaestra.agents.flow.imitation import ImitationConfig, imitate
from palaestra.agents.flow.pi_rl import PiRL, PiRLConfig
from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.flow.samplers import sample
from palaestra.agents.rollout import Collector
from palaestra.agents.vla.augmentation import AugmentationConfig
from palaestra.agents.vla.backbone import Backbone, Prefix
from palaestra.agents.vla.grounding import GroundingConfig, ground
from palaestra.agents.vla.network import VLANetwork
from palaestra.agents.vla.policy import LONGEST, backbone_checkpoint, vla_policy
from palaestra.agents.vlm.checkpoint import Checkpoint
from palaestra.agents.vlm.tiny import IMAGE, build_tiny_vlm
from palaestra.envs.core import Observation, Worlds
from palaestra.envs.manipulation.tabletop.pointing import PLACES, pointing
from palaestra.envs.manipulation.tabletop.world import demonstrate


def fresh(worlds: Worlds, rank: int = 0) -> tuple[FlowPolicy, VLANetwork]:
    """Return an untrained policy on a tiny backbone, and its network."""
    torch.manual_seed(0)
    policy = vla_policy(worlds.spec, backbone_checkpoint("", 16), horizon=3, steps=3, hidden=32, rank=rank)
    assert isinstance(policy.network, VLANetwork)
    nn.init.normal_(policy.network.noise.layers[-1].weight, std=0.1)
    return policy, policy.network


@pytest.fixture(scope="module")
def shared(worlds: Worlds) -> tuple[FlowPolicy, VLANetwork]:
    """A policy that no test trains."""
    return fresh(worlds)


def backbone_weights(network: VLANetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.backbone.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> set[str]:
    """Return the names of bit-identical tensors."""
    return {name for name in left if torch.equal(left[name], right[name])}


@torch.no_grad()
def test_a_reused_prefix_denoises_as_a_recomputed_one(
    shared: tuple[FlowPolicy, VLANetwork], view: Observation
) -> None:
    """Keys and values computed once give the chain that reading the pictures anew at every step gives."""
    policy, network = shared
    prefix, noise = network.observe(view), policy.noise(4, torch.device("cpu"))
    reused = sample(lambda x, t: network.field(prefix, x, t), noise, 3)
    anew = sample(lambda x, t: network.field(network.observe(view), x, t), noise, 3)
    torch.testing.assert_close(reused.points, anew.points)
    torch.testing.assert_close(reused.features, anew.features)
    assert not torch.equal(reused.points[0], reused.points[1])


@torch.no_grad()
def test_padding_does_not_matter(shared: tuple[FlowPolicy, VLANetwork], view: Observation) -> None:
    """A short instruction beside a long one gives the velocity, noise and critic's input that it gives alone."""
    _, network = shared
    long = "put the red cube on the white plate and then go back to where you were"
    spoken = replace(view, text=("go", long, "a", "b"))
    together, x, t = network.observe(spoken), torch.randn(4, 3, 4), torch.rand(4)
    alone = network.observe(spoken[torch.tensor([0])])
    assert together.real.shape[1] > alone.real.shape[1] and alone.real.all()
    left, right = network.field(together, x, t), network.field(alone, x[:1], t[:1])
    torch.testing.assert_close(left.velocity[:1], right.velocity, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(left.std[:1], right.std, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.summary(together)[:1], network.summary(alone), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.mean(), alone.hidden.mean(1))


@torch.no_grad()
def test_everything_that_is_shown_matters(shared: tuple[FlowPolicy, VLANetwork], view: Observation) -> None:
    """Another picture of either camera, other words, other proprioception: another velocity for the same noise."""
    _, network = shared
    x, t = torch.randn(4, 3, 4), torch.full((4,), 0.5)

    def velocity(shown: Observation) -> Tensor:
        return network.field(network.observe(shown), x, t).velocity

    assert view.state is not None
    before = velocity(view)
    others = [replace(view, images={**view.images, name: 255 - view.images[name]}) for name in view.images]
    others += [replace(view, text=("push the drawer",) * 4), replace(view, state=view.state + 0.5)]
    for other in others:
        assert (velocity(other) - before).abs().amax((1, 2)).min() > 1e-4


@torch.no_grad()
def test_blocks_are_causal(shared: tuple[FlowPolicy, VLANetwork], view: Observation) -> None:
    """The token of proprioception does not see the actions: an expert layer maps it alike whatever they are."""
    _, network = shared
    from palaestra.agents.vla.network import _suffix

    prefix = network.observe(view)
    sees, place = _suffix(prefix.real, 4)
    rotation, hidden = network.backbone.rotation(prefix.hidden, place), torch.randn(4, 4, 32)
    changed = torch.cat([hidden[:, :1], torch.randn(4, 3, 32)], 1)
    layer = network.layers[0]
    first, second = (layer(one, prefix.keys[0], prefix.values[0], sees, rotation) for one in (hidden, changed))
    assert torch.equal(first[:, 0], second[:, 0]) and not torch.equal(first[:, 1], second[:, 1])


def test_a_prefix_repeats_as_tensors_do(shared: tuple[FlowPolicy, VLANetwork], view: Observation) -> None:
    """Every part of it, row by row."""
    _, network = shared
    prefix = network.observe(view)
    twice = prefix.repeat_interleave(2, 0)
    assert isinstance(twice, Prefix) and len(twice) == 8
    assert torch.equal(twice.keys[1], prefix.keys[1].repeat_interleave(2, 0))
    assert torch.equal(network.summary(twice)[::2], network.summary(prefix))


@pytest.mark.parametrize("sampler", ["sde", "noise"])
@pytest.mark.parametrize("critic", ["observation", "expert"])
def test_a_frozen_backbone_stays_bit_identical(worlds: Worlds, sampler: str, critic: str) -> None:
    """π_RL moves the expert, by Flow-SDE and Flow-Noise, with V_vlm and V_expert, and nothing of the backbone."""
    policy, network = fresh(worlds)
    step = worlds.reset(seed=1)
    config = PiRLConfig(
        sampler=sampler, form="joint" if sampler == "noise" else "hybrid", critic=critic, epochs=2, batch=4  # type: ignore[arg-type]
    )
    learner = PiRL(policy, config, step.observation)
    collector = Collector(worlds, lambda step: step.rewards)
    collector.reset(seed=1)
    rollout = collector.collect(learner, 2)
    before, expert = backbone_weights(network), network.leave.weight.clone()
    policy.train()
    learner.learn(rollout)
    assert len(same(before, network.backbone.state_dict())) == len(before)
    assert not torch.equal(expert, network.leave.weight)
    restored = PiRL(fresh(worlds)[0], config, step.observation)
    restored.load_state_dict(learner.state_dict())
    assert torch.equal(restored.network.leave.weight, network.leave.weight)  # type: ignore[attr-defined]


def test_a_settled_prefix_is_read_once_a_rollout(worlds: Worlds) -> None:
    """Kept over all epochs and mini-batches, the prefix gives the weights that reading it each time gives."""
    ends, reads = [], []
    for reuse in (True, False):
        policy, network = fresh(worlds)
        first = worlds.reset(seed=4).observation
        learner = PiRL(policy, PiRLConfig(form="full", epochs=2, batch=4, reuse=reuse), first)
        collector = Collector(worlds, lambda step: step.rewards)
        collector.reset(seed=4)
        rollout = collector.collect(learner, 2)
        calls: list[int] = []
        handle = network.backbone.register_forward_hook(lambda *given, calls=calls: calls.append(1))
        torch.manual_seed(1)
        learner.learn(rollout)
        handle.remove()
        reads.append(len(calls))
        ends.append(network.leave.weight.detach().clone())
    after = 1 + int(rollout.final is not None)  # the values of the views after the last slots, and of ended episodes
    assert reads == [after + 1, after + 1 + 2 * 2]
    torch.testing.assert_close(*ends, atol=1e-6, rtol=1e-5)
    network.backbone.tune("full")
    assert not network.settled
    assert learner._batch(rollout).context is None


def test_a_recomputed_density_is_the_stored_chains_own(worlds: Worlds) -> None:
    """Before any step the ratio is 1: what was played and what is learnt from are the same policy, dropout or not."""
    policy, network = fresh(worlds)
    for layer in network.backbone.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    view = worlds.reset(seed=2).observation
    learner = PiRL(policy, PiRLConfig(form="full", actor_rate=0.0, epochs=2), view)
    policy.train()
    assert not network.backbone.training and not network.backbone.model.training
    collector = Collector(worlds, lambda step: step.rewards)
    collector.reset(seed=2)
    metrics = learner.learn(collector.collect(learner, 2))
    assert metrics["train/clip_fraction"] == 0 and metrics["train/approximate_kl"] < 1e-6


@pytest.mark.parametrize("critic", ["observation", "expert"])
@pytest.mark.parametrize("detach", [True, False])
def test_a_detached_critic_leaves_the_network_alone(worlds: Worlds, critic: str, detach: bool) -> None:
    """Its gradient reaches what it reads, the backbone or the expert, only where that is asked for."""
    policy, network = fresh(worlds)
    network.backbone.tune("full")
    view = worlds.reset(seed=3).observation
    learner = PiRL(policy, PiRLConfig(critic=critic, detach_critic=detach), view)  # type: ignore[arg-type]
    prefix = network.observe(view)
    features = network.field(prefix, torch.randn(4, 3, 4), torch.ones(4)).features[:, None]
    learner._value(prefix, features).sum().backward()
    reached = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert bool(reached) != detach
    assert all(weight.grad is not None for weight in learner.critic.parameters())
    assert detach or any("backbone" in name for name in reached)
    assert ("layers.0.query.weight" in reached) == (critic == "expert" and not detach)


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_imitation_trains_what_it_is_told_to(worlds: Worlds, tuning: str) -> None:
    """Nothing of the backbone, its adapters alone, or all of it; the loss falls, and normalisers are fitted."""
    policy, network = fresh(worlds, rank=2 if tuning == "lora" else 0)
    network.backbone.tune(tuning)  # type: ignore[arg-type]
    before = backbone_weights(network)
    episodes = demonstrate(2, seed=5, pixels=32)
    losses = [
        metrics["train/imitation_loss"]
        for metrics in imitate(policy, episodes, ImitationConfig(steps=40, batch=16, learning_rate=3e-3))
    ]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert not torch.equal(network.normaliser.std, torch.ones(5))
    moved = before.keys() - same(before, network.backbone.state_dict())
    if tuning == "frozen":
        assert not moved
    elif tuning == "lora":
        assert moved and all("lora_" in name for name in moved)
    else:
        assert any("vision_tower" in name for name in moved) and any("language_model" in name for name in moved)


def test_an_instruction_is_never_a_special_token(shared: tuple[FlowPolicy, VLANetwork], view: Observation) -> None:
    """Text from a world that spells a special token stays text."""
    backbone = shared[1].backbone
    ids, _ = backbone._words((f"take {IMAGE}",), torch.device("cpu"))
    assert backbone._tokenizer.convert_tokens_to_ids(IMAGE) not in ids[0].tolist() and ids.shape[1] > 2


def test_bad_observations_are_named(shared: tuple[FlowPolicy, VLANetwork], view: Observation) -> None:
    """A camera too few, a picture of another size or dtype, no or too much to say, other proprioception."""
    _, network = shared
    side, state = view.images["side"], view.state
    assert state is not None
    wrong = [
        (replace(view, images={"side": side}), r"shows \['side'\]; the policy sees \['overhead', 'side'\]"),
        (replace(view, images={**view.images, "side": side[:, :16]}), r"camera 'side' shows \(16, 32, 3\)"),
        (replace(view, images={**view.images, "side": side.float()}), "of torch.float32"),
        (replace(view, text=("", "a", "b", "c")), "instruction '' has 0 tokens"),
        (replace(view, text=("word " * 100, "a", "b", "c")), f"a policy follows 1 to {LONGEST}"),
        (replace(view, text=()), "no instructions"),
        (replace(view, state=state[:, :3]), "reads 5 numbers.*holds 3"),
    ]
    for observation, message in wrong:
        with pytest.raises(ValueError, match=message):
            network.observe(observation)


def test_what_cannot_be_built_is_refused(worlds: Worlds) -> None:
    checkpoint = backbone_checkpoint("", 16)
    with pytest.raises(ValueError, match="the backbone has 3"):
        vla_policy(worlds.spec, checkpoint, horizon=3, layers=9)
    with pytest.raises(ValueError, match="needs both"):
        vla_policy(replace(worlds.spec, images={}), checkpoint, horizon=3)
    with pytest.raises(ValueError, match="made without adapters"):
        vla_policy(worlds.spec, checkpoint, horizon=3).network.backbone.tune("lora")  # type: ignore[attr-defined]


def test_a_backbone_comes_from_a_folder(worlds: Worlds, view: Observation, tmp_path: Path) -> None:
    """What `save_pretrained` wrote is what is seen with; a model that is built otherwise is refused by name."""
    folder = build_tiny_vlm(tmp_path / "tiny", seed=5, image_size=16, width=32)
    read = backbone_checkpoint(str(folder), 99)
    with torch.no_grad():
        prefix = Backbone(read, worlds.spec.images, LONGEST)(view, torch.zeros(4, 0))
        other = Backbone(backbone_checkpoint("", 16, 32), worlds.spec.images, LONGEST)(view, torch.zeros(4, 0))
    assert prefix.hidden.shape[2] == 32 and not torch.allclose(prefix.mean(), other.mean(), atol=1e-2)
    blind = Checkpoint(SimpleNamespace(model=SimpleNamespace(text_model=0, vision_tower=0)), read.processor)
    with pytest.raises(ValueError, match="a SimpleNamespace, which has no language_model: take one that is built like"):
        Backbone(blind, worlds.spec.images, LONGEST)
    with pytest.raises(ValueError, match="needs eyes"):
        Backbone(read, {}, LONGEST)


def test_pointing_is_learnt(worlds: Worlds) -> None:
    """Another picture's places are found, far better than by always saying the middle; otherwise lit ones too."""
    torch.manual_seed(0)
    backbone = Backbone(backbone_checkpoint("", 32, 32), worlds.spec.images, LONGEST, points=PLACES)
    lessons = pointing(32, seed=3, pixels=32, objects=1, receptacles=1, kinds=1, scenes=1)
    backbone.fit(next(lessons)[0].images)
    backbone.tune("full")
    light = AugmentationConfig(brightness=0.2)
    config = GroundingConfig(steps=100, batch=32, learning_rate=4e-3)
    errors = [metrics["train/pointing_error"] for metrics in ground(backbone, lessons, config, light)]
    view, places = next(pointing(64, seed=4, pixels=32, objects=1, receptacles=1, kinds=1, scenes=1))
    with torch.no_grad():
        found = backbone(light(view), torch.zeros(64, 0)).points().unflatten(1, (2, 2))
    error, spread = (found - places).square().mean().sqrt(), places.std(0).square().mean().sqrt()
    assert len(errors) == 100 and error < 0.6 * spread, (error, spread)


def test_colours_are_taken_from_pictures(worlds: Worlds) -> None:
    """Red half dark and half bright, green and blue always 51: means of .5, .2 and .2, and a guarded spread."""
    backbone = fresh(worlds)[1].backbone
    picture = torch.full((2, 4, 4, 3), 51, dtype=torch.uint8)
    picture[0, ..., 0], picture[1, ..., 0] = 0, 255
    backbone.fit({"overhead": picture})
    torch.testing.assert_close(backbone._mean.flatten(), torch.tensor([0.5, 0.2, 0.2]))
    spread = torch.tensor([0.5 * (32 / 31) ** 0.5, 1 / 255, 1 / 255])
    torch.testing.assert_close(backbone._std.flatten(), spread)
    assert "_mean" in backbone.state_dict()
