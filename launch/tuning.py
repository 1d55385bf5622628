"""Supervised fine-tuning of a vision-language model as a run: a checkpoint before, a checkpoint or adapter after."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from palaestra.agents.vlm.core import Generate, Text
from palaestra.agents.vlm.questions import ANSWERS, Question, Questions, blind_rate, shuffled
from palaestra.agents.vlm.sft import Tuner
from palaestra.launch import checkpoint
from palaestra.launch.config import EVALUATION_SEED, to_json
from palaestra.launch.config_tuning import TuningRecipe
from palaestra.launch.files import write_atomically
from palaestra.launch.randomness import random_state, set_random_state
from palaestra.launch.result import FORMAT, provenance
from palaestra.launch.statistics import wilson
from palaestra.launch.track import Tracker

KEEP = 2
"""Checkpoints that a run keeps."""
ASKED = 64
"""Questions that the engine is asked at once."""
WATCHED = 200
"""Held-out questions of the evaluations on the way."""
LONGEST = 32
"""Tokens that an answer may have."""
LEARNT = {"full": "model", "lora": "adapter"}
"""Folder in the run that holds what was learnt."""


def tune(recipe: TuningRecipe, run: Path) -> Path:
    """Measure, train from the newest checkpoint, save, measure again, and write what came out; return the folder."""
    from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine

    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    base, learnt = _base(recipe, run), run / LEARNT[recipe.sft.method]
    asked = Questions(recipe.held_out, "held-out", seed=EVALUATION_SEED, families=recipe.families)[:]
    before = exact_matches(TransformersEngine(base, device=recipe.device), asked)
    tuner = Tuner(base, recipe.sft, device=recipe.device)
    seconds = _train(recipe, run, tuner, asked[:WATCHED])
    if not learnt.exists():
        tuner.save(learnt)
    if recipe.sft.method == "lora":
        engine = TransformersEngine(base, device=recipe.device, adapter=learnt)
    else:
        engine = TransformersEngine(learnt, device=recipe.device)
    evaluations = [
        _evaluation("before", asked, before),
        _evaluation("after", asked, exact_matches(engine, asked)),
        _evaluation("after, pictures shuffled", asked, exact_matches(engine, shuffled(asked))),
    ]
    document = {
        "format": FORMAT,
        "kind": "tuning",
        "recipe": recipe.name,
        "seed": recipe.seed,
        **provenance(),
        "config": asdict(recipe),
        "parameters": {
            "all": sum(value.numel() for value in tuner.model.parameters()),
            "trained": sum(value.numel() for value in tuner.parameters.values()),
        },
        "seconds": seconds,
        "blind_rate": {family: blind_rate(family) for family in recipe.families},
        "evaluations": evaluations,
    }
    write_atomically(run / "result.json", (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    return run


def _base(recipe: TuningRecipe, run: Path) -> Path:
    """Return the checkpoint to start from, built where none was given."""
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    base = Path(recipe.base) if recipe.base else run / "base"
    if not base.exists():
        words = [f"{one.question} {one.answer}" for one in Questions(500, "train", seed=recipe.seed)]
        answers = [word for known in ANSWERS.values() for word in known]
        build_tiny_vlm(base, seed=recipe.seed, image_size=recipe.image_size, corpus=[*words, *answers * 20])
    return base


def _train(recipe: TuningRecipe, run: Path, tuner: Tuner, watched: Sequence[Question]) -> dict[str, float]:
    """Train to the last step, with checkpoints; return the seconds that it took."""
    saved, done = checkpoint.latest(run), {"wall": 0.0, "cpu": 0.0}
    if saved is not None:
        tensors, meta = checkpoint.load(saved)
        if meta["recipe"] != checkpoint.fingerprint(to_json(recipe)):
            raise checkpoint.CheckpointError(
                f"{saved} was saved with another recipe than {run}/config.json now holds: restore that file, or "
                "start a new run."
            )
        tuner.load_state_dict(tensors)
        set_random_state(tensors)
        done = meta["seconds"]
    resumed = tuner.step if saved is not None else -1 if (run / "metrics.jsonl").exists() else None
    source = Questions(recipe.questions, "train", seed=recipe.seed, families=recipe.families)
    wall, cpu = time.perf_counter() - done["wall"], time.process_time() - done["cpu"]
    with Tracker(run, recipe.sft.steps, resume_at=resumed) as tracker:
        for metrics in tuner.fit(source, recipe.seed):
            boundary = tuner.step % recipe.every == 0 or tuner.step == recipe.sft.steps
            if boundary:
                metrics["eval/exact_match"] = sum(tuner.right(watched)) / len(watched)
            # What the other kind of run counts in steps of worlds is here counted in answers read.
            tracker.log(tuner.step, tuner.step * recipe.sft.batch * recipe.sft.accumulate, metrics)
            done = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            if boundary:
                meta = {"recipe": checkpoint.fingerprint(to_json(recipe)), "seconds": done}
                checkpoint.save(run / "checkpoints" / f"{tuner.step:06d}", tuner.state_dict() | random_state(), meta)
                checkpoint.prune(run, KEEP)
    return done


def exact_matches(engine: Any, questions: Sequence[Question]) -> list[bool]:
    """Return which questions an engine that generates text answers word for word."""
    found: list[bool] = []
    for start in range(0, len(questions), ASKED):
        some = questions[start : start + ASKED]
        answers = engine.answer([Generate(question.messages, max_tokens=LONGEST) for question in some])
        for question, answer in zip(some, answers, strict=True):
            if not isinstance(answer, Text):
                raise answer
            found.append(answer.text.strip() == question.answer)
    return found


def _evaluation(name: str, questions: Sequence[Question], right: Sequence[bool]) -> dict[str, Any]:
    """Return an evaluation as `result.json` holds it: all questions, and each family of them."""

    def counted(some: Sequence[bool]) -> dict[str, Any]:
        right, count = sum(some), len(some)
        return {"right": right, "count": count, "rate": right / count, "interval": wilson(right, count)}

    families = {question.family: None for question in questions}
    each = {
        family: counted([good for question, good in zip(questions, right, strict=True) if question.family == family])
        for family in families
    }
    return {"name": name, **counted(right), "families": each}
