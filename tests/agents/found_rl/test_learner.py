"""The learner on a task of one step, whose best action is what is seen; and its bookkeeping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from palaestra.agents.core import Rollout
from palaestra.agents.found_rl.advice import Advisor, Teacher
from palaestra.agents.found_rl.config import FoundRLConfig, GuardConfig, Guidance, QueryConfig
from palaestra.agents.found_rl.learner import FoundRL
from palaestra.agents.found_rl.queries import Query
from palaestra.agents.found_rl.teachers import ScriptedEngine, read_action
from palaestra.agents.vlm.client import connect
from palaestra.agents.vlm.core import Act, Answer, Ask
from palaestra.envs.core import Observation, WorldSpec

WORLDS = 32
SPEC = WorldSpec(id="aim", action=spaces.Box(-1, 1, (2,)), state=2)
CONFIG = FoundRLConfig(
    hidden=32, batch=64, warmup=96, updates=4, capacity=4000, actor_rate=2e-3, critic_rate=2e-3, saturation=1e-4,
    entropy=0.01, guard=GuardConfig(on=False),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are fastest with one thread, by far on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Aim:
    """Shows a point; the reward is less the further the action is from it, and every step is an episode."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.point = torch.zeros(WORLDS, 2)

    def show(self) -> Observation:
        self.point = 1.6 * torch.rand(WORLDS, 2, generator=self.draw) - 0.8
        return Observation(state=self.point.clone())

    def play(self, learner: FoundRL, decisions: int) -> dict[str, float]:
        seen, metrics = self.show(), {}
        learner.restart()
        for _ in range(decisions):
            action = learner.act(seen).action
            assert isinstance(action, Tensor)
            reward = -(action[:, 0] - self.point).square().sum(1)
            seen, following = self.show(), None
            following = seen
            metrics = learner.learn(rollout(action, reward, following))
        return metrics

    def error(self, learner: FoundRL) -> float:
        seen = self.show()
        return float((learner.policy(seen) - self.point).square().mean().detach())


def rollout(action: Tensor, reward: Tensor, following: Observation, decisions: int = 1) -> Rollout:
    yes = torch.ones(decisions, WORLDS, dtype=torch.bool)
    return Rollout(
        observation=following,
        action=action[None].expand(decisions, -1, -1, -1),
        trace={},
        rewards=reward[None, :, None].expand(decisions, -1, -1),
        played=yes.long(),
        terminated=yes,
        truncated=~yes,
        success_once=~yes,
        mask=yes,
        filled=torch.full((WORLDS,), decisions),
        final=following,
        last=following,
    )


class PointTeacher(Teacher):
    """Knows the point."""

    model, gives = "teacher", "action"

    def __init__(self, aim: Aim) -> None:
        self.aim = aim

    def asks(self, rows: Tensor, action: Tensor) -> Sequence[tuple[Ask, None]]:
        return [(Act(Observation(state=self.aim.point[row][None].clone())), None) for row in rows.tolist()]

    def read(self, answer: Answer, note: Tensor | None) -> Tensor:
        return read_action(answer)


@pytest.mark.parametrize("algorithm", ["sac", "drqv2"])
def test_the_base_learns_without_a_teacher(algorithm: Literal["sac", "drqv2"]) -> None:
    torch.manual_seed(0)
    aim, learner = Aim(), FoundRL(SPEC, WORLDS, replace(CONFIG, algorithm=algorithm), decisions=70)
    before = aim.error(learner)
    metrics = aim.play(learner, 70)
    assert before > 0.15 and aim.error(learner) < 0.05
    assert metrics["train/critic_loss"] < 0.1 and learner.progress == 1


@pytest.mark.parametrize(
    ("guidance", "algorithm", "literal"),
    [
        ("bc", "sac", False),
        ("vmr", "sac", False),
        ("awag", "drqv2", False),
        ("vmr+awag", "sac", False),
        ("vmr+awag", "sac", True),
        ("vmr+awag", "drqv2", True),
    ],
)
def test_every_guidance_uses_labels_and_reports_them(
    guidance: Guidance, algorithm: Literal["sac", "drqv2"], literal: bool
) -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, algorithm=algorithm, guidance=guidance, literal=literal, margin=0.5)
    aim, learner = Aim(), FoundRL(SPEC, WORLDS, config, decisions=30)
    before = aim.error(learner)
    with connect({"teacher": ScriptedEngine("oracle")}) as client:
        query = Query(QueryConfig(), WORLDS)
        learner.advisor = Advisor(client, PointTeacher(aim), learner.replay, query, delay=2)
        metrics = aim.play(learner, 30)
    assert aim.error(learner) < 0.5 * before
    assert metrics["advice/yield"] == 1 and metrics["advice/age"] == 2
    assert metrics["replay/advised"] > 0.9
    assert ("train/gate" in metrics) == ("awag" in guidance)
    assert ("train/imitation_loss" in metrics) == (guidance == "bc")


def test_margins_lift_the_value_of_labels_above_that_of_actions_taken() -> None:
    gains = []
    for end in (0.0, 1.0):
        torch.manual_seed(0)
        config = replace(CONFIG, guidance="vmr", margin=2.0, margin_hold=end, margin_end=end)
        aim, learner = Aim(), FoundRL(SPEC, WORLDS, config, decisions=25)
        with connect({"teacher": ScriptedEngine("random")}) as client:
            learner.advisor = Advisor(client, PointTeacher(aim), learner.replay, Query(QueryConfig(), WORLDS), delay=0)
            aim.play(learner, 25)
        batch = learner.replay.sample(256, labelled=True)
        features = learner.policy.encoder(batch.observation)
        advised, taken = (learner.updater.critics(features, each) for each in (batch.advice, batch.action))
        gains.append(float((advised - taken).mean().detach()))
    assert gains[0] < 0.1  # labels drawn at random are worth no more than what was done …
    assert gains[1] > gains[0] + 0.1  # … but for the margin


def test_the_guards_worlds_follow_the_imitator_while_guidance_lasts() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, guidance="vmr", margin_hold=0.5, margin_end=0.5, guard=GuardConfig(share=0.25, window=4))
    aim, learner = Aim(), FoundRL(SPEC, WORLDS, config, decisions=60)
    assert learner.imitator is not None and learner.guard is not None
    with connect({"teacher": ScriptedEngine("oracle")}) as client:
        learner.advisor = Advisor(client, PointTeacher(aim), learner.replay, Query(QueryConfig(), WORLDS), delay=1)
        metrics = aim.play(learner, 25)
        assert metrics["guard/predictability"] > 0.5
        assert metrics["train/margin_weight"] == metrics["guard/open"]
        seen = aim.show()
        for following in (True, False):
            action = learner.act(seen).action
            assert isinstance(action, Tensor)
            expected = torch.tanh(learner.imitator(learner.policy.encoder(seen))[0])
            same = (action[:, 0] == expected).all(1)
            assert same.tolist() == [following and row < learner.guard.probes for row in range(WORLDS)]
            learner.decided = 40


def test_what_is_saved_goes_on_as_if_it_had_not_stopped() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, guidance="vmr+awag", guard=GuardConfig(window=4))
    aim, one = Aim(), FoundRL(SPEC, WORLDS, config, decisions=60)
    with connect({"teacher": ScriptedEngine("oracle")}) as client:
        one.advisor = Advisor(client, PointTeacher(aim), one.replay, Query(QueryConfig(), WORLDS), delay=1)
        aim.play(one, 10)
        one.restart()
        saved = {name: tensor.clone() for name, tensor in one.state_dict().items()}
        two = FoundRL(SPEC, WORLDS, config, decisions=60)
        with pytest.raises(ValueError, match="advisor"):
            two.load_state_dict(saved)
        two.advisor = Advisor(client, PointTeacher(aim), two.replay, Query(QueryConfig(), WORLDS), delay=1)
        two.load_state_dict(saved)
        states = []
        for learner in (one, two):
            torch.manual_seed(1)
            aim.draw.manual_seed(1)
            aim.play(learner, 5)
            learner.restart()
            states.append(learner.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_the_states_scale_follows_what_play_shows() -> None:
    learner, aim = FoundRL(SPEC, WORLDS, CONFIG, decisions=200), Aim()
    aim.play(learner, 3)  # 96 transitions: what the warm-up is over with
    scale, replay = learner.policy.encoder.scale, learner.replay
    for ready in (96, 128):  # the first is fitted at once, the next at 1.25 x 96 = 120
        assert replay.ready == ready and learner.scaled_to == ready
        states = replay.tensors["state"][replay.tensors["ready"]]
        assert torch.equal(scale.mean, states.mean(0))
        aim.play(learner, 1)
    # 160 = 1.25 x 128, and then nothing until 200.
    fitted = scale.mean.clone()
    aim.play(learner, 1)
    assert (replay.ready, learner.scaled_to) == (192, 160) and torch.equal(scale.mean, fitted)


def test_rollouts_of_several_decisions_are_refused() -> None:
    learner = FoundRL(SPEC, WORLDS, CONFIG, decisions=10)
    seen = Aim().show()
    learner.act(seen)
    with pytest.raises(ValueError, match="decisions=1"):
        learner.learn(rollout(torch.zeros(WORLDS, 1, 2), torch.zeros(WORLDS), seen, decisions=2))


def test_pictures_alone_are_enough() -> None:
    torch.manual_seed(0)
    spec = WorldSpec(id="aim", action=SPEC.action, images={"bev": (16, 16, 3)})
    learner = FoundRL(spec, WORLDS, replace(CONFIG, warmup=32, updates=1, shift=2), decisions=10)
    seen = Observation({"bev": torch.randint(0, 256, (WORLDS, 16, 16, 3), dtype=torch.uint8)})
    weight = next(learner.policy.encoder.parameters()).clone()
    for _ in range(4):
        action = learner.act(seen).action
        assert isinstance(action, Tensor)
        learner.learn(rollout(action, torch.randn(WORLDS), seen))
    assert not torch.equal(weight, next(learner.policy.encoder.parameters()))  # the critics' loss trains the encoder


@pytest.mark.parametrize("wrong", [{"discount": 1.0}, {"batch": 0}, {"margin_end": 0.1}, {"temperature": 0.0}])
def test_what_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FoundRLConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("temperature", "wide"), [(FoundRLConfig().entropy, True), (0.05, False)])
def test_rewards_that_tell_nothing_leave_exploration_wide(temperature: float, wide: bool) -> None:
    """A small first temperature lets the actor settle on what early critics get wrong, as it did in the recipe."""
    torch.manual_seed(0)
    config = replace(CONFIG, entropy=temperature, actor_rate=1e-3, critic_rate=1e-3)
    aim, learner = Aim(), FoundRL(SPEC, WORLDS, config, decisions=40)
    seen, metrics = aim.show(), {}
    learner.restart()
    for _ in range(40):
        action = learner.act(seen).action
        assert isinstance(action, Tensor)
        seen = aim.show()
        metrics = learner.learn(rollout(action, 5 * torch.randn(WORLDS), seen))
    assert (metrics["train/entropy"] > 0) == wide, metrics["train/entropy"]
