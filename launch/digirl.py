"""A run of DigiRL: imitate an expert, play, learn from what was played, and go on playing and learning."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.digirl.episodes import Episode, read_episodes, save_episode
from palaestra.agents.digirl.learner import DigiRL
from palaestra.agents.optimiser import under
from palaestra.agents.vlm.checkpoint import read_checkpoint
from palaestra.agents.vlm.client import Client
from palaestra.agents.vlm.core import Message
from palaestra.agents.vlm.policy import Prompt, VLMPolicy, prompts_of
from palaestra.agents.vlm.sft import Tuner
from palaestra.agents.vlm.speaker import Speaker
from palaestra.agents.vlm.tiny import build_tiny_vlm, set_phrases
from palaestra.envs.core import Fault, Observation, Worlds
from palaestra.envs.registry import make
from palaestra.launch.config import EVALUATION_SEED, DigiRLRecipe
from palaestra.launch.connect import connect_to
from palaestra.launch.episodes import SEEDS, Played, demonstrate, kinds_of, play
from palaestra.launch.evaluate import Evaluation, evaluate
from palaestra.launch.run import WorldsRun
from palaestra.launch.train import make_worlds
from palaestra.rewards.judge import Evidence, Judge, ModelJudge, NoisyJudge, StateJudge, agreement

STAGES = ("before", "offline", "after")
"""Names of the evaluations that the result holds."""
TOGETHER = 64
"""Prompts whose features are computed at once."""


class DigiRLRun(WorldsRun):
    """Imitation of an expert, an offline stage on what the imitator did, then rounds of playing and learning."""

    recipe: DigiRLRecipe
    learner: DigiRL
    keep = 2
    client: Client | None = None

    def build(self) -> None:
        """Make phones, and an agent that has imitated the expert."""
        recipe = self.recipe
        self.worlds = make_worlds(recipe, training=True)
        self.tests = make_worlds(recipe)
        self.further_tests = _unseen(recipe)
        imitator = self._imitator()
        frozen = read_checkpoint(imitator, processor=imitator, adapter=None, device=recipe.device, dtype="auto")
        self.reader = Speaker(frozen)
        self.read: dict[str, Tensor] = {}
        tuner, policy = _actor(recipe, imitator)
        width = 4 * frozen.model.config.get_text_config().hidden_size
        self.learner = DigiRL(tuner, policy, recipe.learner, width=width, horizon=recipe.horizon)
        self.judge = self._make_judge()
        self.episodes = list(read_episodes(self.run / "episodes"))

    def due(self) -> bool:
        """Whether a boundary follows: after the offline stage, and then every so many rounds."""
        return self.iteration == 1 or (self.iteration - 1) % self.recipe.every == 0

    def stage(self) -> str:
        """Name the end of the offline stage."""
        return "offline" if self.iteration == 1 else ""

    def restart(self) -> None:
        """Do nothing: every round starts its own episodes."""

    def evaluate(self, episodes: int, name: str) -> Evaluation:
        """Evaluate on the tasks kept for it, sampling as in training."""
        return evaluate(self.tests, self.learner.policy, episodes, EVALUATION_SEED, name)

    def further(self, evaluation: Evaluation) -> Mapping[str, float]:
        """Return each kind's success, and at the end of a stage the rate on tasks that training never sees."""
        metrics = {f"kind/{name}": share for name, share in _by_kind(self.tests, evaluation).items()}
        if evaluation.name not in STAGES:
            return metrics
        unseen = evaluate(
            self.further_tests, self.learner.policy, self.recipe.final_episodes // 2, EVALUATION_SEED,
            f"{evaluation.name}, tasks never seen",
        )
        self.tracker.console.print(unseen.summary)
        metrics |= {f"unseen/{name}": share for name, share in _by_kind(self.further_tests, unseen).items()}
        low, high = unseen.interval_once or (None, None)
        rates = {"success_once": unseen.success_once, "success_once_low": low, "success_once_high": high}
        return metrics | {f"unseen/{name}": rate for name, rate in rates.items() if rate is not None}

    def iterate(self) -> dict[str, float]:
        """Play and learn: first a whole offline set, later a round of one episode a phone."""
        started, offline = time.perf_counter(), self.iteration == 0
        rounds = -(-self.recipe.offline_episodes // self.worlds.count) if offline else 1
        self.episodes = self.episodes[: self.learner.played]  # a round that was not finished is played again
        played: list[Played] = []
        faults: list[Fault] = []
        for number in range(rounds):
            episodes, broken = play(self.worlds, self._act, self._seed(number))
            played += episodes
            faults += broken
        simulated = time.perf_counter()
        verdicts = self._judge(played)
        if offline and self.recipe.imitation.steps:
            shown = demonstrate(self.recipe)  # they stay in the buffer, where the agent's own successes outnumber them
            self._keep(shown, self._judge(shown))
        self._keep(played, verdicts)
        self.learner.played = len(self.episodes)
        metrics = self.learner.learn(self.episodes[-self.recipe.capacity :], "offline" if offline else "online")
        self.iteration += 1
        self.env_steps += sum(len(one.actions) for one in played)
        return metrics | _agreed(verdicts, played) | {
            "rollout/episodes": float(len(played)),
            "rollout/success_once": sum(one.success for one in played) / max(len(played), 1),
            "rollout/length": sum(len(one.actions) for one in played) / max(len(played), 1),
            "rollout/faults": float(len(faults)),
            "rollout/lost": float(rounds * self.worlds.count - len(played)),
            "time/simulate": simulated - started,
            "time/learn": time.perf_counter() - simulated,
        }

    def _finish(self, metrics: dict[str, float]) -> None:
        super()._finish(metrics)
        if not (self.run / "actor").exists():
            self.learner.tuner.save(self.run / "actor")

    def close(self) -> None:
        """Free the phones."""
        super().close()
        if hasattr(self, "tests"):
            self.tests.close()
        if hasattr(self, "further_tests"):
            self.further_tests.close()
        if self.client is not None:
            self.client.close()

    def _make_judge(self) -> Judge:
        config = self.recipe.judge
        if config.kind == "model":
            self.client = connect_to(config.server, config.model)
            return ModelJudge(self.client, config.model)
        if config.kind == "noisy":
            return NoisyJudge(config.false_positive, config.false_negative)
        return StateJudge()

    def _act(self, observation: Observation, rows: Sequence[int]) -> Sequence[str]:
        action = self.learner.policy.act(observation).action
        assert not isinstance(action, Tensor)
        return action

    def _seed(self, round_number: int) -> int:
        return self.start_seed() + SEEDS * round_number

    def _judge(self, played: Sequence[Played]) -> list[bool | None]:
        """Return the verdicts that are learnt from; rates are always of the truth."""
        camera = self.recipe.cameras[0]
        return self.judge.judge(
            [
                Evidence(
                    one.observation.text[0].split("\n")[0],
                    torch.stack([one.observation.images[camera][-1], one.last.images[camera][0]]),
                    one.success,
                )
                for one in played
            ]
        )

    def _keep(self, played: Sequence[Played], verdicts: Sequence[bool | None]) -> None:
        """Add the judged episodes to those in memory and in the folder, with the features that the critics read."""
        prompts = [prompts_of(one.observation, self.recipe.cameras) for one in played]
        flat = [prompt for of_one in prompts for prompt in of_one]
        parts = [self.reader.features(flat[at : at + TOGETHER]) for at in range(0, len(flat), TOGETHER)]
        features = torch.cat(parts).cpu().split([len(of_one) for of_one in prompts])
        for one, of_one, seen, verdict in zip(played, prompts, features, verdicts, strict=True):
            if verdict is None:
                continue
            before = torch.cat([seen[:1], seen[:-1]])  # the first frame stands for the one before it, too
            instruction = self._read(of_one[0]).repeat(2)
            episode = Episode(one.observation, one.actions, verdict, torch.cat([seen, before], 1), instruction)
            save_episode(self.run / "episodes", len(self.episodes), episode)
            self.episodes.append(episode)

    def _read(self, prompt: Prompt) -> Tensor:
        """Return the features of a prompt's words alone; one at a time, so that they depend on nothing else."""
        words = tuple(Message(turn.role, tuple(p for p in turn.content if isinstance(p, str))) for turn in prompt)
        text = "".join(part for turn in words for part in turn.content if isinstance(part, str))
        if text not in self.read:
            self.read[text] = self.reader.features([words]).cpu()[0]
        return self.read[text]

    def _imitator(self) -> Path:
        """Return the folder of a checkpoint that has imitated the expert, trained where it is not there yet."""
        folder, recipe = self.run / "imitator", self.recipe
        if folder.exists():
            return folder
        if not recipe.imitation.steps:
            Tuner(Path(recipe.base), recipe.imitation).save(folder)
            return folder
        demonstrations = demonstrate(recipe)
        base = Path(recipe.base) if recipe.base else self.run / "base"
        if not base.exists():
            corpus = [text for one in demonstrations for text in (*one.observation.text, *one.actions)]
            quotes = {quote for one in demonstrations for quote in re.findall(r'"([^"]+)"', one.observation.text[0])}
            build_tiny_vlm(
                base, seed=recipe.seed, image_size=recipe.image_size, corpus=corpus, vocabulary=recipe.vocabulary,
                phrases=set_phrases([action for one in demonstrations for action in one.actions], copied=quotes),
                width=recipe.width, layers=recipe.layers,
            )
        samples = [
            _Pair(prompt, action)
            for one in demonstrations
            for prompt, action in zip(prompts_of(one.observation, recipe.cameras), one.actions, strict=True)
        ]
        tuner = Tuner(base, recipe.imitation, device=recipe.device)
        for number, metrics in enumerate(tuner.fit(samples, recipe.seed), start=1):
            if number % 100 == 0:
                print(f"imitation {number}/{recipe.imitation.steps}: loss {metrics['train/loss']:.3f}", flush=True)
        tuner.save(folder)
        if not recipe.base:
            shutil.rmtree(base)
        return folder


def _actor(recipe: DigiRLRecipe, imitator: Path) -> tuple[Tuner, VLMPolicy]:
    updates = recipe.learner.offline_updates + (recipe.iterations - 1) * recipe.learner.online_updates
    tuner = Tuner(imitator, replace(recipe.actor, steps=updates), device=recipe.device)
    policy = VLMPolicy(tuner.checkpoint, recipe.cameras, max_tokens=recipe.longest, temperature=recipe.temperature)
    return tuner, policy


def load_actor(run: Path, recipe: DigiRLRecipe, tensors: dict[str, Tensor]) -> VLMPolicy:
    """Return the actor that a checkpoint of a run holds."""
    tuner, policy = _actor(recipe, run / "imitator")
    tuner.load_state_dict(under("learner.actor.", tensors))
    return policy


@dataclass(frozen=True, slots=True)
class _Pair:
    """A step to imitate."""

    messages: Prompt
    answer: str


def _unseen(recipe: DigiRLRecipe) -> Worlds:
    """Return the phones with tasks that training never sees."""
    world = recipe.world
    options: dict[str, Any] = dict(world.options) | recipe.unseen
    return make(world.id, world.count, device=world.device, **options)


def _by_kind(worlds: Worlds, evaluation: Evaluation) -> dict[str, float]:
    """Return the success rate of each kind of task, where the world names kinds."""
    kinds = kinds_of(worlds, [one.seed for one in evaluation.episode_list])
    found: dict[str, list[bool]] = {}
    for kind, one in zip(kinds, evaluation.episode_list, strict=True):
        found.setdefault(kind, []).append(bool(one.success_once))
    return {kind: sum(all_of) / len(all_of) for kind, all_of in sorted(found.items()) if kind}


def _agreed(verdicts: Sequence[bool | None], played: Sequence[Played]) -> dict[str, float]:
    """Return how the judge compares with the truth, over all episodes and by kind of task."""
    metrics = {"judge/missed": float(sum(verdict is None for verdict in verdicts))}
    for kind in ("", *sorted({one.kind for one in played if one.kind})):
        pairs = [(v, one.success) for v, one in zip(verdicts, played, strict=True) if kind in ("", one.kind)]
        found = agreement([verdict for verdict, _ in pairs], [truth for _, truth in pairs])
        shares = {"precision": found.precision, "recall": found.recall, "accuracy": found.accuracy}
        prefix = f"judge/{kind}/" if kind else "judge/"
        metrics |= {f"{prefix}{name}": share for name, share in shares.items() if share is not None}
    return metrics
