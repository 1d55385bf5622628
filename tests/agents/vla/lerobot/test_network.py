"""π_RL and imitation on π0, π0.5 and SmolVLA: nothing but the seam is known of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from palaestra.agents.flow.imitation import ImitationConfig, imitate
from palaestra.agents.flow.pi_rl import PiRL, PiRLConfig
from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.rollout import Collector
from palaestra.agents.vla.lerobot.checkpoint import read_policy, write_policy
from palaestra.agents.vla.lerobot.expert import Norm, time_embedding
from palaestra.agents.vla.lerobot.format import Kind
from palaestra.agents.vla.lerobot.fresh import TINY, fresh_policy
from palaestra.agents.vla.lerobot.network import LeRobotNetwork
from palaestra.agents.vla.lerobot.pictures import fitted
from palaestra.agents.vla.lerobot.words import binned, prompt
from palaestra.agents.vlm.tiny import CORPUS, train_tokenizer
from palaestra.envs.core import Observation, Worlds

KINDS: tuple[Kind, ...] = ("smolvla", "pi0", "pi05")


def fresh(kind: Kind, worlds: Worlds, rank: int = 0) -> tuple[FlowPolicy, LeRobotNetwork]:
    """Return an untrained tiny policy for the tables."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CORPUS, 640, 2048)
    policy = fresh_policy(kind, worlds.spec, TINY[kind], tokenizer, horizon=3, steps=3, wide=8, rank=rank)
    assert isinstance(policy.network, LeRobotNetwork)
    return policy, policy.network


def weights(network: LeRobotNetwork) -> dict[str, Tensor]:
    """Return a copy of all weights."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["sde", "noise"])
def test_reinforcement(kind: Kind, sampler: str, worlds: Worlds) -> None:
    """Flow-SDE with V_vlm, Flow-Noise with V_expert: ratios start at 1, the expert moves, the backbone does not."""
    policy, network = fresh(kind, worlds)
    step = worlds.reset(seed=1)
    form, critic = ("joint", "expert") if sampler == "noise" else ("hybrid", "observation")
    options = {"sampler": sampler, "form": form, "critic": critic, "batch": 4}
    collector = Collector(worlds, lambda step: step.rewards)
    collector.reset(seed=1)
    still = PiRL(policy, PiRLConfig(**options, actor_rate=0.0, epochs=1), step.observation)  # type: ignore[arg-type]
    rollout = collector.collect(still, 2)
    first = still.learn(rollout)
    assert first["train/clip_fraction"] == 0 and first["train/approximate_kl"] < 1e-6
    before = weights(network)
    PiRL(policy, PiRLConfig(**options, epochs=1), step.observation).learn(rollout)  # type: ignore[arg-type]
    moved = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert not any(name.startswith("backbone.") for name in moved)
    assert any(name.startswith("expert.layers.") for name in moved) and "action_out_proj.weight" in moved
    assert network.settled


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_played_counts(kind: Kind, worlds: Worlds) -> None:
    """The density of a chain does not depend on the padding behind the action's numbers, or on what is not played."""
    policy, _ = fresh(kind, worlds)
    view = worlds.reset(seed=2).observation
    learner = PiRL(policy, PiRLConfig(form="full"), view)
    entries = torch.zeros(1, 1, 3, 8)
    entries[..., 4:] = 1
    entries[:, :, 2:] = 1
    assert learner._shown(entries).shape == (1, 1, 2, 4) and not learner._shown(entries).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_imitation_and_export(kind: Kind, tuning: str, worlds: Worlds, tmp_path: Path) -> None:
    """The loss falls, what is frozen stays, and the written folder decides as the trained policy does."""
    from palaestra.envs.manipulation.tabletop.world import demonstrate

    policy, network = fresh(kind, worlds, rank=2 if tuning == "lora" else 0)
    network.tune(tuning)  # type: ignore[arg-type]
    before = weights(network)
    config = ImitationConfig(steps=24, batch=8, learning_rate=3e-3)
    losses = [metrics["train/imitation_loss"] for metrics in imitate(policy, demonstrate(1, seed=5, pixels=32), config)]
    assert sum(losses[-8:]) < 0.95 * sum(losses[:8])
    moved = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    deep = {name for name in moved if name.startswith("backbone.")}
    assert bool(deep) == (tuning != "frozen") and network.settled == (tuning == "frozen")
    assert tuning != "lora" or all(".lora_" in name for name in deep)
    assert ("state_proj.weight" in moved) == (kind == "pi0" or (kind == "smolvla" and tuning != "frozen"))
    spec = worlds.spec
    read = read_policy(write_policy(policy, tmp_path / "policy"), low=spec.action.low, high=spec.action.high)  # type: ignore[union-attr]
    view = worlds.reset(seed=3).observation
    torch.manual_seed(0)
    first = policy.act(view).action
    torch.manual_seed(0)
    # Merged adapters add up in another order than beside the weights.
    tolerance = 1e-5 if tuning == "lora" else 0.0
    torch.testing.assert_close(read.act(view).action, first, atol=tolerance, rtol=0)
    assert not any("lora" in name for name in read.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padding_does_not_matter(kind: str, policies: dict[str, FlowPolicy], view: Observation) -> None:
    """A short instruction beside a long one gives the velocity and the critic's input that it gives alone."""
    network = policies[kind].network
    together, alone = network.observe(view), network.observe(view[torch.tensor([1])])
    assert not together.real.all() and alone.real.all()
    x, t = torch.randn(2, 6, 8), torch.rand(2)
    left, right = network.field(together, x, t), network.field(alone, x[1:], t[1:])
    torch.testing.assert_close(left.velocity[1:], right.velocity, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.summary(together)[1:], network.summary(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollout_is_read_in_pieces(
    kind: Kind, policies: dict[str, FlowPolicy], view: Observation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five views in pieces of two give the prefix that they give at once, and none of it needs a gradient."""
    network, five = policies[kind].network, view[torch.tensor([0, 1, 1, 0, 1])]
    whole = network.observe(five)
    monkeypatch.setattr("palaestra.agents.vla.lerobot.network.PIECE", 2)
    pieces = network.observe(five)
    for left, right in zip((*whole.keys, *whole.values), (*pieces.keys, *pieces.values), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
        assert not right.requires_grad
    assert torch.equal(whole.real, pieces.real) and torch.equal(whole.state, pieces.state)
    torch.testing.assert_close(network.summary(whole), network.summary(pieces), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_checkpointing_changes_nothing_but_memory(worlds: Worlds) -> None:
    """Layers that are computed again give the same gradient."""
    _, network = fresh("pi05", worlds)
    prefix, x, t = network.observe(worlds.reset(seed=0).observation), torch.randn(4, 3, 8), torch.rand(4)
    gradients = []
    for checkpointing in (False, True):
        network.expert.checkpointing = checkpointing
        network.zero_grad()
        with torch.enable_grad():
            network.field(prefix, x, t).velocity.square().sum().backward()
        gradients.append(network.action_in_proj.weight.grad.clone())  # type: ignore[union-attr]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_bad_observations_are_named(policies: dict[str, FlowPolicy], view: Observation) -> None:
    """A camera too few, a picture of another size or dtype, nothing or too much to say, other proprioception."""
    network = policies["smolvla"].network
    base, state = view.images["base"], view.state
    assert state is not None
    wrong = [
        (replace(view, images={"base": base}), r"shows \['base'\]; the policy sees \['base', 'wrist'\]"),
        (replace(view, images={**view.images, "base": base[:, :16]}), r"camera 'base' shows \(16, 28, 3\)"),
        (replace(view, images={**view.images, "base": base.float()}), "of torch.float32"),
        (replace(view, text=("  ", "a")), "instruction '  ' is empty"),
        (replace(view, text=("word " * 100, "a")), "prompts of at most 48: say it shorter"),
        (replace(view, text=()), "no instructions"),
        (replace(view, state=state[:, :3]), "reads 5 numbers.*holds 3"),
        (replace(view, state=None), "holds none"),
    ]
    for observation, message in wrong:
        with pytest.raises(ValueError, match=message):
            network.observe(observation)


def test_cameras_that_cannot_be_masked(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"masked cameras \['front'\] are none of the policy's: \['base', 'wrist'\]"):
        read_policy(folders["pi0"], masked=["front"])
    with pytest.raises(ValueError, match="needs eyes"):
        read_policy(folders["pi0"], masked=["base", "wrist"])


def test_a_state_in_words() -> None:
    """π0.5's bins: -1 is the first of 256, 0 the 128th, 1 the last; what lies under or over is -1 or 255."""
    bins = binned(torch.tensor([-1.01, -1.0, 0.0, 1 / 128, 0.999, 1.0, 3.0]))
    assert bins.tolist() == [-1, 0, 128, 129, 255, 255, 255]
    assert prompt("pi05", " pick_it\nup ", [1, 2]) == "Task: pick it up, State: 1 2;\nAction: "
    assert prompt("pi0", "go", []) == prompt("smolvla", "go\n", []) == "go\n"


def test_pictures_are_fitted() -> None:
    """A wide picture is bordered above alone, or above and below; black becomes -1 and white 1."""
    wide = torch.full((1, 2, 4, 3), 255, dtype=torch.uint8)
    wide[..., 2:, :] = 0
    corner = fitted(wide, (4, 4), centred=False, border=-3.0)
    assert corner[0, 0].tolist() == [[-3.0] * 4, [-3.0] * 4, [1, 1, -1, -1], [1, 1, -1, -1]]
    centre = fitted(wide, (4, 4), centred=True, border=-3.0)
    assert centre[0, 0].tolist() == [[-3.0] * 4, [1, 1, -1, -1], [1, 1, -1, -1], [-3.0] * 4]
    assert fitted(wide, (1, 2), centred=True, border=0.0)[0, 0].tolist() == [[1.0, -1.0]]


def test_time_is_many_waves() -> None:
    """At t = 1 ms the shortest wave, of 4 ms, is a quarter through; the longest, of 4, has hardly begun."""
    wave = time_embedding(torch.tensor([1e-3]), 4, 4e-3, 4.0)
    torch.testing.assert_close(wave, torch.tensor([[1.0, 0.0015708, 0.0, 0.9999988]]), atol=1e-6, rtol=1e-5)


def test_norms() -> None:
    """[3, 4] has the root mean square √12.5; Gemma adds 1 to its weight; a condition gives scale, shift and gate."""
    value, unit = torch.tensor([[[3.0, 4.0]]]), torch.tensor([3.0, 4.0]) / 12.5**0.5
    gemma, llama, adaptive = (Norm(2, kind, 0.0) for kind in ("gemma", "llama", "adaptive"))  # type: ignore[arg-type]
    torch.nn.init.constant_(gemma.weight, 0.5)
    torch.testing.assert_close(gemma(value, None)[0][0, 0], 1.5 * unit)
    torch.testing.assert_close(llama(value, None)[0][0, 0], unit)
    torch.nn.init.zeros_(adaptive.dense.weight)
    adaptive.dense.bias.data = torch.tensor([1.0, 1.0, 0.5, 0.5, 7.0, 7.0])
    normal, gate = adaptive(value, torch.zeros(1, 2))
    torch.testing.assert_close(normal[0, 0], 2 * unit + 0.5)
    assert gate.tolist() == [[[7.0, 7.0]]]
