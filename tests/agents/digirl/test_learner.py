"""DigiRL on a tiny model: what is drawn, what is left alone, and that it comes to say what succeeded."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from palaestra.agents.digirl.config import DigiRLConfig
from palaestra.agents.digirl.episodes import Episode, Steps
from palaestra.agents.digirl.learner import DigiRL
from palaestra.agents.vlm.core import Generate
from palaestra.agents.vlm.policy import Prompt, VLMPolicy, prompts_of
from palaestra.agents.vlm.sft import SFTConfig, Tuner
from palaestra.agents.vlm.tiny import build_tiny_vlm
from palaestra.envs.core import Observation

TINY = DigiRLConfig(batch=8, fit=8, offline_values=60, offline_updates=12, online_values=2, online_updates=2)
WIDTH = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_vlm(tmp_path_factory.mktemp("tiny") / "vlm", image_size=16, context=96)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(folder: Path, config: DigiRLConfig = TINY) -> DigiRL:
    torch.manual_seed(0)
    tuner = Tuner(folder, SFTConfig(learning_rate=3e-3, warmup=0, schedule="constant", weight_decay=0.0))
    policy = VLMPolicy(tuner.checkpoint, ("screen",), max_tokens=8)
    return DigiRL(tuner, policy, config, width=WIDTH, horizon=4)


@dataclass(frozen=True)
class Spoken:
    """A prompt, and what is to be said."""

    messages: Prompt
    answer: str


def view(*texts: str) -> Observation:
    return Observation(images={"screen": torch.zeros(len(texts), 16, 16, 3, dtype=torch.uint8)}, text=texts)


def episode(policy: VLMPolicy, goal: str, actions: tuple[str, ...], success: bool) -> Episode:
    observation = view(*(f"Goal: {goal} {step}" for step in range(len(actions))))
    prompts = prompts_of(observation, ("screen",))
    with torch.no_grad():
        features = policy.speaker.features(prompts)
    return Episode(observation, actions, success, features, features[0])


def history(agent: DigiRL) -> list[Episode]:
    """Opening left succeeds, opening right does not."""
    return [episode(agent.policy, "open", ("left", "done"), True) for _ in range(3)] + [
        episode(agent.policy, "open", ("right", "right", "right"), False) for _ in range(3)
    ]


def test_offline_keeps_the_last_steps_of_successes_and_no_step_that_leads_nowhere(folder: Path) -> None:
    agent = make(folder)
    episodes = history(agent)
    steps = Steps.of(episodes)
    agent.fit_values(episodes, steps, 200)
    kept = agent.chances(episodes, steps, "offline") > 0
    last = (steps.success == 1) & (steps.left == 0)
    assert kept[last].all()  # A = 1, whatever the values
    assert not kept[(steps.success == 0) & (steps.left == 0)].any()  # A = -V(s) there


def test_chances_sum_to_one_and_cloning_takes_all_steps_of_successes_alone(folder: Path) -> None:
    agent = make(folder, replace(TINY, method="filtered-bc"))
    episodes = history(agent)
    steps = Steps.of(episodes)
    chances = agent.chances(episodes, steps, "online")
    assert chances.sum().item() == pytest.approx(1)
    assert torch.equal(chances > 0, steps.success == 1)
    assert chances[chances > 0].unique().numel() == 1


def test_online_prefers_the_success_that_was_not_expected(folder: Path) -> None:
    agent = make(folder, replace(TINY, step_filter=False, share=0.1))
    easy = [episode(agent.policy, "open the clock", ("left",), True) for _ in range(8)]
    hard = [episode(agent.policy, "buy a lamp", ("left",), index < 2) for index in range(8)]
    episodes = easy + hard
    steps = Steps.of(episodes)
    agent.fit_values(episodes, steps, 200)
    kept = agent.chances(episodes, steps, "online") > 0
    assert steps.episode[kept].tolist() == [8, 9]


def test_learning_raises_what_succeeded_above_what_failed(folder: Path) -> None:
    agent = make(folder)
    episodes = history(agent)
    metrics = agent.learn(episodes, "offline")
    assert 0 < metrics["filter/steps"] < 1
    agent.policy.temperature = 0.0
    said = agent.policy.act(view("Goal: open 1"))
    assert said.action == ("done",)


def test_nothing_kept_leaves_the_actor_alone(folder: Path) -> None:
    agent = make(folder)
    before = {name: value.clone() for name, value in agent.tuner.parameters.items()}
    failures = [episode(agent.policy, "open", ("right",), False)]  # one step: A = -V(s) < 1/H
    metrics = agent.learn(failures, "offline")
    assert metrics["filter/nothing"] == 1
    assert all(torch.equal(before[name], value) for name, value in agent.tuner.parameters.items())


def after_cloning(folder: Path, unkept: str) -> dict[str, torch.Tensor]:
    """Return the actor's weights after one update on two successes, beside a failure in which `unkept` was said."""
    agent = make(folder, replace(TINY, method="filtered-bc", offline_updates=1))
    episodes = [episode(agent.policy, "open", ("left", "done"), True) for _ in range(2)]
    episodes.append(episode(agent.policy, "open", (unkept,), False))
    agent.learn(episodes, "offline")
    return {name: value.detach().clone() for name, value in agent.tuner.parameters.items()}


def test_what_is_said_in_steps_that_are_not_kept_has_no_gradient(folder: Path) -> None:
    one, other = (after_cloning(folder, unkept) for unkept in ("right", "a wholly different answer"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_gradient_is_that_of_the_likelihood_of_the_kept_steps(folder: Path) -> None:
    agent, twin = (make(folder, replace(TINY, method="filtered-bc", offline_updates=1)) for _ in range(2))
    kept = [episode(agent.policy, "open", ("left",), True)] * 3  # the same step, whichever is drawn
    agent.learn([*kept, episode(agent.policy, "open", ("right",), False)], "offline")
    prompt = prompts_of(kept[0].observation, ("screen",))[0]
    twin.tuner.learn([[Spoken(prompt, "left")] * TINY.batch])
    for name, value in agent.tuner.parameters.items():
        assert torch.equal(value, twin.tuner.parameters[name]), name


def test_the_actor_stays_within_the_filters_divergence_of_the_imitator(folder: Path) -> None:
    """Imitating the half of one's own answers that succeeded can at most condition on it: KL <= log 2."""
    agent = make(folder, replace(TINY, offline_values=30, offline_updates=15))
    prompt = prompts_of(view("Goal: open 0"), ("screen",))[0]
    for _ in range(25):
        agent.tuner.learn([[Spoken(prompt, "left"), Spoken(prompt, "right")]])
    before = chances_of(agent, prompt)
    assert before[0] == pytest.approx(0.5, abs=0.1) and sum(before) == pytest.approx(1, abs=0.02)
    agent.learn([episode(agent.policy, "open", (said,), said == "left") for said in ("left", "right")] * 4, "offline")
    after = chances_of(agent, prompt)
    divergence = sum(p * math.log(p / q) for p, q in zip(after, before, strict=True))
    assert after[0] > 0.9 and divergence < math.log(2) + 0.1


def chances_of(agent: DigiRL, prompt: Prompt) -> list[float]:
    """Return the probabilities of saying "left" and "right"."""
    agent.policy.checkpoint.model.eval()
    answer = agent.policy.speaker.answer([Generate(prompt, choices=("left", "right"))])[0]
    return [math.exp(score) for score in answer.scores]


def test_the_actors_loss_leaves_the_values_alone(folder: Path) -> None:
    agent = make(folder, replace(TINY, offline_values=0))
    before = [value.clone() for value in agent.step_value.parameters()]
    agent.learn(history(agent), "offline")
    assert all(map(torch.equal, before, agent.step_value.parameters()))
    assert all(value.grad is None for value in agent.instruction_value.parameters())


@pytest.mark.parametrize("method", ["digirl", "filtered-bc", "awr"])
def test_state_restored_is_training_continued_bit_for_bit(folder: Path, method: str) -> None:
    config = replace(TINY, method=method, offline_values=3, offline_updates=2)
    whole = make(folder, config)
    episodes = history(whole)
    whole.learn(episodes, "offline")
    state, random = {name: value.clone() for name, value in whole.state_dict().items()}, torch.get_rng_state()
    expected = whole.learn(episodes, "online")
    restored = make(folder, config)
    restored.load_state_dict(state)
    torch.set_rng_state(random)
    assert restored.learn(episodes, "online") == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


def test_draws_depend_on_the_seed_and_not_on_the_batch(folder: Path) -> None:
    policy = make(folder).policy
    texts = ("Goal: open", "Goal: close", "Goal: wait")
    torch.manual_seed(3)
    together = policy.act(view(*texts)).action
    torch.manual_seed(3)
    assert policy.act(view(*texts)).action == together
    torch.manual_seed(3)
    assert policy.act(view(texts[0])).action == together[:1]


def test_an_unknown_camera_is_named() -> None:
    with pytest.raises(ValueError, match=r"'wrist'.*cameras are: screen"):
        prompts_of(view("Goal: open"), ("wrist",))
