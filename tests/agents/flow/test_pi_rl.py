"""π_RL's learner: likelihoods, credit and updates, on a bandit whose gradient points one way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from palaestra.agents.core import Rollout
from palaestra.agents.flow.pi_rl import PiRL, PiRLConfig
from palaestra.agents.flow.policy import FlowPolicy, state_policy
from palaestra.envs.core import Observation, WorldSpec

SPEC = WorldSpec("bandit", gymnasium.spaces.Box(-3, 3, (2,), np.float32), state=3, chunk=2)
FORMS: list[dict[str, Any]] = [
    {},
    {"index": "batch"},
    {"form": "full"},
    {"form": "joint", "sampler": "noise"},
    {"form": "joint", "sampler": "noise", "reduction": "mean"},
    {"sampler": "cps"},
    {"ratio": "action"},
    {"critic": "expert"},
    {"advantage": "group"},
]


def learner_of(**options: Any) -> PiRL:
    torch.manual_seed(0)
    policy = state_policy(SPEC, horizon=4, hidden=64, layers=2)
    return PiRL(
        policy, PiRLConfig(**{"actor_rate": 1e-3, "epochs": 4, **options}), Observation(state=torch.zeros(2, 3))
    )


def one_step(learner: PiRL, count: int = 128, shuffle: bool = False) -> tuple[Rollout, torch.Tensor]:
    """Play one decision in a bandit that likes both actions near (1, 1)."""
    # Groups of eight start alike.
    view = Observation(state=torch.randn(count // 8, 3).repeat_interleave(8, 0))
    decision = learner.act(view)
    assert isinstance(decision.action, torch.Tensor)
    reward = -((decision.action.mean(1) - 1) ** 2).sum(-1)
    paid = reward[torch.randperm(count)] if shuffle else reward
    yes, no = torch.ones(1, count, dtype=torch.bool), torch.zeros(1, count, dtype=torch.bool)
    rollout = Rollout(
        observation=view.map(lambda tensor: tensor[None]),
        action=decision.action[None],
        trace={name: value[None] for name, value in decision.trace.items()},
        rewards=torch.stack([torch.zeros(count), paid], -1)[None],
        played=torch.full((1, count), 2),
        terminated=yes,
        truncated=no,
        success_once=no,
        mask=yes,
        filled=torch.ones(count, dtype=torch.int64),
        final=view,
        last=view,
    )
    return rollout, reward


def train(learner: PiRL, steps: int, shuffle: bool = False) -> list[float]:
    rewards = []
    for _ in range(steps):
        rollout, reward = one_step(learner, shuffle=shuffle)
        learner.learn(rollout)
        rewards.append(reward.mean().item())
    return rewards


@pytest.mark.parametrize("options", FORMS, ids=lambda options: "-".join(map(str, options.values())) or "flow-sde")
def test_every_form_climbs_a_bandit(options: dict[str, Any]) -> None:
    # keep=None-like bounds: the bandit's scores are negative, so GRPO's success band would drop every group.
    learner = learner_of(**options, **({"keep": (-1e9, 1e9)} if options.get("advantage") == "group" else {}))
    rewards = train(learner, 30)
    assert np.mean(rewards[-3:]) > 0.5 * rewards[0], rewards  # rewards are negative: less than half the loss is left


def test_negative_control_shuffled_rewards_teach_nothing() -> None:
    rewards = train(learner_of(), 30, shuffle=True)
    assert np.mean(rewards[-5:]) < 0.7 * rewards[0], rewards


def test_zero_noise_refuses_to_train() -> None:
    with pytest.raises(ValueError, match="level is 0"):
        PiRLConfig(level=0.0)


@pytest.mark.parametrize("options", FORMS, ids=lambda options: "-".join(map(str, options.values())) or "flow-sde")
def test_without_a_step_the_ratio_stays_one(options: dict[str, Any]) -> None:
    """Check 12: with a learning rate of 0 the ratio is 1, KL and clip fraction 0, in every epoch."""
    learner = learner_of(**options, actor_rate=0.0, keep=(-1e9, 1e9))
    metrics = learner.learn(one_step(learner)[0])
    assert metrics["train/clip_fraction"] == 0
    assert abs(metrics["train/approximate_kl"]) < 1e-9


def test_hybrid_explores_once_and_evenly() -> None:
    """Check 9: one transition explores, its index is uniform (χ²), and the others replay from the stored chain."""
    learner = learner_of()
    trace = learner.act(Observation(state=torch.randn(4000, 3))).trace
    level, points = trace["level"], trace["points"]
    assert ((level > 0).sum(1) == 1).all()
    counts = (level > 0).sum(0).double()
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 16.3  # χ² with 3 degrees of freedom, p = .001
    assert set(level.unique().tolist()) == {0.0, 0.5}
    steps = points.shape[1] - 1
    assert steps == 4


def test_batch_index_is_shared() -> None:
    level = learner_of(index="batch").act(Observation(state=torch.randn(64, 3))).trace["level"]
    assert (level == level[0]).all()


def test_joint_mean_is_the_sum_over_steps_plus_one() -> None:
    """Check 13: RLinf's reduction is the paper's sum divided by K + 1."""
    densities = []
    for reduction in ("sum", "mean"):
        learner = learner_of(form="joint", sampler="noise", reduction=reduction)
        torch.manual_seed(1)
        rollout, _ = one_step(learner)
        densities.append(learner._log_densities(learner._batch(rollout))[0])
    torch.testing.assert_close(densities[1] * 5, densities[0])


def test_detached_critic_leaves_the_expert_alone() -> None:
    """Check 22: with the actor's loss switched off, a detached critic moves no parameter of the policy."""
    for detach in (True, False):
        learner = learner_of(critic="expert", detach_critic=detach, clip=0.0, epochs=1, batch=10_000)
        rollout, _ = one_step(learner)
        rollout = replace(rollout, rewards=torch.zeros_like(rollout.rewards))
        batch = learner._batch(rollout)
        _, (context, seen) = learner._log_densities(batch)
        learner._value(context, seen.features).sum().backward()
        moved = any(parameter.grad is not None for parameter in learner.actor_parameters)
        assert moved is not detach


def test_frozen_parameters_stay_bit_identical() -> None:
    """Check 22: what does not require a gradient is not trained."""
    torch.manual_seed(0)
    policy = state_policy(SPEC, horizon=4, hidden=64, layers=2)
    policy.network.enter.requires_grad_(False)  # type: ignore[attr-defined]
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    learner = PiRL(policy, PiRLConfig(actor_rate=1e-3), Observation(state=torch.zeros(2, 3)))
    train(learner, 2)
    after = policy.state_dict()
    assert torch.equal(before["network.enter.weight"], after["network.enter.weight"])
    assert not torch.equal(before["network.leave.weight"], after["network.leave.weight"])


def test_deployment_ignores_exploration() -> None:
    """Check 24: what the deployed policy does depends neither on the noise level nor on the noise head's weights."""

    def act(policy: FlowPolicy) -> torch.Tensor:
        torch.manual_seed(3)
        action = policy.act(Observation(state=torch.ones(4, 3))).action
        assert isinstance(action, torch.Tensor)
        return action

    quiet, loud = learner_of(level=0.1).policy, learner_of(level=0.9).policy
    assert torch.equal(act(quiet), act(loud))
    with torch.no_grad():
        for parameter in loud.network.noise.parameters():  # type: ignore[attr-defined]
            parameter.add_(1.0)
    assert torch.equal(act(quiet), act(loud))


def test_unplayed_actions_have_no_gradient() -> None:
    """Check 19: what came after the episode's end, or beyond the chunk, does not count."""
    learner = learner_of()
    rollout, _ = one_step(learner)
    batch = learner._batch(replace(rollout, played=torch.ones_like(rollout.played)))
    points = batch.points.clone()
    changed = replace(batch, points=points.index_fill(2, torch.tensor([1, 2, 3]), 7.0)[:, :, :])
    # Only the reached point's unplayed entries may change: the starting point is an input of the network.
    rows = torch.arange(len(points))
    mixed = points.clone()
    mixed[rows, batch.index[:, 0] + 1, 1:] = changed.points[rows, batch.index[:, 0] + 1, 1:]
    one, other = learner._log_densities(batch)[0], learner._log_densities(replace(batch, points=mixed))[0]
    assert torch.equal(one, other)


def test_masked_slots_do_not_matter() -> None:
    """Check 19: a slot whose world broke changes nothing, whatever stands in it."""
    torch.manual_seed(0)
    results = []
    for poison in (0.0, 1e6):
        learner = learner_of()
        torch.manual_seed(5)
        rollout, _ = one_step(learner)
        mask = rollout.mask.clone()
        mask[0, ::3] = False
        rewards = rollout.rewards.clone()
        rewards[0, ::3] = poison
        torch.manual_seed(6)
        learner.learn(replace(rollout, mask=mask, rewards=rewards))
        results.append(learner.policy.state_dict()["network.leave.weight"].clone())
    assert torch.equal(*results)


def test_groups_without_variance_are_reported() -> None:
    learner = learner_of(advantage="group")
    rollout, _ = one_step(learner)
    before = learner.policy.state_dict()["network.leave.weight"].clone()
    metrics = learner.learn(replace(rollout, rewards=torch.zeros_like(rollout.rewards)))
    assert metrics == {"train/decisions": 0.0}
    assert torch.equal(before, learner.policy.state_dict()["network.leave.weight"])


def test_state_round_trip_continues_alike() -> None:
    """Check 25: a restored learner goes on exactly as the one that was saved."""
    first = learner_of()
    train(first, 2)
    second = learner_of()
    second.load_state_dict(first.state_dict())
    for learner in (first, second):
        torch.manual_seed(9)
        train(learner, 2)
    left, right = first.state_dict(), second.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_step_sizes_fall_to_a_tenth_and_stay() -> None:
    learner = learner_of(anneal=2, actor_rate=1.0, epochs=0)
    rates = []
    for _ in range(4):
        learner.learn(one_step(learner)[0])
        rates.append(learner.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_a_loss_that_is_not_finite_stops() -> None:
    learner = learner_of()
    rollout, _ = one_step(learner)
    with pytest.raises(FloatingPointError, match="the loss of reinforcement"):
        learner.learn(replace(rollout, rewards=torch.full_like(rollout.rewards, torch.nan)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"credit": "action"}, "ratio='action'"), ({"credit": "action", "ratio": "action", "advantage": "group"}, "gae")],
)
def test_levels_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PiRLConfig(**options)


def test_the_experts_value_is_the_mean_over_the_transitions() -> None:
    """Check 21: V_expert at rollout is the mean over K; a critic that is constant says its constant."""
    learner = learner_of(critic="expert", form="full")
    view = Observation(state=torch.randn(16, 3))
    trace = learner.act(view).trace
    context = learner.network.observe(view)
    times = torch.linspace(1, 0, 5)[:-1]  # noise is at t = 1
    each = [
        learner.critic(learner.network.field(context, trace["points"][:, k], times[k].expand(16)).features)
        for k in range(4)
    ]
    torch.testing.assert_close(trace["value"], torch.stack(each).mean(0).detach(), rtol=1e-4, atol=1e-5)
    for parameter in learner.critic.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(learner.critic[-1].bias, 0.7)
    torch.testing.assert_close(learner.act(view).trace["value"], torch.full((16, 1), 0.7))


def test_in_bfloat16_the_ratio_still_starts_at_one() -> None:
    """Check 12: half precision moves a log-density, but old and new are computed alike, so no update starts off."""
    learner = learner_of(form="full", actor_rate=0.0)
    rollout, _ = one_step(learner)
    exact, _ = learner._log_densities(learner._batch(rollout))
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = learner._log_densities(learner._batch(rollout))
        metrics = learner.learn(rollout)
    gap = (exact - rough).abs().max()
    assert 0 < gap < 0.5
    assert metrics["train/clip_fraction"] == 0 and abs(metrics["train/approximate_kl"]) < 1e-9


def test_nothing_in_the_policy_behaves_otherwise_in_training() -> None:
    """Check 23: no dropout and no batch statistics, so rollout and update see one network."""
    learner = learner_of()
    view, noise = Observation(state=torch.randn(8, 3)), torch.randn(8, 4, 2)
    fields = []
    for mode in (True, False):
        learner.network.train(mode)
        fields.append(learner.network.field(learner.network.observe(view), noise, torch.full((8,), 0.5)).velocity)
    assert torch.equal(*fields)
