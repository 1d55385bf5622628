"""A run of an agent that talks to worlds of tools: imitation of a teacher, then reinforcement; resumed like any other.

Its folder holds, besides what every run's does, `imitated.safetensors`: what reinforcement began from.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from palaestra.agents.grpo.curriculum import KINDS, Curriculum, Prompt, gather
from palaestra.agents.grpo.imitation import demonstrate, imitate
from palaestra.agents.grpo.learner import GRPO
from palaestra.agents.grpo.presets import preset
from palaestra.agents.grpo.rollout import SpeakConfig, Trajectory, converse
from palaestra.agents.grpo.scores import Scores
from palaestra.agents.grpo.tiny import TinySpeaker
from palaestra.agents.grpo.vlm_speaker import VlmSpeaker
from palaestra.agents.optimiser import under
from palaestra.envs.core import Fault, episode_seed
from palaestra.envs.retrieval.core import Conversations, Record
from palaestra.launch.config import EVALUATION_SEED
from palaestra.launch.config_conversation import ConversationRecipe
from palaestra.launch.evaluate import Evaluation, PlayedEpisode, VoidEpisode
from palaestra.launch.files import write_atomically
from palaestra.launch.randomness import seeded
from palaestra.launch.run import Measured, Run
from palaestra.launch.statistics import wilson

IMITATED = "imitated.safetensors"


class Agent:
    """What is learnt in such a run, as a checkpoint holds it."""

    def __init__(self, speaker: TinySpeaker | VlmSpeaker, learner: GRPO, curriculum: Curriculum) -> None:
        self.speaker, self.learner, self.curriculum = speaker, learner, curriculum

    def state_dict(self) -> dict[str, Tensor]:
        """Return model, optimiser, critic and what the curriculum remembers."""
        parts = {"speaker": self.speaker, "learner": self.learner, "curriculum": self.curriculum}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.speaker.load_state_dict(under("speaker.", state))
        self.learner.load_state_dict(under("learner.", state))
        self.curriculum.load_state_dict(under("curriculum.", state))


class ConversationRun(Run):
    """The run; subclasses say which world, which teacher, and what is worth what."""

    recipe: ConversationRecipe
    learner: Agent
    worlds: Conversations
    speaker: TinySpeaker | VlmSpeaker
    tasks: Mapping[str, Sequence[Any]]
    """Splits "sft", "rl" and "test"."""
    success: str
    """What success is, in words."""
    keep = 2

    def build(self) -> None:
        """Make worlds and model; the learner too, where the model has imitated already."""
        self.open()
        if (self.run / IMITATED).exists():
            self.begin()

    @abstractmethod
    def open(self) -> None:
        """Make worlds, tasks and an untrained model."""

    @abstractmethod
    def pretrain(self) -> None:
        """Give the model what it brings along, before it imitates."""

    @abstractmethod
    def demonstration(self, task: Any, generator: np.random.Generator) -> list[str]:
        """Return what the teacher says in an episode that is imitated, turn by turn."""

    @abstractmethod
    def solution(self, task: Any) -> list[str]:
        """Return how a task is solved, turn by turn: what hints are cut from."""

    @abstractmethod
    def scores(self, records: Sequence[Record], learning: bool) -> Scores:
        """Return what episodes earned, as it is learnt from or as it is reported."""

    def details(self, records: Sequence[Record], scores: Scores) -> dict[str, Any]:
        """Return what else is known of the episodes that count, as numbers, or intervals as pairs."""
        return {}

    def prepare(self) -> dict[str, float]:
        """Let the model imitate the teacher, unless it has; what follows draws the same numbers either way."""
        started = time.perf_counter()
        if not (self.run / IMITATED).exists():
            self._imitate()
            tensors = {key: value.contiguous() for key, value in self.speaker.state_dict().items()}
            write_atomically(self.run / IMITATED, save(tensors))
            self.begin()
        torch.manual_seed(episode_seed(self.recipe.seed, 0))
        return {"time/imitation": time.perf_counter() - started}

    def begin(self) -> None:
        """Make what learns from the imitated model, which stays the reference."""
        self.speaker.load_state_dict(load_file(self.run / IMITATED))
        self.freeze()
        learner = GRPO(self.speaker, self.recipe.grpo, preset(self.recipe.objective))
        config = self.recipe.curriculum
        self.learner = Agent(self.speaker, learner, KINDS[config.kind](len(self.tasks["rl"]), config))

    def freeze(self) -> None:
        """Leave out of reinforcement what is not to be trained."""

    def export(self) -> None:
        """Write what was learnt in a form that others take."""

    def _imitate(self) -> None:
        recipe = self.recipe
        if recipe.imitated:
            self.speaker.load_state_dict(load_file(recipe.imitated))
            return
        self.pretrain()
        generator = np.random.default_rng((recipe.seed, 0x736674))
        tasks = self.tasks["sft"]
        if not tasks:
            return
        chosen = [tasks[i] for i in generator.integers(len(tasks), size=recipe.imitation.trajectories)]
        plans = [self.demonstration(task, generator) for task in chosen]
        demonstrations = demonstrate(self.speaker, self.worlds, chosen, plans)
        for metrics in imitate(self.speaker, demonstrations, recipe.imitation):
            self.say("imitation", metrics)

    def say(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Print progress."""
        self.tracker.console.print(stage + ": " + ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))

    def iterate(self) -> dict[str, float]:
        """Play a batch of groups and learn from it."""
        started, recipe = time.perf_counter(), self.recipe
        generator = np.random.default_rng((recipe.seed, 0x726C, self.iteration))
        played, scores, metrics = gather(
            self.learner.curriculum, self._play, recipe.prompts, recipe.grpo.group, generator
        )
        talked = time.perf_counter()
        metrics |= self.learner.learner.learn(played, scores)
        metrics |= {"time/converse": talked - started, "time/learn": time.perf_counter() - talked}
        records = [one.record for one in played if one.record is not None]
        summary = self._summary(records, scores)
        self.iteration += 1
        self.env_steps += sum(len(one.anchors) for one in played)
        return metrics | {f"rollout/{name}": value for name, value in summary.items()}

    def _play(self, prompts: Sequence[Prompt]) -> tuple[list[Trajectory], Scores]:
        """Play a group a prompt, begun by a teacher as far as the prompt's hint goes, and never to the end."""
        tasks = self.tasks["rl"]
        rows = [prompt for prompt in prompts for _ in range(self.recipe.grpo.group)]
        hints: list[list[str]] | None = None
        if any(prompt.hint for prompt in prompts):
            hints = []
            for prompt in rows:
                solution = self.solution(tasks[prompt.number])
                hints.append(solution[: min(round(prompt.hint * len(solution)), len(solution) - 1)])
        config = SpeakConfig(longest=self.recipe.longest)
        played = converse(self.speaker, self.worlds, [tasks[prompt.number] for prompt in rows], config, hints)
        return played, self.scores([one.record for one in played if one.record is not None], learning=True)

    def measure(self, episodes: int, name: str) -> list[Measured]:
        """Evaluate as deployed (greedy); before and after reinforcement also as it explores (sampled)."""
        ways = {"": 0.0, ", sampled": 1.0} if name in ("before", "after") else {"": 0.0}
        return [self._measure(episodes, name + suffix, temperature) for suffix, temperature in ways.items()]

    def _measure(self, episodes: int, name: str, temperature: float) -> Measured:
        tasks = self.tasks["test"][:episodes]
        with seeded(episode_seed(EVALUATION_SEED, self.recipe.seed)):
            played = converse(self.speaker, self.worlds, tasks, SpeakConfig(temperature, self.recipe.longest))
        records = [one.record for one in played if one.record is not None]
        scores = self.scores(records, learning=False)
        finished: list[PlayedEpisode] = []
        void: list[VoidEpisode] = []
        for number, (record, valid) in enumerate(zip(records, scores.valid.tolist(), strict=True)):
            right = bool(scores.solved[number])
            if valid:
                total = float(scores.total[number])
                finished.append(PlayedEpisode(number, right, right, total, len(record.actions)))
            else:
                void.append(VoidEpisode(number, Fault(number, "step", record.error)))
        seed = EVALUATION_SEED
        evaluation = Evaluation(name, self.success, seed, len(tasks), len(tasks), tuple(finished), tuple(void))
        known = ("episodes", "void", "success_once")  # the evaluation has them
        summary = {key: value for key, value in self._summary(records, scores).items() if key not in known}
        kept = _kept(records, scores)
        answered = sum(record.finished for record in kept)
        further = {"finished_interval": wilson(answered, len(kept)) if kept else None}
        return evaluation, summary | further | self.details(records, scores)

    def _summary(self, records: Sequence[Record], scores: Scores) -> dict[str, float]:
        """Return what conversations were like; void ones count only as such."""
        kept = _kept(records, scores)
        counted = {"episodes": float(len(kept)), "void": float(len(records) - len(kept))}
        if not kept:
            return counted | {"success_once": 0.0}
        actions, count = sum(len(record.actions) for record in kept), len(kept)
        means = {key: value for key, value in self.details(records, scores).items() if isinstance(value, float)}
        return counted | means | {
            "success_once": scores.solved[scores.valid].float().mean().item(),
            "reward": scores.total[scores.valid].mean().item(),
            "invalid": sum(record.invalid for record in kept) / max(actions, 1),
            "finished": sum(record.finished for record in kept) / count,
            "turns": actions / count,
            "cut_by_length": sum(record.outcome == "length" for record in kept) / count,
            "cut_by_turns": sum(record.outcome == "turns" for record in kept) / count,
        }


def _kept(records: Sequence[Record], scores: Scores) -> list[Record]:
    """Return the records of episodes that are not void."""
    return [record for record, valid in zip(records, scores.valid.tolist(), strict=True) if valid]


def converse_and_learn(recipe: ConversationRecipe, run: Path) -> Path:
    """Take a run on from its newest checkpoint, from the beginning where it has none; return the folder."""
    from palaestra.launch.ledger import LedgerRun
    from palaestra.launch.tools import ToolsRun
    from palaestra.launch.vrag import VragRun

    kinds: dict[str, type[ConversationRun]] = {
        "VragRecipe": VragRun, "LedgerRecipe": LedgerRun, "ToolsRecipe": ToolsRun
    }  # fmt: skip
    started = kinds[type(recipe).__name__](recipe, run)
    started.play()
    started.export()
    return run
