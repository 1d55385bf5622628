"""A run in progress, whatever learns: boundaries that it can be resumed from, evaluation, and the result."""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from palaestra.agents.core import Rollout, Stateful, Trained
from palaestra.agents.optimiser import under
from palaestra.agents.rollout import Collector
from palaestra.envs.core import Worlds, episode_seed
from palaestra.launch import checkpoint
from palaestra.launch.config import EVALUATION_SEED, AnyRecipe, to_json
from palaestra.launch.config_conversation import ConversationRecipe
from palaestra.launch.evaluate import Evaluation, evaluate, separation
from palaestra.launch.randomness import random_state, set_random_state
from palaestra.launch.result import write_result
from palaestra.launch.track import Tracker
from palaestra.rewards.core import WeightedSum

Measured = tuple[Evaluation, Mapping[str, Any]]
"""An evaluation, and what else the result says of it."""


class Run(ABC):
    """Iterations with a boundary now and then; subclasses say what learns, from what, and how it is measured."""

    learner: Stateful
    tracker: Tracker
    keep: int | None = None
    """How many checkpoints stay besides the first; None for all."""

    def __init__(self, recipe: AnyRecipe | ConversationRecipe, run: Path) -> None:
        self.recipe, self.run = recipe, run
        self.iteration = 0
        self.env_steps = 0
        self.named: list[Measured] = []
        """Evaluations that the result will hold, each with its checkpoint's name."""
        self.stopping = False

    @property
    @abstractmethod
    def world(self) -> str:
        """The worlds' id."""

    @abstractmethod
    def measure(self, episodes: int, name: str) -> list[Measured]:
        """Evaluate what has been learnt, as it would be deployed, and perhaps in further ways after that."""

    @abstractmethod
    def build(self) -> None:
        """Make worlds, reward, learner and collector."""

    @abstractmethod
    def iterate(self) -> dict[str, float]:
        """Play and learn for one iteration, count it and its steps, and return metrics."""

    def prepare(self) -> dict[str, float]:
        """Do what comes before the first iteration of a new run; return metrics."""
        return {}

    def due(self) -> bool:
        """Whether a boundary follows the iteration that has just been counted."""
        return self.iteration % self.recipe.every == 0

    def stage(self) -> str:
        """Return the name of what has just been finished, empty at an ordinary boundary; results hold named ones."""
        return ""

    def restart(self) -> None:  # noqa: B027  # there may be nothing to start afresh
        """Start afresh, as after every boundary."""

    def further(self, evaluation: Evaluation) -> Mapping[str, float]:
        """Return what else is known of the evaluation that has just been made, by metric."""
        return {}

    def close(self) -> None:  # noqa: B027  # or to free
        """Free what `build` made, as far as it came."""

    def play(self) -> Path:
        """Play the run to its end, or to a boundary after Ctrl-C."""
        torch.set_num_threads(self.recipe.threads)
        torch.manual_seed(self.recipe.seed)
        try:
            self.build()
            saved = checkpoint.latest(self.run)
            if saved is not None:
                self._load(saved)
            with self._tracker(saved) as self.tracker, self._interruptible():
                if saved is None:
                    self._boundary(self.prepare(), "before")
                self._learn()
        finally:
            self.close()
        return self.run

    def start_seed(self) -> int:
        """Return the seed of the episodes that start at this boundary; no evaluation uses it."""
        return episode_seed(self.recipe.seed, self.iteration)

    def _tracker(self, saved: Path | None) -> Tracker:
        resumed = self.iteration if saved is not None else -1 if (self.run / "metrics.jsonl").exists() else None
        config = {"recipe": self.recipe.name, "seed": self.recipe.seed}
        return Tracker(
            self.run, self.recipe.iterations, resume_at=resumed, services=self.recipe.trackers, config=config
        )

    def _learn(self) -> None:
        """Alternate rollouts and updates, with a boundary now and then, up to the end."""
        recipe = self.recipe
        metrics: dict[str, float] = {}
        self.restart()
        while self.iteration < recipe.iterations:
            metrics = self.iterate()
            if self.iteration == recipe.iterations:
                break
            if not self.stopping and not self.due():
                self.tracker.log(self.iteration, self.env_steps, metrics)
                continue
            evaluation = self._boundary(metrics, self.stage())
            if self.stopping:
                self.tracker.console.print(f"stopped and saved; go on with: palaestra train --resume {self.run}")
                raise KeyboardInterrupt
            if (evaluation.success_once or 0.0) >= recipe.stop_at:
                metrics = {}
                break
            self.restart()
        self._finish(metrics)

    def _boundary(self, metrics: dict[str, float], name: str = "") -> Evaluation:
        """Evaluate, log and save: a resumed run goes on from here just as this one does."""
        started = time.perf_counter()
        episodes = self.recipe.final_episodes if name else self.recipe.episodes
        measured = self.measure(episodes, name or f"iteration {self.iteration}")
        evaluation = measured[0][0]
        for one, _ in measured:
            self.tracker.console.print(one.summary)
        if name:
            checkpoint_name = {"checkpoint": self._checkpoint().name}
            self.named += [(one, checkpoint_name | dict(further)) for one, further in measured]
        evaluated = time.perf_counter()
        # Logged first: a row without its checkpoint is cut on resume, a checkpoint without its row would stay bare.
        metrics |= {**_metrics_of(evaluation), **self.further(evaluation), "time/evaluate": evaluated - started}
        self.tracker.log(self.iteration, self.env_steps, metrics)
        self._save()
        return evaluation

    def _checkpoint(self) -> Path:
        return self.run / "checkpoints" / f"{self.iteration:06d}"

    def _save(self) -> None:
        state = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        meta: dict[str, Any] = {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "recipe": checkpoint.fingerprint(to_json(self.recipe)),
            "named": [[evaluation.to_json(), dict(further)] for evaluation, further in self.named],
        }
        checkpoint.save(self._checkpoint(), state | random_state(), meta)
        if self.keep is not None:
            checkpoint.prune(self.run, self.keep, spare=tuple(further["checkpoint"] for _, further in self.named))

    def _load(self, folder: Path) -> None:
        """Restore learner, counters and random state."""
        tensors, meta = checkpoint.load(folder)
        if meta["recipe"] != checkpoint.fingerprint(to_json(self.recipe)):
            raise checkpoint.CheckpointError(
                f"{folder} was saved with another recipe than {self.run}/config.json now holds: restore that file, or "
                "start a new run."
            )
        self.learner.load_state_dict(under("learner.", tensors))
        set_random_state(tensors)
        self.iteration, self.env_steps = meta["iteration"], meta["env_steps"]
        self.named = [(Evaluation.from_json(entry), further) for entry, further in meta["named"]]

    def _finish(self, metrics: dict[str, float]) -> None:
        """Evaluate the trained policy and write what was measured."""
        after = self._boundary(metrics, "after")
        write_result(self.run / "result.json", self.recipe.name, self.world, self.recipe.seed, self.named)
        if (warning := separation(self.named[0][0], after)) and not warning.separable:
            self.tracker.console.print(f"warning: {warning.warning}")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let the first Ctrl-C stop at the end of the iteration, saved; the second one stops at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.tracker.console.print("stopping after this iteration; press Ctrl-C again to stop at once")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class WorldsRun(Run):
    """A run in `Worlds`, whose rollouts are collected step by step."""

    recipe: AnyRecipe
    learner: Trained
    worlds: Worlds
    collector: Collector
    reward: WeightedSum

    @property
    def world(self) -> str:
        """The worlds' id."""
        return self.recipe.world.id

    def restart(self) -> None:
        """Start all worlds afresh."""
        self.collector.reset(self.start_seed())

    def measure(self, episodes: int, name: str) -> list[Measured]:
        """Evaluate the policy as it would be deployed."""
        return [(self.evaluate(episodes, name), {})]

    def evaluate(self, episodes: int, name: str) -> Evaluation:
        """Evaluate the policy as it would be deployed."""
        return evaluate(self.worlds, self.learner.policy, episodes, EVALUATION_SEED, name)

    def close(self) -> None:
        """Free the worlds."""
        if hasattr(self, "worlds"):
            self.worlds.close()

    def rollout_metrics(self, rollout: Rollout) -> dict[str, float]:
        """Return what exploring was like. Success is over the episodes that ended in the rollout."""
        ended = rollout.ended & rollout.mask
        count = float(ended.sum())
        metrics = {
            "rollout/episodes": count,
            "rollout/reward": float((rollout.reward * rollout.mask).sum()) / self.worlds.count,
            "rollout/faults": float(len(self.collector.faults)),
        }
        if count:
            metrics["rollout/success_once"] = float((rollout.success_once & ended).sum()) / count
        parts = self.reward.clear()
        return metrics | {f"rollout/reward_{name}": total / self.worlds.count for name, total in parts.items()}


def _metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """Return an evaluation's rates and their intervals under eval/."""
    metrics = {"eval/return": evaluation.return_mean, "eval/length": evaluation.length_mean}
    for column in ("success_once", "success_at_end"):
        interval = evaluation.interval(column)
        metrics[f"eval/{column}"] = evaluation.rate(column)
        metrics[f"eval/{column}_low"], metrics[f"eval/{column}_high"] = interval or (None, None)
    metrics["eval/faults"] = float(len(evaluation.void))
    return {name: value for name, value in metrics.items() if value is not None}
