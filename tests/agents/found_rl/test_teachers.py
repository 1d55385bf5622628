"""Teachers: what is read from their words, and how bad the bad ones are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from palaestra.agents.found_rl.teachers import (
    PromptTeacher,
    ScriptedEngine,
    ScriptedTeacher,
    read_action,
    read_pedals,
    write_pedals,
)
from palaestra.agents.vlm.core import Act, Action, AskError, Generate, Text, Vector, WeightsError
from palaestra.envs.core import Observation
from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.state import Light
from palaestra.envs.driving.world import DrivingEnv


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"throttle": 0.5, "steer": -0.25, "brake": 0.0}', (0.5, -0.25)),
        ('{"throttle": 0.2, "steer": 0, "brake": 0.7}', (-0.7, 0.0)),
        ("Sure! throttle = 0, steer: .5, brake: 1e-1. Drive safely", (-0.1, 0.5)),
        ('{"throttle": 7, "steer": -3, "brake": -2}', (1.0, -1.0)),
        ('{"throttle": 0.3, "steer": 0.1, "brake": 0.3}', (-0.3, 0.1)),
    ],
)
def test_pedals_are_read_from_words(text: str, action: tuple[float, float]) -> None:
    assert read_pedals(text).tolist() == pytest.approx(action)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I would slow down.",
        "1.0 0.0 0.5",
        '{"throttle": 0.5, "steer": 0.1}',
        '{"throttle": NaN, "steer": 0, "brake": 0}',
        '{"throttle": 1e999, "steer": 0, "brake": 0}',
        '{"throttle": 0.5, "steer": 0, "brake": 0} no: {"throttle": 0, "steer": 0, "brake": 1}',
        '{"throttle": "full", "steer": 0, "brake": 0}',
        '{"throttle": 0.5.3, "steer": 0, "brake": 0}',
    ],
)
def test_what_names_no_action_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"throttle|finite"):
        read_pedals(text)


def test_tensors_are_read_too_and_other_answers_are_not() -> None:
    assert read_action(Action(torch.tensor([[2.0, -0.5]]))).tolist() == [1.0, -0.5]
    for wrong in (Action(torch.tensor([[math.nan, 0.0]])), Action(torch.zeros(1, 3)), Vector(torch.ones(2))):
        with pytest.raises(ValueError):
            read_action(wrong)


def test_two_decimals_survive_the_way_through_words() -> None:
    for action in 2 * torch.rand(50, 2) - 1:
        assert (read_action(Text(write_pedals(action))) - action).abs().max() <= 0.0051


def asked(engine: ScriptedEngine, actions: torch.Tensor) -> torch.Tensor:
    asks = [Act(Observation(state=row[None])) for row in actions]
    for ask in asks:
        engine.check(ask)
    answers = engine.answer(asks)
    return torch.stack([read_action(answer) for answer in answers if isinstance(answer, Action)])


def test_each_quality_is_as_bad_as_it_says() -> None:
    actions = 1.6 * torch.rand(2000, 2) - 0.8
    error = {
        quality: asked(ScriptedEngine(quality, noise=0.1, right=0.6, seed=3), actions) - actions
        for quality in ("oracle", "blind", "noisy", "partial", "random")
    }
    assert error["oracle"].abs().max() < 0.0051 and error["blind"].abs().max() < 0.0051
    assert error["noisy"].std().item() == pytest.approx(0.1, rel=0.1)
    right = (error["partial"].abs().amax(1) < 0.0051).float().mean().item()
    assert right == pytest.approx(0.6, abs=0.04)
    labels = (error["random"] + actions)[:, 0]
    assert abs(torch.corrcoef(torch.stack((labels, actions[:, 0])))[0, 1].item()) < 0.1
    assert labels.std().item() == pytest.approx(math.sqrt(1 / 3), rel=0.05)


def test_the_same_ask_has_the_same_answer_in_any_batch() -> None:
    actions = 2 * torch.rand(8, 2) - 1
    together = asked(ScriptedEngine("noisy", seed=1), actions)
    alone = torch.cat([asked(ScriptedEngine("noisy", seed=1), row[None]) for row in actions])
    assert torch.equal(together, alone)
    assert not torch.equal(together, asked(ScriptedEngine("noisy", seed=2), actions))


def test_engines_refuse_what_they_cannot_answer() -> None:
    engine = ScriptedEngine("oracle")
    with pytest.raises(AskError, match="expert's action"):
        engine.check(Generate(()))
    with pytest.raises(WeightsError, match="no weights"):
        engine.load(Path("weights"))


def test_the_scripted_teacher_asks_about_the_rows_it_is_given_and_leaves_the_worlds_as_they_are() -> None:
    env, twin = (DrivingEnv(4, maps="signalised", vehicles=4, walkers=2) for _ in range(2))
    for each in (env, twin):
        each.reset(seed=[3, 4, 5, 6])
    rows = torch.tensor([2, 0])
    for _ in range(30):
        teacher = ScriptedTeacher(env)
        asks = teacher.asks(rows, torch.zeros(2, 2))
        views = [ask.observation.state for ask, _ in asks if isinstance(ask, Act)]
        assert torch.equal(torch.cat([view for view in views if view is not None]), expert_action(env)[rows])
        action = torch.full((4, 2), 0.2)
        mine, theirs = env.step(action), twin.step(action)
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])


def test_blind_experts_differ_only_before_signals() -> None:
    env = DrivingEnv(32, maps="signalised", vehicles=4, walkers=0)
    env.reset(seed=list(range(32)))
    differed = False
    for _ in range(150):
        seeing, blind = expert_action(env), expert_action(env, signals=False)
        different = (seeing != blind).any(1)
        differed |= bool(different.any())
        assert not bool((different & (env._light == Light.NONE)).any())
        env.step(seeing)
    assert differed


def test_prompts_tell_of_the_rows_that_are_asked_about() -> None:
    env = DrivingEnv(3, maps="arterial", vehicles=2, walkers=0)
    env.reset(seed=[1, 2, 3])
    drawn = PromptTeacher(env, "vlm", picture=lambda rows: torch.full((len(rows), 8, 8, 3), 7, dtype=torch.uint8))
    for teacher, parts in ((PromptTeacher(env, "vlm"), 1), (drawn, 2)):
        asks = teacher.asks(torch.tensor([2, 1]), torch.zeros(2, 2))
        assert len(asks) == 2
        for ask, _ in asks:
            assert isinstance(ask, Generate)
            assert len(ask.messages[0].content) == parts
            assert "Navigation command" in str(ask.messages[0].content[-1])
