"""Actions as tokens: there and back, their probabilities by hand, causal decoding, and PPO and GRPO on them."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from palaestra.agents.core import Rollout
from palaestra.agents.flow.imitation import ImitationConfig, imitate
from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.agents.rollout import Collector
from palaestra.agents.vla.adapters import Tuning
from palaestra.agents.vla.policy import backbone_checkpoint, token_policy
from palaestra.agents.vla.token_learner import TokenRL
from palaestra.agents.vla.token_policy import TokenPolicy
from palaestra.agents.vla.tokens import log_probability, played_tokens, to_actions, to_tokens
from palaestra.envs.core import Observation, Worlds
from palaestra.envs.manipulation.tabletop.world import demonstrate

LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.5])


def fresh(worlds: Worlds, tuning: Tuning = "full", bins: int = 16) -> TokenPolicy:
    """Return an untrained policy on a tiny backbone."""
    torch.manual_seed(0)
    policy = token_policy(worlds.spec, backbone_checkpoint("", 16, 32), horizon=2, bins=bins)
    policy.network.backbone.tune(tuning)
    return policy


@pytest.mark.parametrize("bins", [2, 256])
def test_there_and_back_is_at_most_half_a_bin_off(bins: int) -> None:
    """Everywhere in the box; a bin's middle comes back exactly as the same bin, and both bounds have a bin."""
    action = LOW + torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) * (HIGH - LOW)
    back = to_actions(to_tokens(action, LOW, HIGH, bins), LOW, HIGH, bins)
    assert ((back - action).abs() <= (HIGH - LOW) / bins / 2 + 1e-6).all()
    every = torch.arange(bins)[:, None].expand(-1, 2)
    assert torch.equal(to_tokens(to_actions(every, LOW, HIGH, bins), LOW, HIGH, bins), every)
    assert to_tokens(LOW, LOW, HIGH, bins).tolist() == [0, 0]
    assert to_tokens(HIGH, LOW, HIGH, bins).tolist() == [bins - 1] * 2
    assert to_tokens(torch.tensor([-7.0, 7.0]), LOW, HIGH, bins).tolist() == [0, bins - 1]


def test_bins_by_hand() -> None:
    """Four bins of [-1, 1] are half a unit wide, of [0, .5] an eighth."""
    tokens = to_tokens(torch.tensor([[-0.6, 0.2], [0.0, 0.49]]), LOW, HIGH, 4)
    assert tokens.tolist() == [[0, 1], [2, 3]]
    assert to_actions(tokens, LOW, HIGH, 4).tolist() == [[-0.75, 0.1875], [0.25, 0.4375]]
    with pytest.raises(ValueError, match="NaN"):
        to_tokens(torch.tensor([torch.nan, 0.0]), LOW, HIGH)


def test_log_probabilities_by_hand() -> None:
    """Logits 0 and ln 3 are chances of a quarter and three quarters, of entropy ln 4 - ¾ ln 3."""
    three = torch.tensor(3.0).log()
    logprob, entropy = log_probability(torch.tensor([[[0.0, three], [0.0, three]]]), torch.tensor([[0, 1]]))
    torch.testing.assert_close(logprob.exp(), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(entropy, torch.full((1, 2), 4.0).log() - 0.75 * three)


def test_only_what_was_played_counts() -> None:
    """Of two actions of three numbers each: none, the first, both."""
    mask = played_tokens(torch.tensor([0, 1, 2]), 2, 3)
    assert mask.int().tolist() == [[0] * 6, [1] * 3 + [0] * 3, [1] * 6]


@torch.no_grad()
def test_what_is_decoded_is_what_is_scored(worlds: Worlds, view: Observation) -> None:
    """Token by token with a memory, or all at once: the same tokens are the likeliest; none is outside the bins."""
    network = fresh(worlds).network
    long = replace(view, text=("go", "put the red cube on the white plate", "a", "b"))
    context = network.observe(long)
    tokens = network.decode(context, greedy=True)
    logits = network.logits(context, tokens)
    assert logits.shape == (4, 8, 16) and torch.equal(logits.argmax(-1), tokens)
    assert tokens.min() >= 0 and tokens.max() < 16
    alone = network.logits(network.observe(long[torch.tensor([0])]), tokens[:1])
    torch.testing.assert_close(alone, logits[:1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_token_sees_only_what_was_said_before(worlds: Worlds, view: Observation) -> None:
    """Other tokens from the fourth on change the logits from the fifth on."""
    network = fresh(worlds).network
    context = network.observe(view)
    first = torch.randint(16, (4, 8))
    other = torch.cat([first[:, :3], (first[:, 3:] + 5) % 16], 1)
    left, right = network.logits(context, first), network.logits(context, other)
    torch.testing.assert_close(left[:, :4], right[:, :4])
    assert ((left - right)[:, 4:].abs().amax((0, 2)) > 1e-4).all()


def test_draws_follow_the_probabilities(worlds: Worlds, view: Observation) -> None:
    """The first token of one view, drawn 4,000 times: frequencies within 4 standard errors."""
    network = fresh(worlds, bins=4).network
    with torch.no_grad():
        context = network.observe(view)[torch.zeros(4000, dtype=torch.int64)]
        tokens = network.decode(context, greedy=False)[:, 0]
        chances = network.logits(context[torch.tensor([0])], torch.zeros(1, 8, dtype=torch.int64))[0, 0].softmax(0)
    seen = torch.bincount(tokens, minlength=4) / 4000
    assert ((seen - chances).abs() < 4 * (chances * (1 - chances) / 4000).sqrt()).all()


def test_imitation_says_what_was_shown(worlds: Worlds) -> None:
    """Cross-entropy falls, what lies past an episode's end counts nothing, and the likeliest tokens are the shown."""
    policy = fresh(worlds)
    episodes = demonstrate(1, seed=5, pixels=32)
    losses = [
        metrics["train/imitation_loss"]
        for metrics in imitate(policy, episodes, ImitationConfig(steps=60, batch=16, learning_rate=6e-3))
    ]
    assert losses[-1] < 0.3 * losses[0]
    episode = episodes[0]
    shown = Observation(
        images={name: picture[:1] for name, picture in episode.images.items()},
        state=None if episode.state is None else episode.state[:1], text=(episode.text,),
    )  # fmt: skip
    action = policy.act(shown).action
    assert isinstance(action, Tensor)
    assert (action[0] - episode.action[:2]).abs().max() < 0.5
    context, mask = policy.network.observe(shown), torch.tensor([[True, False]])
    one, other = episode.action[None, :2], episode.action[None, :2].clone()
    other[:, 1] = -other[:, 1]
    assert policy.imitation_loss(context, one, mask) == policy.imitation_loss(context, other, mask)


def rollout_of(worlds: Worlds, learner: TokenRL, group: int) -> Rollout:
    collector = Collector(worlds, lambda step: step.rewards)
    collector.reset(3, group)
    return collector.collect(learner, 2, whole_episodes=group > 1)


@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_before_any_step_the_ratio_is_one(worlds: Worlds, advantage: Literal["gae", "group"]) -> None:
    """What was drawn and what is learnt from are the same policy."""
    policy = fresh(worlds)
    config = PiRLConfig(advantage=advantage, group=4, keep=(-9, 9), actor_rate=0.0, epochs=2, batch=3, entropy=0.0)
    learner = TokenRL(policy, config, worlds.reset(seed=2).observation)
    metrics = learner.learn(rollout_of(worlds, learner, 4 if advantage == "group" else 1))
    assert metrics["train/clip_fraction"] == 0 and metrics["train/approximate_kl"] < 1e-6
    assert metrics["train/ratio"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("tuning", ["frozen", "full"])
def test_what_paid_becomes_likelier(worlds: Worlds, tuning: Tuning) -> None:
    """The decisions of one row are paid, those of the others are not; a frozen backbone stays bit-identical."""
    policy = fresh(worlds, tuning)
    config = PiRLConfig(epochs=1, batch=8, actor_rate=1e-2, entropy=0.0)
    learner = TokenRL(policy, config, worlds.reset(seed=2).observation)
    rollout = rollout_of(worlds, learner, 1)
    rewards = torch.zeros_like(rollout.rewards)
    rewards[:, 1] = 1.0
    batch = learner._batch(replace(rollout, rewards=rewards))
    assert (batch.context is None) == (tuning == "full")
    before = {name: value.clone() for name, value in policy.network.backbone.state_dict().items()}
    with torch.no_grad():
        old = learner._old(batch)
    learner.learn(replace(rollout, rewards=rewards))
    with torch.no_grad():
        change = (learner._old(learner._batch(rollout)) - old).sum(1).unflatten(0, (2, 4)).sum(0)
    assert change[1] > 0 and change[1] > change[[0, 2, 3]].max()
    same = all(torch.equal(value, before[name]) for name, value in policy.network.backbone.state_dict().items())
    assert same == (tuning == "frozen")


def test_a_learner_comes_back(worlds: Worlds) -> None:
    config = PiRLConfig(epochs=1, batch=8)
    first = worlds.reset(seed=2).observation
    learner = TokenRL(fresh(worlds), config, first)
    learner.learn(rollout_of(worlds, learner, 1))
    restored = TokenRL(fresh(worlds), config, first)
    restored.load_state_dict(learner.state_dict())
    for name, value in restored.state_dict().items():
        assert torch.equal(value, learner.state_dict()[name]), name


def test_what_cannot_be_is_refused(worlds: Worlds) -> None:
    first = worlds.reset(seed=2).observation
    with pytest.raises(ValueError, match="takes 'chunk'"):
        TokenRL(fresh(worlds), PiRLConfig(critic="expert"), first)
    with pytest.raises(ValueError, match="take 1 to 1"):
        token_policy(worlds.spec, backbone_checkpoint("", 16, 32), horizon=1)
