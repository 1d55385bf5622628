"""A run's folder, read back: what was run, what was measured, and which evaluations were made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from palaestra.launch.result import read_result
from palaestra.launch.statistics import Array, Interval, Separation, separate, separate_paired, wilson
from palaestra.launch.track import Row, read_metrics

Column = Literal["success_once", "success_at_end"]
COLUMNS: tuple[Column, ...] = ("success_once", "success_at_end")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One evaluation of `result.json`. Every count is taken from its list of episodes."""

    name: str
    """Of the policy: "before", "after", …"""
    definition: str
    """How the world defines success; empty where it does not, and then there is no rate."""
    episodes: tuple[Mapping[str, Any], ...]
    """Each with seed, success_once, success_at_end, return and length."""
    faults: int
    """Episodes that a fault voided; they are not among `episodes`."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The episodes' seeds, in order."""
        return tuple(int(episode["seed"]) for episode in self.episodes)

    @property
    def measured(self) -> bool:
        """Whether there is a success rate at all."""
        return bool(self.definition and self.episodes)

    def successes(self, column: Column) -> int:
        """Return how many episodes succeeded."""
        return sum(episode[column] is True for episode in self.episodes)

    def rate(self, column: Column) -> float:
        """Return the share that succeeded, NaN where nothing was measured."""
        return self.successes(column) / len(self.episodes) if self.measured else float("nan")

    def interval(self, column: Column) -> Interval:
        """Return Wilson's 95 % interval of the rate."""
        return wilson(self.successes(column), len(self.episodes))

    def mean(self, key: Literal["return", "length"]) -> float:
        """Return the mean return or length, NaN where no episode was finished."""
        return float(np.mean([episode[key] for episode in self.episodes])) if self.episodes else float("nan")

    def separation(self, other: Outcome, column: Column) -> Separation:
        """Return whether this tells its policy apart from another's: as pairs where both played the same episodes."""
        if self.seeds == other.seeds:
            mine, theirs = ([bool(episode[column]) for episode in one.episodes] for one in (self, other))
            return separate_paired(mine, theirs)
        counts = (self.successes(column), len(self.episodes), other.successes(column), len(other.episodes))
        return separate(*counts)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run's folder holds."""

    path: Path
    config: Mapping[str, Any]
    """The resolved recipe, empty where there is none."""
    result: Mapping[str, Any]
    """`result.json` as it stands, empty while the run is not finished."""
    outcomes: tuple[Outcome, ...]
    """Its evaluations, in the order they were made."""
    metrics: tuple[Row, ...]
    """Its rows of metrics, in order."""

    def get(self, key: str) -> Any:
        """Return an entry of the result, or else of the recipe, by its dotted name; None where neither has it."""
        for tree in (self.result, self.config):
            found: Any = tree
            for part in key.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is not None:
                return found
        return None

    def series(self, name: str, by: str = "env_steps") -> tuple[Array, Array]:
        """Return a metric's finite values against another column: [N] and [N], empty where it was never written."""
        pairs = [(row[by], row[name]) for row in self.metrics if name in row and np.isfinite(row[name])]
        at, values = np.array(pairs, float).reshape(-1, 2).T
        return at, values

    @property
    def names(self) -> tuple[str, ...]:
        """Every metric's name, in the order of appearance."""
        return tuple(dict.fromkeys(name for row in self.metrics for name in row if "/" in name))


def read_run(path: Path, finished: bool = True) -> Run:
    """Read a run's folder.

    Args:
        path: The folder.
        finished: Whether to insist on `result.json`.

    Raises:
        FileNotFoundError: Where the folder or its result is missing.
        ValueError: Where a file is broken, incomplete, or of another format.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder: name a run's folder, which holds result.json.")
    file, settings, metrics = (path / name for name in ("result.json", "config.json", "metrics.jsonl"))
    result = read_result(file) if file.exists() else {}
    if finished and not result:
        raise FileNotFoundError(
            f"{path} has no result.json: the run is not finished. Resume it, or leave it out of the list."
        )
    config = _read_json(settings) if settings.exists() else {}
    if not result and not config:
        raise FileNotFoundError(f"{path} has neither config.json nor result.json: it is not a run's folder.")
    rows = read_metrics(metrics) if metrics.exists() else ()
    return Run(path, config, result, _outcomes(result, file) if result else (), tuple(rows))


def _outcomes(result: Mapping[str, Any], path: Path) -> tuple[Outcome, ...]:
    try:
        outcomes = []
        for entry in result["evaluations"]:
            keys = ("seed", *COLUMNS, "return", "length")
            episodes = tuple({key: episode[key] for key in keys} for episode in entry["episode_list"])
            definition = entry["success_definition"] or ""
            outcomes.append(Outcome(entry["name"], definition, episodes, int(entry["faults"])))
            if entry["episodes"] != len(episodes):
                raise ValueError(f"it says {entry['episodes']} episodes but lists {len(episodes)}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a broken evaluation ({error!r}): it was altered. Evaluate again.") from None
    return tuple(outcomes)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): it was altered or cut. Restore it.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}. Restore it.")
    return content
