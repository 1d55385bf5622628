"""VRAG-RL as a run: a small model learns to see, imitates a teacher, then finds out by reinforcement what works.

One folder in the end, laid out as every run's: `config.json`, `metrics.jsonl`, `stage0.safetensors` (what it brought
along), `imitated.safetensors`, `learnt.safetensors`, and `result.json` with the answers to held-out questions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from palaestra.agents.grpo.imitation import demonstrate, imitate
from palaestra.agents.grpo.learner import GRPO, Scores
from palaestra.agents.grpo.presets import preset
from palaestra.agents.grpo.pretrain import pretrain
from palaestra.agents.grpo.rollout import SpeakConfig, Trajectory, converse
from palaestra.agents.grpo.tiny import TinySpeaker
from palaestra.envs.core import episode_seed
from palaestra.envs.retrieval.corpus import Question
from palaestra.envs.retrieval.expert import plan
from palaestra.envs.retrieval.retrievers import BM25
from palaestra.envs.retrieval.tiny import tiny_corpus
from palaestra.envs.retrieval.views import TINY
from palaestra.envs.retrieval.world import PageWorlds
from palaestra.launch.config import EVALUATION_SEED
from palaestra.launch.files import write_atomically
from palaestra.launch.randomness import seeded
from palaestra.launch.result import FORMAT, provenance
from palaestra.launch.statistics import wilson
from palaestra.launch.track import Tracker
from palaestra.launch.vrag_config import VragRecipe
from palaestra.rewards.retrieval import RetrievalReward, Score

WORLD = "retrieval/tiny-pages"
CORPUS_SEED = 0
"""The corpus is the same for every run: rates of different runs are paired."""
SUCCESS = "the answer equals the reference, up to case, articles and punctuation"


def train_vrag(recipe: VragRecipe, run: Path) -> Path:
    """Start a run in a new folder and take it to its end; return the folder.

    Raises:
        FileExistsError: The folder already holds a run.
        ValueError: The recipe cannot work.
    """
    recipe.validate()
    if (run / "config.json").exists():
        raise FileExistsError(f"{run} already holds a run; choose another --run.")
    write_atomically(run / "config.json", (json.dumps(asdict(recipe), indent=2) + "\n").encode())
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    return _Run(recipe, run).play()


class _Run:
    """A run in progress."""

    def __init__(self, recipe: VragRecipe, run: Path) -> None:
        self.recipe, self.run = recipe, run
        self.corpus = tiny_corpus(CORPUS_SEED)
        self.worlds = PageWorlds(self.corpus, BM25(self.corpus.texts), recipe.world)
        self.reward = RetrievalReward(recipe.reward)
        self.speaker = TinySpeaker()
        self.seconds: dict[str, float] = {}
        self.actions = 0

    def play(self) -> Path:
        """Play the run to its end."""
        recipe = self.recipe
        with Tracker(self.run, recipe.updates) as self.tracker:
            self._timed("pretrain", self._pretrain)
            self._timed("imitate", self._imitate)
            held_out = self.corpus.splits["test"][: recipe.questions]
            evaluations = self._evaluate("before", held_out)
            if recipe.updates:
                self._timed("reinforce", self._reinforce)
                evaluations += self._evaluate("after", held_out)
        document = {
            "format": FORMAT, "recipe": recipe.name, "world": WORLD, "seed": recipe.seed, **provenance(),
            "config": asdict(recipe), "seconds": self.seconds,
            "parameters": sum(value.numel() for value in self.speaker.parameters()), "evaluations": evaluations,
        }  # fmt: skip
        write_atomically(self.run / "result.json", (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
        return self.run

    def _timed(self, name: str, stage: Any) -> None:
        started = time.perf_counter()
        stage()
        self.seconds[name] = time.perf_counter() - started

    def _say(self, stage: str, metrics: Mapping[str, float]) -> None:
        self.tracker.console.print(stage + ": " + ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))

    def _save(self, name: str) -> None:
        tensors = {key: value.contiguous() for key, value in self.speaker.state_dict().items()}
        write_atomically(self.run / f"{name}.safetensors", save(tensors))

    def _pretrain(self) -> None:
        """Give the model what a vision-language model brings along, or read it from another run."""
        if self.recipe.base or self.recipe.imitated:
            self.speaker.load_state_dict(load_file(self.recipe.base or self.recipe.imitated))
            self.speaker.eyes.requires_grad_(False)
        else:
            for metrics in pretrain(self.speaker, self.recipe.pretrain, self.recipe.seed):
                self._say("seeing and pointing", metrics)
        self._save("stage0")

    def _imitate(self) -> None:
        """Imitate a teacher on the questions that are for it, or read what another run made of that."""
        recipe = self.recipe
        if recipe.imitated:
            self.speaker.load_state_dict(load_file(recipe.imitated))
            return
        generator = np.random.default_rng((recipe.seed, 0x736674))
        questions = self.corpus.splits["sft"]
        chosen = [questions[i] for i in generator.integers(len(questions), size=recipe.imitation.trajectories)]
        pages = {page.id: page for page in self.corpus.pages}
        plans = [plan(question, pages, TINY, recipe.expert, generator) for question in chosen]
        if not recipe.world.crop:
            plans = [[said for said in one if "<bbox>" not in said] for one in plans]
        demonstrations = demonstrate(self.speaker, self.worlds, chosen, plans)
        for metrics in imitate(self.speaker, demonstrations, recipe.imitation):
            self._say("imitation", metrics)
        self._save("imitated")

    def _reinforce(self) -> None:
        """Let it find out what works."""
        recipe = self.recipe
        learner = GRPO(self.speaker, recipe.grpo, preset(recipe.objective))
        generator = np.random.default_rng((recipe.seed, 0x726C))
        questions, watched = self.corpus.splits["rl"], self.corpus.splits["test"][: recipe.watched]
        for update in range(1, recipe.updates + 1):
            started = time.perf_counter()
            prompts = generator.choice(len(questions), recipe.prompts, replace=False)
            tasks = [questions[index] for index in prompts.tolist() for _ in range(recipe.grpo.group)]
            played = converse(self.speaker, self.worlds, tasks, SpeakConfig(longest=recipe.longest))
            found = [self.reward(one.record) for one in played if one.record is not None]
            talked = time.perf_counter()
            metrics = learner.learn(played, _scores(found, recipe))
            metrics |= {"time/converse": talked - started, "time/learn": time.perf_counter() - talked}
            self.actions += sum(len(one.anchors) for one in played)
            summary = summarise(played, found)
            metrics |= {f"rollout/{name}": value for name, value in summary.items()}
            metrics["rollout/success_once"] = metrics.pop("rollout/accuracy")
            if update % recipe.every == 0 or update == recipe.updates:
                metrics |= self._watch(watched)
            self.tracker.log(update, self.actions, metrics)
        self._save("learnt")

    def _watch(self, questions: Sequence[Question]) -> dict[str, float]:
        """Return what held-out questions say on the way, answered greedily."""
        played = converse(self.speaker, self.worlds, questions, SpeakConfig(0.0, self.recipe.longest))
        summary = summarise(played, [self.reward(one.record) for one in played if one.record is not None])
        summary["success_once"] = summary.pop("accuracy")
        return {f"eval/{name}": value for name, value in summary.items()}

    def _evaluate(self, name: str, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """Return evaluations as `result.json` holds them: deployed (greedy), and as it explores (sampled)."""
        found = []
        for temperature, suffix in ((0.0, ""), (1.0, ", sampled")):
            with seeded(episode_seed(EVALUATION_SEED, self.recipe.seed)):
                played = converse(self.speaker, self.worlds, questions, SpeakConfig(temperature, self.recipe.longest))
            scores = [self.reward(one.record) for one in played if one.record is not None]
            found.append(evaluation(name + suffix, played, scores))
            self._say(name + suffix, summarise(played, scores))
        return found


def _scores(found: Sequence[Score | None], recipe: VragRecipe) -> Scores:
    """Return scores as the learner takes them."""
    parts = [(0.0, 0.0, 0.0) if one is None else (one.retrieval, one.answer, one.form) for one in found]
    weights = recipe.reward
    return Scores(
        total=torch.tensor([0.0 if one is None else one.total for one in found]),
        valid=torch.tensor([one is not None for one in found]),
        parts=torch.tensor(parts),
        weights=torch.tensor([weights.retrieval, weights.answer, weights.form]),
    )


def summarise(played: Sequence[Trajectory], scores: Sequence[Score | None]) -> dict[str, float]:
    """Return what conversations were like; void ones count only as such."""
    pairs = [(one.record, score) for one, score in zip(played, scores, strict=True) if score is not None]
    records = [record for record, _ in pairs if record is not None]
    kept = [score for _, score in pairs]
    if not kept:
        return {"episodes": 0.0, "void": float(len(played)), "accuracy": 0.0}
    actions = sum(len(record.actions) for record in records)
    count = len(kept)
    return {
        "episodes": float(count),
        "void": float(len(played) - count),
        "accuracy": sum(score.answer == 1 for score in kept) / count,
        "ndcg": sum(score.retrieval for score in kept) / count,
        "reward": sum(score.total for score in kept) / count,
        "form": sum(score.form for score in kept) / count,
        "invalid": sum(record.invalid for record in records) / max(actions, 1),
        "finished": sum(record.finished for record in records) / count,
        "turns": actions / count,
        "crops": sum(record.crops for record in records) / count,
        "cut_by_length": sum(record.outcome == "length" for record in records) / count,
    }


def evaluation(name: str, played: Sequence[Trajectory], scores: Sequence[Score | None]) -> dict[str, Any]:
    """Return an evaluation as `result.json` holds it, with what is particular to retrieval beside."""
    episodes, ndcgs = [], []
    for number, (one, score) in enumerate(zip(played, scores, strict=True)):
        if score is None or one.record is None:
            continue
        right = bool(score.answer == 1)
        ndcgs.append(score.retrieval)
        episodes.append(
            {
                "seed": number,
                "success_once": right,
                "success_at_end": right,
                "return": score.total,
                "length": len(one.record.actions),
                "ndcg": score.retrieval,
                "outcome": one.record.outcome,
                "crops": one.record.crops,
                "invalid": one.record.invalid,
            }
        )
    summary = summarise(played, scores)
    successes = sum(bool(episode["success_once"]) for episode in episodes)
    finished = sum(episode["outcome"] == "answered" for episode in episodes)
    spread = 1.96 * float(np.std(ndcgs)) / max(len(ndcgs), 1) ** 0.5
    rate, interval = summary["accuracy"], wilson(successes, len(episodes))
    return {
        "name": name, "success_definition": SUCCESS, "episodes": len(episodes), "success_once": rate,
        "success_at_end": rate, "interval_once": interval, "interval_at_end": interval,
        "faults": len(played) - len(episodes), "return_mean": summary.get("reward"),
        "length_mean": summary.get("turns"), "seed": CORPUS_SEED, "count": len(played), "quota": len(played),
        "ndcg": summary.get("ndcg"), "ndcg_interval": (float(np.mean(ndcgs)) - spread, float(np.mean(ndcgs)) + spread),
        "finished": summary.get("finished"), "finished_interval": wilson(finished, len(episodes)),
        "invalid_share_of_actions": summary.get("invalid"), "crops_mean": summary.get("crops"),
        "episode_list": episodes,
    }  # fmt: skip
