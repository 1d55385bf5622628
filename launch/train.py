"""The one training loop: few-shot imitation, then reinforcement, with boundaries that a run can be resumed from."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from palaestra.agents.core import Rollout
from palaestra.agents.flow.imitation import imitate
from palaestra.agents.flow.pi_rl import PiRL
from palaestra.agents.flow.policy import FlowPolicy, state_policy
from palaestra.agents.rollout import Collector
from palaestra.envs.core import Worlds, WorldSpec, episode_seed
from palaestra.envs.registry import make
from palaestra.launch import checkpoint
from palaestra.launch.config import EVALUATION_SEED, Recipe, from_json, to_json, validate
from palaestra.launch.demonstrations import demonstrations
from palaestra.launch.evaluate import Evaluation, evaluate, separation
from palaestra.launch.files import write_atomically
from palaestra.launch.randomness import random_state, set_random_state
from palaestra.launch.result import write_result
from palaestra.launch.track import Tracker
from palaestra.rewards.core import WeightedSum, WorldReward
from palaestra.rewards.shaping import ProgressReward
from palaestra.rewards.success import SuccessReward

KEEP = 3
"""Checkpoints that a run keeps besides the first, which `result.json` refers to."""


def train(recipe: Recipe, run: Path) -> Path:
    """Start a run in a new folder and take it to its end; return the folder.

    Raises:
        FileExistsError: The folder already holds a run.
        ValueError: The recipe cannot work.
    """
    validate(recipe)
    if (run / "config.json").exists():
        raise FileExistsError(f"{run} already holds a run: resume it with --resume {run}, or choose another --run.")
    run.mkdir(parents=True, exist_ok=True)
    write_atomically(run / "config.json", to_json(recipe).encode())
    return _Run(recipe, run).play()


def resume(run: Path) -> Path:
    """Take a run on from its newest checkpoint, from the beginning where it has none; return the folder."""
    recipe = from_json(run / "config.json")
    validate(recipe)
    return _Run(recipe, run).play()


def make_worlds(recipe: Recipe, count: int | None = None) -> Worlds:
    """Return the worlds of a recipe, `count` of them where given."""
    world = recipe.world
    options: dict[str, Any] = dict(world.options)
    return make(
        world.id,
        count or world.count,
        chunk=world.chunk,
        workers=world.workers,
        device=world.device,
        **options,
    )


def make_policy(recipe: Recipe, spec: WorldSpec) -> FlowPolicy:
    """Return the untrained policy of a recipe."""
    policy = recipe.policy
    built = state_policy(spec, policy.horizon, policy.steps, policy.hidden, policy.layers, policy.noise_bounds)
    return built.to(recipe.world.device)


def load_policy(run: Path, recipe: Recipe, spec: WorldSpec, name: str | None = None) -> FlowPolicy:
    """Return a trained policy: of the checkpoint `name`, or of the newest.

    Raises:
        CheckpointError: There is none, or it belongs to another recipe or world.
    """
    folder = checkpoint.latest(run) if name is None else run / "checkpoints" / name
    if folder is None:
        raise checkpoint.CheckpointError(f"{run} holds no finished checkpoint: train it first.")
    tensors, _ = checkpoint.load(folder)
    prefix = "learner.policy."
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    policy = make_policy(recipe, spec)
    checkpoint.require_same_layout(policy.state_dict(), found, str(folder))
    policy.load_state_dict(found)
    return policy


class _Run:
    """A run in progress."""

    def __init__(self, recipe: Recipe, run: Path) -> None:
        self.recipe, self.run = recipe, run
        self.iteration = 0
        self.env_steps = 0
        self.before: Evaluation | None = None
        self.stopping = False

    def play(self) -> Path:
        """Play the run to its end, or to a boundary after Ctrl-C."""
        torch.set_num_threads(self.recipe.threads)
        torch.manual_seed(self.recipe.seed)
        self.worlds = make_worlds(self.recipe)
        try:
            self._build()
            saved = checkpoint.latest(self.run)
            if saved is not None:
                self._load(saved)
            with self._tracker(saved) as self.tracker, self._interruptible():
                if saved is None:
                    self._imitate()
                self._reinforce()
        finally:
            self.worlds.close()
        return self.run

    def _build(self) -> None:
        """Make everything that learns."""
        recipe = self.recipe
        self.reward = WeightedSum(
            {
                name: (weight, reward)
                for name, weight, reward in (
                    ("success", recipe.reward.success, SuccessReward(recipe.world.count)),
                    ("progress", recipe.reward.progress, ProgressReward(recipe.world.count)),
                    ("world", recipe.reward.world, WorldReward()),
                )
                if weight
            }
        )
        self.group = recipe.pi_rl.group if recipe.pi_rl.advantage == "group" else 1
        self.collector = Collector(self.worlds, self.reward)
        policy = make_policy(recipe, self.worlds.spec)
        first = self.worlds.reset(self._start_seed(), self.group)
        self.learner = PiRL(policy, recipe.pi_rl, first.observation)

    def _tracker(self, saved: Path | None) -> Tracker:
        resumed = self.iteration if saved is not None else -1 if (self.run / "metrics.jsonl").exists() else None
        config = {"recipe": self.recipe.name, "seed": self.recipe.seed}
        return Tracker(
            self.run, self.recipe.iterations, resume_at=resumed, services=self.recipe.trackers, config=config
        )

    def _start_seed(self) -> int:
        """Return the seed of the episodes that start at this boundary; no evaluation uses it."""
        return episode_seed(self.recipe.seed, self.iteration)

    def _imitate(self) -> None:
        """Fit the policy to demonstrations, and close with the first boundary."""
        recipe, started = self.recipe, time.perf_counter()
        say = self.tracker.console.print
        say(f"imitation: {recipe.demonstrations.episodes} demonstrations from {recipe.demonstrations.source}")
        episodes = demonstrations(recipe.demonstrations, recipe.world)
        metrics: dict[str, float] = {}
        for progress in imitate(self.learner.policy, episodes, recipe.imitation):
            if self.stopping:
                raise KeyboardInterrupt
            metrics = {name: value for name, value in progress.items() if "/" in name}
        metrics["time/imitation"] = time.perf_counter() - started
        self._boundary(metrics, "before")

    def _reinforce(self) -> None:
        """Alternate rollouts and updates, with a boundary now and then, up to the end."""
        recipe = self.recipe
        metrics: dict[str, float] = {}
        self.collector.reset(self._start_seed(), self.group)
        while self.iteration < recipe.iterations:
            metrics = self._iterate()
            if self.iteration == recipe.iterations:
                break
            if not self.stopping and self.iteration % recipe.every:
                self.tracker.log(self.iteration, self.env_steps, metrics)
                continue
            evaluation = self._boundary(metrics)
            if self.stopping:
                self.tracker.console.print(f"stopped and saved; go on with: palaestra train --resume {self.run}")
                raise KeyboardInterrupt
            if (evaluation.success_once or 0.0) >= recipe.stop_at:
                metrics = {}
                break
            self.collector.reset(self._start_seed(), self.group)
        self._finish(metrics)

    def _iterate(self) -> dict[str, float]:
        """Collect one rollout and learn from it; return metrics that account for the time it took."""
        started = time.perf_counter()
        whole = self.group > 1
        if whole:
            self.collector.reset(self._start_seed(), self.group)
        rollout = self.collector.collect(self.learner, self.recipe.decisions, whole)
        collected = time.perf_counter()
        metrics = self.learner.learn(rollout)
        seconds = self.collector.seconds | {"learn": time.perf_counter() - collected}
        self.iteration += 1
        self.env_steps += int(rollout.played.sum())
        metrics |= self._rollout_metrics(rollout)
        seconds["other"] = time.perf_counter() - started - sum(seconds.values())
        return metrics | {f"time/{name}": value for name, value in seconds.items()}

    def _rollout_metrics(self, rollout: Rollout) -> dict[str, float]:
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

    def _boundary(self, metrics: dict[str, float], name: str = "") -> Evaluation:
        """Evaluate, log and save: a resumed run goes on from here just as this one does."""
        started = time.perf_counter()
        episodes = self.recipe.final_episodes if name else self.recipe.episodes
        evaluation = evaluate(
            self.worlds, self.learner.policy, episodes, EVALUATION_SEED, name or f"iteration {self.iteration}"
        )
        self.tracker.console.print(evaluation.summary)
        if name == "before":
            self.before = evaluation
        evaluated = time.perf_counter()
        # Logged first: a row without its checkpoint is cut on resume, a checkpoint without its row would stay bare.
        metrics |= {**_metrics_of(evaluation), "time/evaluate": evaluated - started}
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
            "before": self.before.to_json() if self.before else None,
        }
        checkpoint.save(self._checkpoint(), state | random_state(), meta)

    def _load(self, folder: Path) -> None:
        """Restore learner, counters and random state."""
        tensors, meta = checkpoint.load(folder)
        if meta["recipe"] != checkpoint.fingerprint(to_json(self.recipe)):
            raise checkpoint.CheckpointError(
                f"{folder} was saved with another recipe than {self.run}/config.json now holds: restore that file, or "
                "start a new run."
            )
        prefix = "learner."
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        self.learner.load_state_dict(found)
        set_random_state(tensors)
        self.iteration, self.env_steps = meta["iteration"], meta["env_steps"]
        self.before = Evaluation.from_json(meta["before"]) if meta["before"] else None

    def _finish(self, metrics: dict[str, float]) -> None:
        """Evaluate the trained policy and write what was measured."""
        after = self._boundary(metrics, "after")
        first = self.run / "checkpoints" / "000000"
        pairs = [(self.before, first.name), (after, self._checkpoint().name)]
        write_result(
            self.run / "result.json",
            self.recipe.name,
            self.recipe.world.id,
            self.recipe.seed,
            [(evaluation, {"checkpoint": name}) for evaluation, name in pairs if evaluation is not None],
        )
        if self.before is not None and (warning := separation(self.before, after)) and not warning.separable:
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


def _metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """Return an evaluation's rates and their intervals under eval/."""
    metrics = {"eval/return": evaluation.return_mean, "eval/length": evaluation.length_mean}
    for column in ("success_once", "success_at_end"):
        interval = evaluation.interval(column)
        metrics[f"eval/{column}"] = evaluation.rate(column)
        metrics[f"eval/{column}_low"], metrics[f"eval/{column}_high"] = interval or (None, None)
    metrics["eval/faults"] = float(len(evaluation.void))
    return {name: value for name, value in metrics.items() if value is not None}
