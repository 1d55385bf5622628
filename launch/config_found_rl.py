"""The recipe of Found-RL, and what of it cannot work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from palaestra.agents.found_rl.config import FoundRLConfig, Quality
from palaestra.launch.config_world import WorldConfig


@dataclass(frozen=True)
class TeacherConfig:
    """Who advises."""

    kind: Literal["scripted", "model"] = "scripted"
    """scripted: the world's expert, made worse as `quality` says; model: a vision-language model, or for
    guidance=ccaa a CLIP."""
    quality: Quality = "oracle"
    """scripted: oracle, noisy, blind (to signals), partial (right in a share of its answers) or random."""
    noise: float = 0.5
    """noisy: the error's standard deviation."""
    right: float = 0.6
    """partial: the share of right answers."""
    seconds: float = 0.0
    """scripted: that each batch of answers takes."""
    delay: int | None = 8
    """Decisions after which an answer is used, and waited for if need be, so that runs repeat themselves. None: as soon
    as it is there, and training never waits. (A model's answers may differ in their last bits with the size of a batch,
    which is a matter of time.)"""
    server: str = ""
    """Address of the server that the model is asked on, such as http://127.0.0.1:8000; empty: in this process."""
    pixels: int = 32
    """model: side of the pictures that it is shown, 32, 64, 96 or 192; 0: it is asked in words alone."""
    model: str = "teacher"
    """The model's name there; in this process, the folder of a checkpoint."""


@dataclass(frozen=True)
class FoundRLRecipe:
    """Off-policy reinforcement that a teacher's labels guide, whole."""

    name: str = "found-rl-driving"
    """What the run is called in tables."""
    world: WorldConfig = field(
        default_factory=lambda: WorldConfig(id="driving/lane-drop-v0", count=128, chunk=5)
    )
    """The worlds; a decision is held for `chunk` steps."""
    training: dict[str, int | float | bool | str] = field(default_factory=lambda: {"endings": "endless"})
    """Options of the worlds that are trained in, beside the others: the reward goes on for as long as one drives, which
    an arrival does not end."""
    evaluation: dict[str, int | float | bool | str] = field(
        default_factory=lambda: {"split": "test", "endings": "evaluation", "max_episode_steps": 800}
    )
    """Options of the worlds that are evaluated in, beside the others: other maps, where infractions are counted."""
    learner: Annotated[FoundRLConfig, tyro.conf.arg(name="")] = field(default_factory=FoundRLConfig)
    """Learning and guidance."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Who advises."""
    iterations: int = 9
    """Spells of playing and learning."""
    decisions: int = 20
    """Decisions of each world in a spell; something is learnt after each."""
    every: int = 3
    """Spells between boundaries, where the policy is evaluated and saved and all worlds start afresh."""
    episodes: int = 128
    """Episodes of an evaluation at a boundary; as many as there are worlds take no longer than fewer."""
    final_episodes: int = 128
    """Episodes of the evaluations before and after."""
    stop_at: float = 2.0
    """Stop early once a boundary's success rate reaches this; above 1 never stops."""
    seed: int = 0
    """Of everything random, the evaluation's start states apart."""
    threads: int = 1
    """Threads of torch in the learner."""
    videos: int = 2
    """Episodes filmed at the end, where the world can be rendered."""
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    """Trackers besides TensorBoard and metrics.jsonl, which are always written."""


def validate_found_rl(recipe: FoundRLRecipe) -> None:
    """Raise ValueError on what cannot work, before anything slow starts."""
    teacher, learner = recipe.teacher, recipe.learner
    if learner.guidance != "none" and not recipe.world.id.startswith("driving/"):
        raise ValueError(
            f"guidance is {learner.guidance!r}, but no teacher knows {recipe.world.id}: take a driving/* world, or "
            "--guidance none."
        )
    if learner.guidance == "ccaa" and teacher.kind != "model":
        raise ValueError("guidance='ccaa' takes a bonus from a CLIP model: give --teacher.kind model --teacher.model.")
    if learner.capacity < 2 * recipe.world.count:
        raise ValueError(f"capacity is {learner.capacity}: {recipe.world.count} worlds need at least two slots each.")
    if teacher.delay is not None and teacher.delay < 0:
        raise ValueError(f"teacher.delay is {teacher.delay}; it must be at least 0 decisions, or None.")
    if not 0 <= teacher.right <= 1 or teacher.noise < 0 or teacher.seconds < 0:
        raise ValueError(
            f"teacher.right is {teacher.right}, teacher.noise {teacher.noise} and teacher.seconds {teacher.seconds}; "
            "right must be in [0, 1], the others at least 0."
        )
