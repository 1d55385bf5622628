"""Making teachers: an expert drives, a small model learns from what it saw, and is measured as it would be asked."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from palaestra.agents.found_rl.lessons import Drive, Objective, clip_accuracy, prior, record, teach_clip
from palaestra.agents.found_rl.teachers import read_action
from palaestra.agents.vlm.client import connect
from palaestra.agents.vlm.core import Engine, Generate
from palaestra.agents.vlm.sft import SFTConfig, Tuner
from palaestra.envs.driving.world import WORLDS, DrivingEnv
from palaestra.launch.files import write_atomically
from palaestra.launch.found_rl import pictures_of
from palaestra.launch.result import provenance


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
    return {"loss": losses[-1], "train_cpu": spent, **measure_vlm(TransformersEngine(options.to), held)}


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
    }


def _majority(learnt: Drive, held: Drive) -> float:
    """Return how often the behaviour that is the most frequent in a context is right."""
    best = prior(learnt).flatten(0, 1).argmax(1)
    return float((best[held.contexts] == held.behaviours).float().mean())
