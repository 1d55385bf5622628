"""A run of Found-RL: playing, asking and learning in turn, and evaluation on roads that it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import torch
from torch import Tensor

from palaestra.agents.found_rl.advice import Advisor, Teacher
from palaestra.agents.found_rl.learner import FoundRL
from palaestra.agents.found_rl.queries import Danger, Query
from palaestra.agents.found_rl.teachers import PromptTeacher, ScriptedEngine, ScriptedTeacher
from palaestra.agents.rollout import Collector
from palaestra.agents.vlm.client import Client, connect
from palaestra.agents.vlm.core import Engine
from palaestra.envs.driving.score import CLASSES
from palaestra.envs.driving.world import DrivingEnv
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.launch.config import FoundRLRecipe, TeacherConfig
from palaestra.launch.connect import connect_to
from palaestra.launch.run import WorldsRun
from palaestra.launch.train import make_worlds
from palaestra.rewards.core import WeightedSum, WorldReward
from palaestra.rewards.similarity import AlignmentTeacher, embed_anchors

if TYPE_CHECKING:
    from palaestra.launch.evaluate import Evaluation

KEPT = ("arrival", "driving_score", "route_completion", *(f"{name}_a_km" for name in CLASSES))
"""What is told of an evaluation's episodes besides strict success."""
DANGER = 3.0
"""Seconds to collision below which a world counts as in danger."""


class EpisodeLog(gymnasium.vector.VectorWrapper):
    """Keeps the world's own metrics of every episode that ends."""

    def __init__(self, env: DrivingEnv) -> None:
        super().__init__(env)
        self.ended: list[list[dict[str, float]]] = [[] for _ in range(env.num_envs)]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step, and note the metrics of the rows whose episodes are over."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        rows = (terminated | truncated).nonzero().flatten()
        if len(rows):
            table = torch.stack([info["metrics"][name][rows].float() for name in KEPT], 1).tolist()
            for row, values in zip(rows.tolist(), table, strict=True):
                self.ended[row].append(dict(zip(KEPT, values, strict=True)))
        return observation, reward, terminated, truncated, info

    def means(self, episodes: int) -> dict[str, float]:
        """Return the means over the first `episodes` episodes, played in turn by the rows, and forget all."""
        count = self.env.num_envs
        quota = [len(range(row, episodes, count)) for row in range(count)]
        played = [each for row, most in zip(self.ended, quota, strict=True) for each in row[:most]]
        self.ended = [[] for _ in range(count)]
        return {f"eval/{name}": sum(each[name] for each in played) / len(played) for name in KEPT} if played else {}


class FoundRLRun(WorldsRun):
    """Off-policy reinforcement, guided by a teacher that answers when it can."""

    recipe: FoundRLRecipe
    learner: FoundRL
    keep = 2

    def build(self) -> None:
        """Make everything that learns, and who advises it."""
        recipe = self.recipe
        self.worlds = make_worlds(recipe, training=True)
        self.tests = make_worlds(recipe)
        self.log: EpisodeLog | None = None
        if isinstance(self.tests, LockstepWorlds) and isinstance(self.tests.venv, DrivingEnv):
            self.tests.venv = self.log = EpisodeLog(self.tests.venv)
        self.reward = WeightedSum({"world": (1.0, WorldReward())})
        self.collector = Collector(self.worlds, self.reward)
        self.learner = FoundRL(
            self.worlds.spec,
            recipe.world.count,
            recipe.learner,
            recipe.iterations * recipe.decisions,
            recipe.world.device,
        )
        self.client: Client | None = None
        if recipe.learner.guidance != "none":
            self._advise()

    def _advise(self) -> None:
        """Connect the learner with its teacher."""
        assert isinstance(self.worlds, LockstepWorlds)
        recipe, env = self.recipe, self.worlds.venv
        assert isinstance(env, DrivingEnv), "the recipe was checked: only driving worlds have teachers"
        self.client = connect_teacher(recipe.teacher, recipe.seed, recipe.learner.guidance == "ccaa")
        query = Query(recipe.learner.query, self.worlds.count, danger_of(env))
        teacher = make_teacher(recipe.teacher, env, self.client, recipe.learner.guidance == "ccaa")
        self.learner.advisor = Advisor(self.client, teacher, self.learner.replay, query, recipe.teacher.delay)

    def restart(self) -> None:
        """Start all worlds afresh."""
        self.learner.restart()
        super().restart()

    def evaluate(self, episodes: int, name: str) -> Evaluation:
        """Evaluate on the roads kept for it. What is outstanding is given up, as it is when a run is resumed."""
        from palaestra.launch.config import EVALUATION_SEED
        from palaestra.launch.evaluate import evaluate

        self.learner.restart()
        return evaluate(self.tests, self.learner.policy, episodes, EVALUATION_SEED, name)

    def further(self, evaluation: Evaluation) -> Mapping[str, float]:
        """Return the world's own metrics of the evaluation."""
        return self.log.means(evaluation.quota) if self.log is not None else {}

    def iterate(self) -> dict[str, float]:
        """Play and learn for a spell; return the means of what exploring was like, and the newest of the rest."""
        started, seconds = time.perf_counter(), {"simulate": 0.0, "act": 0.0, "learn": 0.0}
        metrics: dict[str, float] = {}
        told: list[dict[str, float]] = []
        for _ in range(self.recipe.decisions):
            rollout = self.collector.collect(self.learner, 1)
            collected = time.perf_counter()
            metrics |= self.learner.learn(rollout)
            seconds["learn"] += time.perf_counter() - collected
            for part, value in self.collector.seconds.items():
                seconds[part] += value
            told.append(self.rollout_metrics(rollout))
            self.env_steps += int(rollout.played.sum())
        self.iteration += 1
        metrics |= _summary(told)
        seconds["other"] = time.perf_counter() - started - sum(seconds.values())
        return metrics | {f"time/{name}": value for name, value in seconds.items()}

    def close(self) -> None:
        """Free worlds and models."""
        super().close()
        if hasattr(self, "tests"):
            self.tests.close()
        if getattr(self, "client", None) is not None:
            assert self.client is not None
            self.client.close()


def connect_teacher(config: TeacherConfig, seed: int, scores: bool = False) -> Client:
    """Return the client that the teacher's model is asked through; `scores` says that it is a CLIP."""
    if config.server:
        return connect_to(config.server, config.model)
    engine: Engine
    if config.kind == "scripted":
        engine = ScriptedEngine(config.quality, config.noise, config.right, config.seconds, seed)
    elif scores:
        from palaestra.agents.vlm.engines.clip import ClipEngine

        engine = ClipEngine(Path(config.model))
    else:
        from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine

        engine = TransformersEngine(Path(config.model))
    return connect({config.model: engine})


def make_teacher(config: TeacherConfig, env: DrivingEnv, client: Client, scores: bool = False) -> Teacher:
    """Return what words the asks about some worlds and reads the answers."""
    if config.kind == "scripted":
        return ScriptedTeacher(env, config.model, blind=config.quality == "blind")
    picture = pictures_of(env, config.pixels) if config.pixels else None
    if not scores:
        return PromptTeacher(env, config.model, picture)
    if picture is None:
        raise ValueError("teacher.pixels is 0, but guidance='ccaa' scores pictures.")
    return AlignmentTeacher(env, config.model, embed_anchors(client, config.model), picture)


def pictures_of(env: DrivingEnv, pixels: int) -> Callable[[Tensor], Tensor]:
    """Return what draws some worlds ([N] rows) in colours, uint8 [N, pixels, pixels, 3]."""
    from palaestra.envs.driving.bev import Scene
    from palaestra.envs.driving.painter import Painter
    from palaestra.envs.driving.picture import coloured

    painter = Painter(env.arena, env.tables.signals, pixels)
    return lambda rows: coloured(painter.paint(Scene.of(env.state)[rows]))


def danger_of(env: DrivingEnv) -> Danger:
    """Return what tells which worlds are within three seconds of a collision."""
    from palaestra.envs.driving.surroundings import surroundings, time_to_collision

    return lambda: time_to_collision(env.state, surroundings(env.state)) < DANGER


def _summary(told: list[dict[str, float]]) -> dict[str, float]:
    """Return sums of episodes and faults, the success rate over all of them, and means of the rest."""
    episodes = sum(each["rollout/episodes"] for each in told)
    names = told[0].keys() - {"rollout/success_once"}  # is told only where an episode ended
    means = {name: sum(each[name] for each in told) / len(told) for name in names}
    means |= {"rollout/episodes": episodes, "rollout/faults": sum(each["rollout/faults"] for each in told)}
    if episodes:
        won = sum(each.get("rollout/success_once", 0.0) * each["rollout/episodes"] for each in told)
        means["rollout/success_once"] = won / episodes
    return means
