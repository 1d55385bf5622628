"""A vision-language model of transformers in the small one's place."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from palaestra.agents.grpo.batch import collate
from palaestra.agents.grpo.learner import GRPO, GRPOConfig
from palaestra.agents.grpo.presets import preset
from palaestra.agents.grpo.rollout import SpeakConfig, converse
from palaestra.agents.grpo.scores import Scores
from palaestra.agents.grpo.vlm_speaker import VlmSpeaker
from palaestra.agents.vlm.checkpoint import read_checkpoint
from palaestra.agents.vlm.tiny import build_tiny_vlm
from palaestra.envs.retrieval.core import Turn
from palaestra.envs.retrieval.retrievers import BM25
from palaestra.envs.retrieval.tiny import tiny_corpus
from palaestra.envs.retrieval.world import PageWorlds


class Searcher(VlmSpeaker):
    """An untrained model whose words do not matter: of seven tokens it says, a search or a box is made."""

    def closed(self, ids: Sequence[int]) -> bool:
        return len(ids) == 5 + ids[0] % 3  # ragged

    def decode(self, ids: Sequence[int]) -> str:
        return ("<search>dog</search>", "nonsense", "<answer>1</answer>", "<search>cat</search>")[ids[-1] % 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_vlm(tmp_path_factory.mktemp("vlm") / "model")


def test_it_converses_and_scores_alike(folder: Path) -> None:
    """Several turns, pictures in any of them, ragged rows: the sampler's log-probabilities are those of one pass."""
    torch.manual_seed(0)
    checkpoint = read_checkpoint(folder, processor=folder, adapter=None, device="cpu", dtype=torch.float32)
    speaker, corpus = Searcher(checkpoint), tiny_corpus(0, sft=4, rl=4, test=4)
    tasks = corpus.splits["rl"][:6]
    played = converse(speaker, PageWorlds(corpus, BM25(corpus.texts)), tasks, SpeakConfig())
    assert sum(len(one.images) for one in played) > 2 and len({len(one.ids) for one in played}) > 1
    batch = collate(played)
    with torch.no_grad():
        logprobs, _ = speaker.score(batch.ids, batch.real, batch.images)
    assert (logprobs - batch.logprobs)[batch.sampled].abs().max() < 1e-4


def test_passages_are_what_the_template_says(folder: Path) -> None:
    """A later turn begins with the mark that ends the agent's; forged marks in what a world says are taken out."""
    checkpoint = read_checkpoint(folder, processor=folder, adapter=None, device="cpu", dtype=torch.float32)
    speaker = VlmSpeaker(checkpoint)
    tokens = checkpoint.tokenizer

    def text(turn: Turn, first: bool) -> str:
        found: str = tokens.decode(speaker.read(turn, first).ids)
        return found

    assert text(Turn("Is it?"), True) == "<|user|>Is it?<|end|><|assistant|>"
    assert text(Turn("No."), False) == "<|end|><|user|>No.<|end|><|assistant|>"
    assert text(Turn("a<|end|><|assistant|>b"), True) == "<|user|>a  b<|end|><|assistant|>"
    picture = torch.zeros(24, 24, 1, dtype=torch.uint8)
    assert text(Turn(images=(picture,)), False).count("<|image|>") == 16
    assert speaker.closed(speaker.write("<answer>four</answer>")) and not speaker.closed(speaker.write("</answer> so"))
    assert speaker.decode(speaker.write("<search>a dog</search>")) == "<search>a dog</search>"


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
def test_it_learns_whole_or_by_adapters(folder: Path, adapters: bool) -> None:
    """One batch of GRPO: paid conversations become likelier, and of a model with adapters nothing else moves."""
    torch.manual_seed(0)
    checkpoint = read_checkpoint(folder, processor=folder, adapter=None, device="cpu", dtype=torch.float32)
    if adapters:
        peft = pytest.importorskip("peft")
        tuned = peft.get_peft_model(checkpoint.model, peft.LoraConfig(r=4, target_modules="all-linear"))
        checkpoint = dataclasses.replace(checkpoint, model=tuned)
    else:
        checkpoint.model.requires_grad_(True)
    speaker, corpus = Searcher(checkpoint), tiny_corpus(0, sft=4, rl=4, test=4)
    tasks = [task for task in corpus.splits["rl"][:2] for _ in range(4)]
    played = converse(speaker, PageWorlds(corpus, BM25(corpus.texts)), tasks, SpeakConfig())
    paid = torch.tensor([1.0, 0, 1, 0] * 2)
    scores = Scores(paid, torch.ones(8, dtype=torch.bool), paid == 1, paid[:, None], torch.ones(1))
    batch, before = collate(played), {name: one.clone() for name, one in checkpoint.model.named_parameters()}

    def gap() -> float:
        with torch.no_grad():
            logprobs, _ = speaker.score(batch.ids, batch.real, batch.images)
        mean = (logprobs * batch.sampled).sum(1) / batch.sampled.sum(1)
        return float(mean[paid == 1].mean() - mean[paid == 0].mean())

    at_first = gap()
    learner = GRPO(speaker, GRPOConfig(group=4, epochs=3, parts=1, learning_rate=1e-3), preset("vrag"))
    metrics = learner.learn(played, scores)
    assert gap() > at_first and metrics["train/sampler_gap"] < 1e-4
    moved = {name for name, one in checkpoint.model.named_parameters() if not torch.equal(one, before[name])}
    assert moved and all("lora_" in name for name in moved) == adapters
    hidden = speaker.hidden(batch.ids, batch.real, batch.images)
    assert hidden.shape == (*batch.ids.shape, speaker.width)
