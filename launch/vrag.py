"""VRAG-RL as a run: a small model learns to see, imitates a teacher, then finds out by reinforcement what works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from palaestra.agents.grpo.pretrain import pretrain
from palaestra.agents.grpo.scores import Scores
from palaestra.agents.grpo.tiny import TinySpeaker
from palaestra.agents.vlm.client import Client, connect
from palaestra.envs.retrieval.core import Record
from palaestra.envs.retrieval.corpus import Question
from palaestra.envs.retrieval.expert import ExpertConfig, plan
from palaestra.envs.retrieval.retrievers import BM25
from palaestra.envs.retrieval.tiny import tiny_corpus
from palaestra.envs.retrieval.views import TINY
from palaestra.envs.retrieval.world import PageWorlds
from palaestra.launch.config_conversation import AnswerJudgeConfig, VragRecipe
from palaestra.launch.conversation import ConversationRun
from palaestra.launch.files import write_atomically
from palaestra.rewards.answers import AnswerJudge, Judge, anls, exact, numeric
from palaestra.rewards.retrieval import RetrievalReward, Score

CORPUS_SEED = 0
"""The corpus is the same for every run: rates of different runs are paired."""
BEST = ExpertConfig(naive=0.0, skip=0.0)
"""The teacher at its best: what hints are cut from."""


class VragRun(ConversationRun):
    """A run in VRAG's world."""

    recipe: VragRecipe
    success = "the answer equals the reference, up to case, articles and punctuation"
    speaker: TinySpeaker
    client: Client | None = None

    @property
    def world(self) -> str:
        """The worlds' id."""
        return "retrieval/tiny-pages"

    def open(self) -> None:
        """Make a corpus, its retriever, and worlds about it."""
        recipe = self.recipe
        corpus = tiny_corpus(CORPUS_SEED)
        self.pages = {page.id: page for page in corpus.pages}
        self.worlds = PageWorlds(corpus, BM25(corpus.texts), recipe.world)
        self.tasks = corpus.splits
        self.speaker = TinySpeaker()
        self.reward = RetrievalReward(recipe.reward, self._judge(recipe.judge))
        self.truth = RetrievalReward(recipe.reward, exact)

    def pretrain(self) -> None:
        """Give the model what a vision-language model brings along, or read it from another run."""
        if self.recipe.base:
            self.speaker.load_state_dict(load_file(self.recipe.base))
        else:
            for metrics in pretrain(self.speaker, self.recipe.pretrain, self.recipe.seed):
                self.say("seeing and pointing", metrics)
        self.freeze()
        tensors = {key: value.contiguous() for key, value in self.speaker.state_dict().items()}
        write_atomically(self.run / "stage0.safetensors", save(tensors))

    def freeze(self) -> None:
        """Freeze what sees, as VRAG does."""
        self.speaker.eyes.requires_grad_(False)

    def demonstration(self, task: Question, generator: np.random.Generator) -> list[str]:
        """Return what the teacher says, with its faults."""
        return self._plan(task, self.recipe.expert, generator)

    def solution(self, task: Question) -> list[str]:
        """Return what the teacher says at its best."""
        return self._plan(task, BEST, np.random.default_rng(0))

    def _plan(self, task: Question, config: ExpertConfig, generator: np.random.Generator) -> list[str]:
        said = plan(task, self.pages, TINY, config, generator)
        return said if self.recipe.world.crop else [one for one in said if "<bbox>" not in one]

    def scores(self, records: Sequence[Record], learning: bool) -> Scores:
        """Return rewards; success is an answer that is exactly right, whoever judges what is learnt from."""
        found = (self.reward if learning else self.truth).many(records)
        right = [exact("", record.task.answer, record.answer) == 1 if record.answer else False for record in records]
        return as_scores(found, right, self.recipe)

    def details(self, records: Sequence[Record], scores: Scores) -> dict[str, Any]:
        """Return NDCG with its interval, form and crops."""
        valid = scores.valid
        if not bool(valid.any()):
            return {}
        ndcg = scores.parts[valid, 0].double()
        spread = 1.96 * float(ndcg.std(correction=0)) / len(ndcg) ** 0.5
        crops = [record.crops for record, kept in zip(records, valid.tolist(), strict=True) if kept]
        return {
            "ndcg": float(ndcg.mean()), "ndcg_interval": (float(ndcg.mean()) - spread, float(ndcg.mean()) + spread),
            "form": float(scores.parts[valid, 2].mean()), "crops": sum(crops) / len(crops),
        }  # fmt: skip

    def close(self) -> None:
        """Leave the judge."""
        if self.client is not None:
            self.client.close()

    def _judge(self, config: AnswerJudgeConfig) -> Judge:
        if config.kind == "model":
            self.client = connect(config.server)
            return AnswerJudge(self.client, config.model)
        return {"exact": exact, "numeric": numeric, "anls": anls}[config.kind]


def as_scores(found: Sequence[Score | None], right: Sequence[bool], recipe: VragRecipe) -> Scores:
    """Return scores as a learner takes them."""
    parts = [(0.0, 0.0, 0.0) if one is None else (one.retrieval, one.answer, one.form) for one in found]
    weights = recipe.reward
    return Scores(
        total=torch.tensor([0.0 if one is None else one.total for one in found]),
        valid=torch.tensor([one is not None for one in found]),
        solved=torch.tensor(right),
        parts=torch.tensor(parts),
        weights=torch.tensor([weights.retrieval, weights.answer, weights.form]),
    )
