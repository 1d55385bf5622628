"""Gather runs of digirl-phone into summary.json, summary.png and a trimmed folder a run.

python results/digirl-phone/make.py runs/digirl-0 runs/digirl-1 …   (folders are named METHOD-SEED)
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from palaestra.launch.statistics import wilson

HERE = Path(__file__).parent
STAGES = ("before", "offline", "after")
CURVE = ("iteration", "env_steps", "wall_s", "rollout/success_once", "actor/loss", "filter/steps", "filter/episodes",
         "value/step_loss", "value/instruction_loss")  # fmt: skip


def rate(successes: int, episodes: int) -> dict[str, Any]:
    """Return a success rate with its interval."""
    low, high = wilson(successes, episodes)
    return {"successes": successes, "episodes": episodes, "rate": round(successes / episodes, 4),
            "interval": [round(low, 4), round(high, 4)]}  # fmt: skip


def trim(run: Path) -> dict[str, Any]:
    """Return a run's result with counts in place of its lists of episodes, and its curve."""
    result = json.loads((run / "result.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    stages = {}
    for entry in result.pop("evaluations"):
        row = rows[-1] if entry["name"] == "after" else next(
            row for row in rows if row["iteration"] == (0 if entry["name"] == "before" else 1)
        )
        played = entry["episode_list"]
        stages[entry["name"]] = rate(sum(one["success_once"] for one in played), len(played)) | {
            "seed": entry["seed"], "mean_length": round(entry["length_mean"], 2),
            "by_kind": {key[5:]: round(value, 3) for key, value in row.items() if key.startswith("kind/")},
            "never_seen": {key[7:]: round(value, 3) for key, value in row.items() if key.startswith("unseen/")},
        }  # fmt: skip
    curve = [{key: round(row[key], 4) for key in CURVE if key in row} for row in rows]
    return result | {"wall_s": rows[-1]["wall_s"], "stages": stages, "curve": curve}


def pooled(seeds: dict[int, dict[str, Any]], stage: str) -> dict[str, Any]:
    """Return the success rate of a stage over the episodes of all seeds."""
    found = {seed: one["stages"][stage] for seed, one in sorted(seeds.items())}
    successes, episodes = (sum(one[key] for one in found.values()) for key in ("successes", "episodes"))
    return rate(successes, episodes) | {"seeds": {seed: one["rate"] for seed, one in found.items()}}


def main() -> None:
    """Write the record."""
    runs: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for path in map(Path, sys.argv[1:]):
        trimmed = trim(path)
        method = path.name.rpartition("-")[0]
        runs[method][trimmed["seed"]] = trimmed
        folder = HERE / path.name
        folder.mkdir(exist_ok=True)
        (folder / "result.json").write_text(json.dumps(trimmed, indent=1) + "\n")
        (folder / "config.json").write_bytes((path / "config.json").read_bytes())
    summary = {method: {stage: pooled(seeds, stage) for stage in STAGES} for method, seeds in runs.items()}
    (HERE / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(runs, summary)


def draw(runs: dict[str, dict[int, dict[str, Any]]], summary: dict[str, Any]) -> None:
    """Draw the stages with their pooled intervals, and what was played while learning."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for colour, (method, seeds) in enumerate(runs.items()):
        found = [summary[method][stage] for stage in STAGES]
        rates = [100 * one["rate"] for one in found]
        bars = [[100 * (one["rate"] - one["interval"][0]) for one in found],
                [100 * (one["interval"][1] - one["rate"]) for one in found]]  # fmt: skip
        at = [place + 0.08 * colour for place in range(3)]
        label = f"{method} ({len(seeds)} seed{'s' * (len(seeds) > 1)})"
        left.errorbar(at, rates, bars, marker="o", capsize=3, color=f"C{colour}", label=label)
        for one in seeds.values():
            played = [row for row in one["curve"] if "rollout/success_once" in row]
            window = [played[max(0, end - 5) : end] for end in range(1, len(played) + 1)]
            smooth = [100 * sum(row["rollout/success_once"] for row in part) / len(part) for part in window]
            right.plot([row["iteration"] for row in played], smooth, color=f"C{colour}", alpha=0.7)
    left.set_xticks(range(3), ["imitation", "offline", "online"])
    left.set(ylabel="success, %", ylim=(0, 100), title="evaluations, pooled, 95 % intervals")
    right.set(xlabel="round", ylim=(0, 100), title="while learning, mean of 5 rounds")
    left.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "summary.png", dpi=90)


if __name__ == "__main__":
    main()
