"""A run's folder with realistic numbers, made with the writers that real runs use."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from palaestra.launch import statistics, track
from palaestra.launch.evaluate import Evaluation, PlayedEpisode
from palaestra.launch.result import write_result

DEFINITION = "info['success']: the cube lies within 0.1 m of the goal"


def learning_curve(iteration: int, iterations: int, before: float, after: float) -> float:
    return before + (after - before) / (1 + np.exp(-12 * (iteration / iterations - 0.4)))


def evaluation(name: str, rate: float, episodes: int, definition: str, generator: np.random.Generator) -> Evaluation:
    once = np.arange(episodes) < round(rate * episodes)
    generator.shuffle(once)
    played = tuple(
        PlayedEpisode(1000 + i, bool(won), bool(won and i % 20), 1.0 * won, 30 if won else 50)
        for i, won in enumerate(once)
    )
    return Evaluation(name, definition, 777, 8, episodes, played)


def write_metrics(run: Path, before: float, after: float, iterations: int, generator: np.random.Generator) -> None:
    with track.Tracker(run, iterations, console=Console(file=io.StringIO())) as tracker:
        for i in range(iterations + 1):
            rate = learning_curve(i, iterations, before, after)
            noise = generator.normal(0, 1, 8)
            metrics = {
                "rollout/success_once": round(float(np.clip(rate - 0.05 + 0.03 * noise[0], 0, 1)) * 64) / 64,
                "rollout/episodes": 64.0,
                "train/actor_loss": 0.02 * noise[1] - 0.01 * rate,
                "train/critic_loss": 0.3 * np.exp(-i / iterations * 3) + 0.01 * abs(noise[2]),
                "train/approximate_kl": 0.01 + 0.003 * noise[3],
                "train/clip_fraction": 0.12 + 0.03 * noise[4],
                "train/explained_variance": 1 - np.exp(-i / iterations * 4) + 0.03 * noise[5],
                "train/entropy": -1.2 + 0.02 * noise[6],
                "train/gradient_norm": 0.8 + 0.1 * noise[7],
                "time/simulate": 3.1 + 0.1 * noise[0],
                "time/act": 0.6,
                "time/learn": 2.2,
                "time/other": 0.1,
            }
            if i % 5 == 0:
                seen = round(float(np.clip(rate, 0, 1)) * 100) / 100
                low, high = statistics.wilson(round(100 * seen), 100)
                metrics |= {"eval/success_once": seen, "eval/success_once_low": low, "eval/success_once_high": high}
                metrics |= {"eval/success_at_end": seen * 0.94, "time/evaluate": 4.0}
            tracker.log(i, 2048 * i, metrics)
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    slow = [row | {"wall_s": 7.2 * row["iteration"]} for row in rows]  # as if it had trained
    path.write_text("".join(json.dumps(row) + "\n" for row in slow))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a run's folder."""

    def make(
        name: str = "run",
        *,
        recipe: str = "pi-rl-push-cube",
        world: str = "maniskill/PushCube-v1",
        seed: int = 0,
        before: float = 0.45,
        after: float = 0.97,
        episodes: int = 200,
        iterations: int = 60,
        definition: str = DEFINITION,
        config: dict[str, object] | None = None,
    ) -> Path:
        run = tmp_path / name
        run.mkdir(parents=True)
        generator = np.random.default_rng([seed, *recipe.encode()])
        settings = {"name": recipe, "world": {"id": world, "count": 16}, "seed": seed, "pi_rl": {"sampler": "sde"}}
        (run / "config.json").write_text(json.dumps(settings | (config or {})))
        if iterations:
            write_metrics(run, before, after, iterations, generator)
        evaluations = [
            (evaluation(label, rate, episodes, definition, generator), {"checkpoint": label})
            for label, rate in (("before", before), ("after", after))
        ]
        write_result(run / "result.json", recipe, world, seed, evaluations)
        return run

    return make
