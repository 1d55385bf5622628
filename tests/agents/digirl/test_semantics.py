"""What the filters come to mean once the values are learnt, on walks whose truth is known. No actor is needed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from palaestra.agents.digirl.config import DigiRLConfig
from palaestra.agents.digirl.episodes import Episode, Steps
from palaestra.agents.digirl.learner import DigiRL
from palaestra.agents.vlm.policy import VLMPolicy
from palaestra.agents.vlm.sft import Tuner
from palaestra.envs.core import Observation

GOAL = 3
"""Steps to the right that succeed."""
CONFIG = DigiRLConfig(batch=64, share=0.1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def agent(config: DigiRLConfig = CONFIG, width: int = GOAL + 2) -> DigiRL:
    torch.manual_seed(0)
    return DigiRL(cast(Tuner, None), cast(VLMPolicy, None), config, width=width, horizon=20)


def episode(features: Tensor, success: bool, instruction: Tensor | None = None) -> Episode:
    count = len(features)
    view = Observation(images={}, text=("",) * count)
    return Episode(view, ("",) * count, success, features, torch.zeros(5) if instruction is None else instruction)


def walk(moves: str, noise: float = 0.0) -> Episode:
    """Walk from 0; `GOAL` steps to the right in a row succeed, a wrong one falls into a hole for good."""
    places, place = [], 0
    for move in moves:
        places.append(place)
        place = place + 1 if move == "r" and place <= GOAL else GOAL + 1
    features = torch.nn.functional.one_hot(torch.tensor(places), GOAL + 2).float()
    return episode(features + noise * torch.randn_like(features), moves == "r" * GOAL)


def walks(count: int, noise: float) -> list[Episode]:
    """Random walks, of whose steps 3 in 5 go right."""
    found = []
    for _ in range(count):
        moves = "".join("r" if torch.rand(()) < 0.6 else "w" for _ in range(GOAL))
        wrong = moves.find("w")
        found.append(walk(moves if wrong < 0 else moves[: wrong + 1] + "w" * 5, noise))
    return found


def area_under_curve(scores: Tensor, truth: Tensor) -> float:
    """Return the chance that a success outranks a failure."""
    return (scores[truth == 1][:, None] > scores[truth == 0][None]).float().mean().item()


def test_the_step_value_tells_held_out_successes_and_rises_along_them() -> None:
    learner = agent()
    seen, held_out = walks(200, 0.3), walks(200, 0.3)
    learner.fit_values(seen, Steps.of(seen), 300)
    steps = Steps.of(held_out)
    assert area_under_curve(learner.step_value(steps.features), steps.success) > 0.8
    rising = learner.step_value(walk("r" * GOAL).features)
    assert (rising.diff() > 0).all()


def test_the_good_beginning_of_a_failure_is_kept_and_its_wrong_end_is_not() -> None:
    learner = agent()
    seen = walks(400, 0.0)
    learner.fit_values(seen, Steps.of(seen), 400)
    failure = [walk("rrw")]
    assert (learner.chances(failure, Steps.of(failure), "offline") > 0).tolist() == [True, True, False]


def two_tasks() -> list[Episode]:
    """An easy task that 57 of 60 episodes do, and a hard one that 6 of 60 do."""
    easy, hard = torch.eye(5)[0], torch.eye(5)[1]
    return [episode(torch.zeros(1, 5), index < 57, easy) for index in range(60)] + [
        episode(torch.zeros(1, 5), index < 6, hard) for index in range(60)
    ]


def test_what_is_kept_shifts_from_easy_to_hard_tasks_as_the_instruction_value_learns() -> None:
    learner = agent(replace(CONFIG, step_filter=False, share=0.05))
    last = [value for name, value in learner.instruction_value.named_parameters() if ".5." in name]
    for value in last:
        torch.nn.init.zeros_(value)  # it begins by thinking all tasks alike
    episodes = two_tasks()
    steps = Steps.of(episodes)
    hard = []
    for _ in range(3):
        kept = learner.chances(episodes, steps, "online") > 0
        hard.append((kept & (steps.episode >= 60)).sum().item() / kept.sum().item())
        learner.fit_values(episodes, steps, 60)
    assert hard[0] == pytest.approx(6 / 63) and hard[-1] == 1.0


def test_of_failures_alone_those_on_tasks_believed_hard_are_kept() -> None:
    learner = agent(replace(CONFIG, step_filter=False, share=0.5))
    episodes = two_tasks()
    learner.fit_values(episodes, Steps.of(episodes), 300)
    failures = [one for one in episodes if not one.success]
    steps = Steps.of(failures)
    kept = steps.episode[learner.chances(failures, steps, "online") > 0]
    assert kept.tolist() == list(range(3, 57))  # the first three failed on the easy task


def test_without_the_curriculum_every_success_counts_alike() -> None:
    learner = agent(replace(CONFIG, instruction_filter=False))
    episodes = two_tasks()
    steps = Steps.of(episodes)
    learner.fit_values(episodes, steps, 300)
    assert torch.equal(learner.chances(episodes, steps, "online") > 0, steps.success == 1)  # one step each: A = r or -V


def test_without_the_filter_of_steps_whole_trajectories_are_kept() -> None:
    learner = agent(replace(CONFIG, step_filter=False))
    episodes = walks(40, 0.0)
    steps = Steps.of(episodes)
    learner.fit_values(episodes, steps, 100)
    assert (learner.chances(episodes, steps, "offline") > 0).all()
    kept = learner.chances(episodes, steps, "online") > 0
    assert all(kept[steps.episode == number].unique().numel() == 1 for number in range(40))


def test_the_codes_offline_stage_looks_at_successes_alone() -> None:
    learner = agent(replace(CONFIG, form="code"))
    episodes = walks(100, 0.0)
    steps = Steps.of(episodes)
    learner.fit_values(episodes, steps, 100)
    kept = learner.chances(episodes, steps, "offline") > 0
    assert kept.any() and (steps.success[kept] == 1).all()


def test_soft_weights_leave_nothing_out_and_stand_in_the_ratio_of_exponentials() -> None:
    learner = agent(replace(CONFIG, method="awr", beta=0.5))
    episodes = walks(10, 0.0)
    steps = Steps.of(episodes)
    learner.fit_values(episodes, steps, 100)
    chances, advantage = learner.chances(episodes, steps, "offline"), learner.advantages(steps)
    torch.testing.assert_close(chances.log() - chances.log()[0], (advantage - advantage[0]) / 0.5)


@pytest.mark.parametrize("critic", ["cross-entropy", "regression"])
def test_either_loss_finds_the_chance_of_success(critic: str) -> None:
    learner = agent(replace(CONFIG, critic=critic))
    episodes = two_tasks()
    learner.fit_values(episodes, Steps.of(episodes), 400)
    found = learner.instruction_value(torch.stack([episodes[0].instruction, episodes[-1].instruction]))
    torch.testing.assert_close(found, torch.tensor([0.95, 0.1]), atol=0.06, rtol=0)
