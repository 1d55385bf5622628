"""Making teachers: an expert drives, a small model learns from what it saw, and is measured as it would be asked."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from palaestra.agents.core import Decision
from palaestra.agents.found_rl.advice import Teacher
from palaestra.agents.found_rl.lessons import Drive, Objective, clip_accuracy, prior, record, teach_clip
from palaestra.agents.found_rl.teachers import PromptTeacher, ScriptedEngine, ScriptedTeacher, read_action
from palaestra.agents.vlm.client import Client, connect
from palaestra.agents.vlm.core import Answer, Embed, Engine, Generate, Picture, Vector
from palaestra.agents.vlm.sft import SFTConfig, Tuner
from palaestra.envs.core import Observation
from palaestra.envs.driving.world import WORLDS, DrivingEnv
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.registry import make
from palaestra.launch.config import EVALUATION_SEED
from palaestra.launch.evaluate import evaluate
from palaestra.launch.files import write_atomically
from palaestra.launch.found_rl import pictures_of
from palaestra.launch.recipes import FOUND_RL_DRIVING
from palaestra.launch.result import provenance
from palaestra.rewards.similarity import alignment, embed_anchors, neighbours

if TYPE_CHECKING:
    from palaestra.agents.vlm.engines.clip import ClipEngine


@dataclass(frozen=True)
class TeachOptions:
    """Train a teacher for Found-RL on an expert's drive, and measure it on other roads."""

    to: Path
    """Folder of the model: RUN/…, given as --teacher.model afterwards."""
    kind: Literal["vlm", "clip"] = "vlm"
    """vlm: says what to do; clip: scores what was done."""
    base: Path | None = None
    """Folder of the checkpoint to start from; a tiny one with random weights where not given."""
    world: str = "driving/lane-drop-v0"
    """Which worlds."""
    views: int = 8000
    """To learn from."""
    held_out: int = 400
    """To be measured on, of the maps for testing."""
    pixels: int = 32
    """Side of the pictures: 32, 64, 96 or 192."""
    episodes: int = 32
    """vlm: to be driven by its own answers, on the maps for testing."""
    steps: int = 600
    """Gradient steps."""
    batch: int = 32
    """Views a step."""
    rate: float = 2e-3
    """Largest step size."""
    objective: Objective = "anchors"
    """clip: contrast the behaviours of the known context, or pictures with each other's captions."""
    seed: int = 0
    """Of everything random."""
    threads: int = 1
    """Threads of torch."""


def teach(options: TeachOptions) -> dict[str, Any]:
    """Record, train, measure; write the model and `teacher.json` in its folder; return what was measured.

    Raises:
        ValueError: The world has no expert, or the folder is not empty.
    """
    if options.world not in WORLDS:
        raise ValueError(f"{options.world} has no expert to learn from; there are {', '.join(WORLDS)}.")
    if options.to.exists() and any(options.to.iterdir()):
        raise ValueError(f"{options.to} is not empty: choose another folder.")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    began = time.process_time()
    learnt, held = _drive(options, "train", options.views), _drive(options, "test", options.held_out)
    recorded = time.process_time()
    measured = _teach_vlm(options, learnt, held) if options.kind == "vlm" else _teach_clip(options, learnt, held)
    seconds = {"record_cpu": recorded - began, "train_cpu": measured.pop("train_cpu")}
    report = {"kind": options.kind, "world": options.world, **measured, "seconds": seconds, **provenance()}
    write_atomically(options.to / "teacher.json", (json.dumps(report, indent=2) + "\n").encode())
    return report


def _drive(options: TeachOptions, split: Literal["train", "test"], views: int) -> Drive:
    env = WORLDS[options.world](count=64, split=split)
    assert isinstance(env, DrivingEnv)
    return record(env, pictures_of(env, options.pixels), views, seed=options.seed + (split == "test"))


def _teach_vlm(options: TeachOptions, learnt: Drive, held: Drive) -> dict[str, Any]:
    """Fine-tune a vision-language model, and ask it about the held-out views."""
    from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    lessons, base = learnt.lessons(), options.base
    if base is None:
        base = options.to.with_name(f"{options.to.name}-base")
        corpus = [f"{lesson.prompt} {lesson.answer}" for lesson in lessons[:1000]]
        build_tiny_vlm(base, seed=options.seed, image_size=options.pixels, corpus=corpus)
    tuner = Tuner(base, SFTConfig(steps=options.steps, batch=options.batch, learning_rate=options.rate))
    began = time.process_time()
    losses = [progress["train/loss"] for progress in tuner.fit(lessons, options.seed)]
    spent = time.process_time() - began
    options.to.parent.mkdir(parents=True, exist_ok=True)
    if options.to.exists():
        options.to.rmdir()
    tuner.save(options.to)
    engine = TransformersEngine(options.to)
    driven = {name: drive_by(options, each) for name, each in (("by_the_model", engine), ("by_the_expert", None))}
    return {"loss": losses[-1], "train_cpu": spent, **measure_vlm(engine, held), "driven": driven}


def measure_vlm(engine: Engine, held: Drive) -> dict[str, Any]:
    """Return parse rate, mean absolute errors of both numbers, those of the mean action, and labels a second."""
    with connect({"teacher": engine}) as client:
        began = time.perf_counter()
        asks = [Generate(lesson.messages, max_tokens=32) for lesson in held.lessons()]
        futures = [client.ask_nowait("teacher", ask, wait=True) for ask in asks]
        answers = [future.result().answer for future in futures]
        seconds = time.perf_counter() - began
    errors = []
    for answer, action in zip(answers, held.actions, strict=True):
        try:
            errors.append((read_action(answer) - action).abs())
        except ValueError:
            continue
    blind = (held.actions - held.actions.median(0).values).abs().mean(0)
    found = torch.stack(errors).mean(0) if errors else torch.full((2,), float("nan"))
    return {
        "parse_rate": len(errors) / len(answers),
        "error": dict(zip(("acceleration", "steer"), found.tolist(), strict=True)) if errors else None,
        "error_of_the_median_action": dict(zip(("acceleration", "steer"), blind.tolist(), strict=True)),
        "labels_a_second": len(answers) / seconds,
    }


class Asked:
    """Asks a teacher about every view and does what it says; where that cannot be read, it coasts."""

    def __init__(self, client: Client, teacher: Teacher, chunk: int) -> None:
        self.client, self.teacher, self.chunk = client, teacher, chunk

    def act(self, observation: Observation) -> Decision:
        """Decide for all worlds."""
        rows = torch.arange(len(observation))
        asks = self.teacher.asks(rows, torch.zeros(len(rows), 2))
        futures = [self.client.ask_nowait(self.teacher.model, ask, wait=True) for ask, _ in asks]
        actions = [self._read(future.result().answer) for future in futures]
        return Decision(torch.stack(actions)[:, None].expand(-1, self.chunk, -1))

    def _read(self, answer: Answer) -> torch.Tensor:
        try:
            return self.teacher.read(answer, None)
        except ValueError:
            return torch.zeros(2)


def drive_by(options: TeachOptions, engine: Engine | None) -> dict[str, Any]:
    """Return how often a model, or the expert (None), drives to the end without an infraction, asked as in training."""
    chunk = FOUND_RL_DRIVING.world.chunk
    worlds = make(options.world, min(16, options.episodes), chunk=chunk, split="test", endings="evaluation")
    assert isinstance(worlds, LockstepWorlds) and isinstance(worlds.venv, DrivingEnv)
    env = worlds.venv
    with connect({"teacher": engine or ScriptedEngine("oracle")}) as client:
        picture = pictures_of(env, options.pixels)
        teacher = PromptTeacher(env, "teacher", picture) if engine else ScriptedTeacher(env)
        try:
            played = evaluate(worlds, Asked(client, teacher, chunk), options.episodes, EVALUATION_SEED)
        finally:
            worlds.close()
    return {
        "strict_success": played.success_at_end,
        "interval": played.interval_at_end,
        "episodes": len(played.episode_list),
        "steps_a_decision": chunk,
    }


def _teach_clip(options: TeachOptions, learnt: Drive, held: Drive) -> dict[str, Any]:
    """Train a CLIP model, and ask it about the held-out views."""
    from palaestra.agents.vlm.engines.clip import ClipEngine
    from palaestra.agents.vlm.tiny_clip import CONFIG, build_tiny_clip, save_clip

    base = options.base
    if base is None:
        base = options.to.with_name(f"{options.to.name}-base")
        sizes = {"width": 64, "layers": 2, "text_width": 64, "context": 48}
        build_tiny_clip(base, seed=options.seed, image_size=options.pixels, **sizes)
    engine = ClipEngine(base)
    began = time.process_time()
    losses = list(teach_clip(engine, learnt, options.steps, options.batch, options.rate, options.objective))
    spent = time.process_time() - began
    document = json.loads((base / CONFIG).read_text())
    save_clip(options.to, engine.model, document["model_cfg"], document["preprocess_cfg"]["size"])
    return {
        "objective": options.objective,
        "loss": losses[-1],
        "train_cpu": spent,
        "top_1_of_30": clip_accuracy(engine, held),
        "top_1_of_30_with_prior": clip_accuracy(engine, held, prior(learnt)),
        "top_1_of_the_most_frequent": _majority(learnt, held),
        "bonus": clip_bonus(engine, held, options.seed),
    }


def clip_bonus(engine: ClipEngine, held: Drive, seed: int) -> dict[str, float]:
    """Return the mean bonus, in [0, 1] before it is scaled, of the expert's behaviours and of random ones.

    Also the share of the expert's that are worth nothing. The anchors are all 720 captions, as in training.
    """
    draw = torch.Generator().manual_seed(seed)
    with connect({"clip": engine}) as client:
        anchors = embed_anchors(client, "clip").flatten(0, 1)
        asks = [client.ask_nowait("clip", Embed(Picture(pixels)), wait=True) for pixels in held.pictures]
        answers = [future.result().answer for future in asks]
    pictures = torch.stack([answer.values for answer in answers if isinstance(answer, Vector)])
    factor = float(engine.model.logit_scale.detach().exp())
    similarity = factor * torch.einsum("nd,nkd->nk", pictures, anchors[held.contexts])
    chance = torch.randint(anchors.shape[1], (len(held),), generator=draw)
    expert, random = (alignment(similarity, taken, neighbours()) for taken in (held.behaviours, chance))
    nothing = float((expert == 0).float().mean())
    return {"expert": float(expert.mean()), "random": float(random.mean()), "expert_nothing": nothing}


def _majority(learnt: Drive, held: Drive) -> float:
    """Return how often the behaviour that is the most frequent in a context is right."""
    best = prior(learnt).flatten(0, 1).argmax(1)
    return float((best[held.contexts] == held.behaviours).float().mean())
