"""Conversations token by token, with a model that has learnt nothing."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from palaestra.agents.grpo.batch import collate
from palaestra.agents.grpo.critic import Critic, CriticConfig
from palaestra.agents.grpo.imitation import ImitationConfig, demonstrate, imitate
from palaestra.agents.grpo.learner import GRPO, GRPOConfig
from palaestra.agents.grpo.presets import PRESETS, preset
from palaestra.agents.grpo.rollout import SpeakConfig, Trajectory, converse
from palaestra.agents.grpo.scores import Scores
from palaestra.agents.grpo.tiny import AGENT, IMAGE, PATCHES, USER, TinyConfig, TinySpeaker
from palaestra.envs.retrieval.core import Turn
from palaestra.envs.retrieval.corpus import Corpus
from palaestra.envs.retrieval.expert import ExpertConfig, plan
from palaestra.envs.retrieval.retrievers import BM25
from palaestra.envs.retrieval.tiny import tiny_corpus
from palaestra.envs.retrieval.views import TINY
from palaestra.envs.retrieval.world import PageWorlds


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return tiny_corpus(0, sft=12, rl=8, test=4)


@pytest.fixture(scope="module")
def talkative(corpus: Corpus) -> TinySpeaker:
    """A model that has imitated a little: it calls tools, though not always well."""
    torch.manual_seed(0)
    speaker = TinySpeaker()
    for _ in imitate(speaker, shown(speaker, corpus, 64), ImitationConfig(epochs=7, batch=16, learning_rate=5e-3)):
        pass
    return speaker


def shown(speaker: TinySpeaker, corpus: Corpus, count: int) -> list[Trajectory]:
    generator = np.random.default_rng(0)
    questions = [corpus.splits["sft"][i] for i in generator.integers(len(corpus.splits["sft"]), size=count)]
    pages = {page.id: page for page in corpus.pages}
    plans = [plan(question, pages, TINY, ExpertConfig(), generator) for question in questions]
    return demonstrate(speaker, worlds(corpus), questions, plans)


def worlds(corpus: Corpus) -> PageWorlds:
    return PageWorlds(corpus, BM25(corpus.texts))


def played(speaker: TinySpeaker, corpus: Corpus, count: int = 20, temperature: float = 1.0) -> list[Trajectory]:
    torch.manual_seed(1)
    tasks = [question for question in corpus.splits["rl"][: count // 5] for _ in range(5)]
    return converse(speaker, worlds(corpus), tasks, SpeakConfig(temperature))


def test_log_probabilities_are_those_of_training(talkative: TinySpeaker, corpus: Corpus) -> None:
    """(g): what the sampler noted, with memory, ragged turns and rows that leave, is what one pass over it says."""
    trajectories = played(talkative, corpus)
    assert len({len(one.anchors) for one in trajectories}) > 1  # ragged indeed
    assert sum(len(one.images) for one in trajectories) > 10
    batch = collate(trajectories)
    with torch.no_grad():
        logprobs, entropy = talkative.score(batch.ids, batch.real, batch.images)
    gap = (logprobs - batch.logprobs)[batch.sampled].abs().max()
    assert gap < 1e-5
    assert bool((entropy[batch.sampled] >= 0).all())


def test_rows_do_not_depend_on_their_company(talkative: TinySpeaker, corpus: Corpus) -> None:
    """Greedy conversations are the same alone and together."""
    questions = corpus.splits["test"][:6]
    together = converse(talkative, worlds(corpus), questions, SpeakConfig(0.0))
    for question, one in zip(questions, together, strict=True):
        (alone,) = converse(talkative, worlds(corpus), [question], SpeakConfig(0.0))
        assert alone.ids == one.ids and alone.sampled == one.sampled


def test_no_more_episodes_are_live_than_allowed(talkative: TinySpeaker, corpus: Corpus) -> None:
    """A cap of three: the same greedy conversations in waves, each with its own record."""
    few, tasks = worlds(corpus), corpus.splits["rl"][:8]
    few.live = 3  # type: ignore[assignment]
    seen: list[int] = []
    reset = few.reset
    few.reset = lambda some: seen.append(len(some)) or reset(some)  # type: ignore[method-assign, func-returns-value]
    capped = converse(talkative, few, tasks, SpeakConfig(0.0))
    assert seen == [3, 3, 2] and [one.record.task for one in capped if one.record] == list(tasks)
    together = converse(talkative, worlds(corpus), tasks, SpeakConfig(0.0))
    assert [one.ids for one in capped] == [one.ids for one in together]
    assert len(shown(talkative, corpus, 8)) == 8


def test_history_is_kept_as_it_was_sampled(talkative: TinySpeaker, corpus: Corpus) -> None:
    """Every conversation reads: the world's turn, then the agent's, whose words are what the world was told."""
    for one in played(talkative, corpus):
        assert one.record is not None and len(one.ids) == len(one.sampled) == len(one.logprobs) == len(one.turns)
        assert one.ids.count(talkative.words.id(IMAGE)) == PATCHES * len(one.images)
        assert one.turns == sorted(one.turns) and one.turns[-1] == len(one.anchors) - 1
        for turn, action in enumerate(one.record.actions):
            tokens = [part[:2] for part in zip(one.ids, one.sampled, one.turns, strict=True) if part[2] == turn]
            assert talkative.decode([token for token, mine in tokens if mine]) == action
            heard = [token for token, mine in tokens if not mine]
            assert heard[0] == talkative.words.id(USER) and heard[-1] == talkative.words.id(AGENT)


def test_an_agent_cannot_forge_turns_of_the_world() -> None:
    """Marks of roles and pictures are never sampled, however hot."""
    torch.manual_seed(0)
    speaker = TinySpeaker()
    corpus = tiny_corpus(0, sft=2, rl=2, test=2)
    trajectories = converse(speaker, worlds(corpus), corpus.splits["rl"] * 10, SpeakConfig(5.0))
    marks = {speaker.words.id(mark) for mark in (USER, AGENT, IMAGE)}
    said = {token for one in trajectories for token, mine in zip(one.ids, one.sampled, strict=True) if mine}
    assert len(said) > 50 and not said & marks


def test_turns_and_conversations_are_cut_by_length(talkative: TinySpeaker, corpus: Corpus) -> None:
    """An unclosed turn ends the episode, and so does a conversation over the context: that is no parse error."""
    tasks = corpus.splits["rl"][:4]
    short = converse(talkative, worlds(corpus), tasks, SpeakConfig(longest=2))
    assert all(one.record is not None and one.record.outcome == "length" and not one.record.invalid for one in short)
    assert all(sum(one.sampled) == 2 for one in short)
    talkative.context = 40
    try:
        cut = converse(talkative, worlds(corpus), tasks * 4, SpeakConfig())
    finally:
        talkative.context = TinyConfig().context
    assert all(len(one.ids) <= 40 for one in cut)
    assert {one.record.outcome for one in cut if one.record} & {"length"}


def test_observations_are_not_learnt(talkative: TinySpeaker, corpus: Corpus) -> None:
    """(f): other targets at what the world said leave the loss of imitation as it was, by its mask."""
    batch = collate(shown(talkative, corpus, 8))
    assert bool((batch.sampled <= batch.real).all())
    words = [talkative.words.surfaces[token] for token in batch.ids[batch.sampled].tolist()]
    assert USER not in words and AGENT not in words and IMAGE not in words
    assert words.count("</answer>") == 8


def scored(paid: torch.Tensor, valid: bool = True) -> Scores:
    counted = torch.full_like(paid, valid, dtype=torch.bool)
    return Scores(paid, counted, paid == 1, paid[:, None].expand(-1, 3), torch.tensor([0.2, 0.7, 0.1]))


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_member_learns(name: str, talkative: TinySpeaker, corpus: Corpus) -> None:
    """One batch, in which some members of each group are paid: afterwards these are likelier than the others."""
    speaker = TinySpeaker()
    speaker.load_state_dict(talkative.state_dict())
    trajectories = played(speaker, corpus, 20)
    paid = torch.tensor([1.0, 0, 0, 1, 0] * 4)
    scores = scored(paid)
    batch = collate(trajectories)

    def likely() -> torch.Tensor:
        with torch.no_grad():
            logprobs, _ = speaker.score(batch.ids, batch.real, batch.images)
        mean = (logprobs * batch.sampled).sum(1) / batch.sampled.sum(1)
        return mean[paid == 1].mean() - mean[paid == 0].mean()

    before = likely()
    metrics = GRPO(speaker, GRPOConfig(epochs=1), preset(name)).learn(trajectories, scores)
    assert likely() > before
    assert metrics["train/sampler_gap"] < 1e-5 and metrics["train/void"] == 0


def test_equal_and_void_groups_change_nothing_and_are_reported(talkative: TinySpeaker, corpus: Corpus) -> None:
    """No variance teaches nothing, and says so; nor does what broke."""
    speaker = TinySpeaker()
    speaker.load_state_dict(talkative.state_dict())
    trajectories = played(speaker, corpus, 10)
    learner = GRPO(speaker, GRPOConfig(), preset("dapo"))
    alike = learner.learn(trajectories, scored(torch.ones(10)))
    assert alike["train/equal_groups"] == 1 and alike["train/sampler_gap"] < 1e-5
    found = learner.learn(trajectories, scored(torch.rand(10), valid=False))
    assert found["train/void"] == 1 and found["train/equal_groups"] == 1
    assert all(torch.equal(value, talkative.state_dict()[name]) for name, value in speaker.state_dict().items())


def test_surfaces_round_trip() -> None:
    speaker = TinySpeaker()
    for text in ("<think> look ring upper-left</think><bbox> 8 0 16 8</bbox>", "What is below the bar of doctor dog?"):
        assert speaker.decode(speaker.write(text)) == text
    with pytest.raises(ValueError, match="nothing that 'Paris'"):
        speaker.read(Turn("Paris"), first=True)


def test_pictures_of_another_size_are_refused() -> None:
    def wrong(shape: Sequence[int]) -> Turn:
        return Turn(images=(torch.zeros(*shape, dtype=torch.uint8),))

    speaker = TinySpeaker()
    assert len(speaker.read(wrong((24, 24, 1)), first=False).ids) == PATCHES + 2
    with pytest.raises(ValueError, match=r"24 x 24 x 1.*\[32, 24, 1\]"):
        speaker.read(wrong((32, 24, 1)), first=False)


def test_a_teacher_speaks_first(talkative: TinySpeaker, corpus: Corpus) -> None:
    """Hints are said word for word, carried out, and never learnt as the agent's own; it goes on from them."""
    torch.manual_seed(0)
    tasks = corpus.splits["rl"][:4]
    hints = [["<think> need</think><search> doctor dog</search>"] * (row % 3) for row in range(4)]
    found = converse(talkative, worlds(corpus), tasks, SpeakConfig(), hints)
    for one, hint in zip(found, hints, strict=True):
        assert one.record is not None and one.record.actions[: len(hint)] == hint
        ids = [token for token, theirs in zip(one.ids, one.hinted, strict=True) if theirs]
        assert talkative.decode(ids) == "".join(hint)
        assert not any(mine and theirs for mine, theirs in zip(one.sampled, one.hinted, strict=True))
        assert len(one.anchors) > len(hint) and any(one.sampled)
    batch = collate(found)
    with torch.no_grad():
        logprobs, _ = talkative.score(batch.ids, batch.real, batch.images)
    assert (logprobs - batch.logprobs)[batch.sampled].abs().max() < 1e-5
    torch.manual_seed(3)
    plain = converse(talkative, worlds(corpus), tasks, SpeakConfig())
    torch.manual_seed(3)
    assert [one.ids for one in converse(talkative, worlds(corpus), tasks, SpeakConfig(), [[]] * 4)] == [
        one.ids for one in plain
    ]
    overlong = converse(talkative, worlds(corpus), tasks[:1], SpeakConfig(), [["<search> doctor dog</search>"] * 40])
    assert overlong[0].record is not None and overlong[0].record.outcome in ("length", "turns")


def test_hints_are_imitated_as_much_as_is_asked(talkative: TinySpeaker, corpus: Corpus) -> None:
    """PrefixRL learns nothing from a prefix, SEELE a little: with equal scores only that is left."""
    tasks, hint = corpus.splits["rl"][:2] * 2, ["<think> need</think><search> doctor dog</search>"]
    torch.manual_seed(0)
    played = converse(talkative, worlds(corpus), tasks, SpeakConfig(), [hint] * 4)
    moved = {}
    for weight in (0.0, 0.5):
        speaker = TinySpeaker()
        speaker.load_state_dict(talkative.state_dict())
        learner = GRPO(speaker, GRPOConfig(group=4, epochs=1, hint_weight=weight), preset("dapo"))
        metrics = learner.learn(played, scored(torch.ones(4)))
        moved[weight] = speaker.norm.weight.sub(talkative.norm.weight).abs().max().item()
        assert ("train/hint_loss" in metrics) == (weight > 0)
    assert moved[0.0] == 0 < moved[0.5]


def test_the_critic_learns_what_comes(talkative: TinySpeaker, corpus: Corpus) -> None:
    """Values begin at 0 and come to tell conversations that are paid from others; a copy goes on exactly the same."""
    played = played_by(talkative, corpus)
    batch, paid = collate(played), torch.tensor([float(n % 2) for n in range(len(played))])
    mask = batch.sampled
    critic = Critic(talkative, CriticConfig(decay=1.0, learning_rate=5e-3, clip=10.0))
    advantage, target, value = critic.judge(batch, paid, mask)
    assert bool((value == 0).all())
    assert torch.equal(advantage, torch.where(mask, paid[:, None], 0.0)) and torch.equal(target, advantage)
    rows = torch.arange(len(played))
    first = critic.step(batch, rows, batch.images, target, value, mask)
    for _ in range(30):
        last = critic.step(batch, rows, batch.images, target, value, mask)
    assert last < 0.5 * first
    twin = Critic(talkative, critic.config)
    twin.load_state_dict({name: value.clone() for name, value in critic.state_dict().items()})
    losses = [one.step(batch, rows, batch.images, target, value, mask) for one in (critic, twin)]
    assert torch.equal(*losses)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in critic.state_dict().items())


def played_by(speaker: TinySpeaker, corpus: Corpus) -> list[Trajectory]:
    torch.manual_seed(2)
    return converse(speaker, worlds(corpus), corpus.splits["rl"][:8], SpeakConfig())
