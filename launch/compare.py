"""Runs against each other: success pooled over episodes, and scores over seeds and worlds with their intervals.

A run's score is the success rate of its last evaluation. Two kinds of interval answer two questions: Wilson's, over
pooled episodes, speaks of the policies that were trained here; the bootstrap, over seeds within each world (as
rliable's), speaks of what the recipe would do if it were trained again, and needs at least two seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from palaestra.launch import statistics
from palaestra.launch.figures import COLOURS, Curve, draw_curves, draw_intervals, draw_matrix, render
from palaestra.launch.files import write_atomically
from palaestra.launch.runs import Column, Run, read_run
from palaestra.launch.statistics import Array, Estimate, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

THRESHOLDS = np.arange(101) / 100
POINTS = 60
"""Where a curve is read."""
Clock = Literal["env_steps", "wall_s"]
"""What curves are drawn against: steps of all worlds, or seconds since the run began, evaluations included."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ only in seed and world."""

    label: str
    runs: tuple[Run, ...]
    successes: int
    """Pooled over the runs' last evaluations."""
    episodes: int
    rate_interval: Interval
    """Wilson's, of the pooled rate."""
    scores: Array
    """[R, M]: success rates of the seeds that all shared worlds have, by world; empty where there is none."""
    seeds: tuple[int, ...]
    """[R]: whose scores they are."""
    iqm: Estimate | None
    """Interquartile mean of `scores`."""
    area: Estimate | None
    """Mean success while learning, over the stretch that all runs have."""
    areas: Array
    """[R, M]: each run's, empty where a run has no curve."""
    curve: Curve | None
    """Interquartile mean of success against the clock."""

    @property
    def rate(self) -> float:
        """The pooled success rate."""
        return self.successes / self.episodes


@dataclass(frozen=True, slots=True)
class Comparison:
    """Groups side by side."""

    column: Column
    over: Clock
    worlds: tuple[str, ...]
    """Those that every group played: what scores and curves are over."""
    groups: tuple[Group, ...]
    improvement: Mapping[tuple[str, str], Estimate]
    """P(a run of the first group beats one of the second), for each ordered pair of labels."""
    area_difference: Mapping[tuple[str, str], Estimate]
    """Area under the success curve, first minus second, over the seeds that both groups have (paired)."""
    notes: tuple[str, ...]
    """What the reader must know before believing a number."""

    def rows(self) -> list[list[str]]:
        """Return the table as text, header first."""
        header = ["group", "worlds", "seeds", self.column.replace("_", " "), "IQM over seeds", "success while learning"]
        body = []
        for group in self.groups:
            worlds = len({run.result["world"] for run in group.runs})
            seeds = len({run.result["seed"] for run in group.runs})
            rate = f"{_points(Estimate(group.rate, group.rate_interval))} of {group.episodes:,}"
            body.append([group.label, str(worlds), str(seeds), rate, _points(group.iqm), _points(group.area)])
        return [header, *body]

    def table(self) -> Table:
        """Return the table for the terminal."""
        from rich.table import Table
        from rich.text import Text

        header, *body = self.rows()
        title = f"success over {', '.join(self.worlds) or 'no shared world'}"
        table = Table(*header, title=title, title_justify="left")
        for row in body:
            table.add_row(*map(Text, row))
        return table

    def pairs(self) -> list[list[list[str]]]:
        """Return the tables of groups against each other as text, headers first; empty where there is one group."""
        tables = []
        if self.improvement:
            labels = [group.label for group in self.groups]
            rows = [["P(row beats column)", *labels]]
            rows += [[a, *("–" if a == b else _share(self.improvement[a, b]) for b in labels)] for a in labels]
            tables.append(rows)
        if self.area_difference:
            rows = [["success while learning, first − second, paired by seed", "points"]]
            rows += [[f"{a} − {b}", _points(found)] for (a, b), found in self.area_difference.items()]
            tables.append(rows)
        return tables

    def markdown(self) -> str:
        """Return the tables and notes as Markdown."""
        tables = [_markdown(rows) for rows in (self.rows(), *self.pairs())]
        return "\n".join([*tables, *(f"- {note}" for note in self.notes)]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return every number, with the runs it came from."""
        return {
            "format": 1,
            "column": self.column,
            "over": self.over,
            "worlds": list(self.worlds),
            "groups": [
                {
                    "label": group.label,
                    "runs": [str(run.path) for run in group.runs],
                    "successes": group.successes,
                    "episodes": group.episodes,
                    "rate": group.rate,
                    "rate_interval": list(group.rate_interval),
                    "seeds": list(group.seeds),
                    "scores": group.scores.tolist(),
                    "iqm": _jsonable(group.iqm),
                    "area": _jsonable(group.area),
                    "profile": profile(group)[0].tolist() if group.scores.size else [],
                }
                for group in self.groups
            ],
            "improvement": _pairs(self.improvement),
            "area_difference": _pairs(self.area_difference),
            "thresholds": THRESHOLDS.tolist(),
            "notes": list(self.notes),
        }

    def figure(self, clear: bool = False) -> bytes:
        """Return the figure as PNG, without its background where `clear`."""
        colours = {group.label: COLOURS[n % len(COLOURS)] for n, group in enumerate(self.groups)}
        height = 5.4 + 0.3 * max(0, len(self.groups) - 3)

        def draw(figure: Figure) -> None:
            (intervals, curves), (profiles, matrix) = figure.subplots(2, 2)
            rates = [(group.label, group.rate, group.rate_interval) for group in self.groups]
            scored = [(group.label, group.iqm.value, group.iqm.interval) for group in self.groups if group.iqm]
            if any(interval for _, _, interval in scored):
                draw_intervals(intervals, scored, colours, "interquartile mean of success over seeds")
            else:
                draw_intervals(intervals, rates, colours, "success rate, pooled episodes (Wilson)")
            draw_curves(curves, [group.curve for group in self.groups if group.curve], colours, self.over)
            _draw_profiles(profiles, self.groups, colours)
            if len(self.groups) > 1 and self.improvement:
                labels = [group.label for group in self.groups]
                table = [[0.5 if a == b else self.improvement[a, b].value for b in labels] for a in labels]
                draw_matrix(matrix, labels, np.array(table))
            else:
                draw_intervals(matrix, rates, colours, "success rate, pooled episodes (Wilson)")
            figure.legend(*profiles.get_legend_handles_labels(), loc="outside lower center", ncols=4)

        return render(draw, 11, height + 1.4, clear)


def compare(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    by: Sequence[str] = ("recipe",),
    column: Column = "success_once",
    over: Clock = "env_steps",
) -> Comparison:
    """Compare runs, grouped by what they have in common.

    Args:
        runs: Their folders.
        out: A folder for compare.json, compare.md and compare.png; None writes nothing.
        by: What makes a group: entries of result.json or config.json by dotted name, such as "pi_rl.sampler".
        column: Which success: at any time of an episode, or at its end.
        over: What success while learning is taken over.

    Returns:
        The comparison, with a table for the terminal, Markdown, JSON and a figure.

    Raises:
        FileNotFoundError: A run without a result.
        ValueError: Nothing to compare, or runs that must not be: of another format, the same twice, with several
            definitions of success for one world, or with none.
    """
    if not runs:
        raise ValueError("compare needs at least one run's folder, got none.")
    read = [read_run(Path(path)) for path in runs]
    notes = _check(read, column)
    grouped: dict[str, list[Run]] = {}
    for run in read:
        grouped.setdefault(_label(run, by), []).append(run)
    for label, members in grouped.items():
        _refuse_twins(label, members, by)
    shared = set.intersection(*({run.result["world"] for run in members} for members in grouped.values()))
    worlds = tuple(sorted(shared))
    if not worlds:
        notes.append("The groups share no world, so no score is set against another.")
    grid = _grid([run for run in read if run.result["world"] in shared], column, over)
    groups = tuple(_group(label, members, worlds, grid, column, over, notes) for label, members in grouped.items())
    comparison = Comparison(column, over, worlds, groups, _improvement(groups), _area_difference(groups), tuple(notes))
    if out is not None:
        write_atomically(out / "compare.json", json.dumps(comparison.to_json(), indent=2).encode() + b"\n")
        write_atomically(out / "compare.md", comparison.markdown().encode())
        write_atomically(out / "compare.png", comparison.figure())
    return comparison


def profile(group: Group) -> tuple[Array, Array, Array]:
    """Return a group's performance profile at `THRESHOLDS`, with its interval: [101] each."""
    return statistics.bootstrap(lambda scores: statistics.performance_profile(scores, THRESHOLDS), group.scores)


# ------------------------------------------------------------------------------------------------- from runs to groups


def _label(run: Run, by: Sequence[str]) -> str:
    values = [run.get(key) for key in by]
    for key, value in zip(by, values, strict=True):
        if value is None or isinstance(value, Mapping):
            entries = ", ".join(sorted({*run.config, *run.result}))
            raise ValueError(f"{run.path} has no value {key!r} to group by. Entries: {entries}; a.b for inner ones.")
    return " · ".join(str(value) for value in values)


def _check(runs: Sequence[Run], column: Column) -> list[str]:
    """Raise on runs that cannot be compared, and return what is doubtful."""
    definitions: dict[str, dict[str, Path]] = {}
    starts: dict[str, set[tuple[int, ...]]] = {}
    notes = []
    for run in runs:
        if not run.outcomes:
            raise ValueError(f"{run.path}/result.json holds no evaluation: evaluate the run first.")
        last, world = run.outcomes[-1], run.result["world"]
        if not last.measured:
            raise ValueError(
                f"{run.path} has no success rate ({len(last.episodes)} episodes; definition of success: "
                f"{last.definition or 'none'}): let the world {world} define info['success'], or leave the run out."
            )
        definitions.setdefault(world, {})[last.definition] = run.path
        starts.setdefault(world, set()).add(last.seeds)
        if last.faults:
            notes.append(f"{run.path.name}: {last.faults} episodes were lost to faults and are not counted.")
    for world, found in definitions.items():
        if len(found) > 1:
            listed = "; ".join(f"{definition!r} in {path}" for definition, path in found.items())
            raise ValueError(f"success on {world} has {len(found)} definitions, so its rates do not compare: {listed}.")
    for world, several in starts.items():
        if len(several) > 1:
            notes.append(f"The runs on {world} were evaluated on different episodes: part of a difference is luck.")
    return notes


def _refuse_twins(label: str, runs: Sequence[Run], by: Sequence[str]) -> None:
    seen: dict[tuple[str, int], Path] = {}
    for run in runs:
        key = (run.result["world"], run.result["seed"])
        if key in seen:
            raise ValueError(
                f"{seen[key]} and {run.path} are both {label!r} on {key[0]} with seed {key[1]}: leave one out, or tell "
                f"them apart by more than {', '.join(by)}."
            )
        seen[key] = run.path


def _group(
    label: str, runs: Sequence[Run], worlds: Sequence[str], grid: Array, column: Column, over: Clock, notes: list[str]
) -> Group:
    successes = sum(run.outcomes[-1].successes(column) for run in runs)
    episodes = sum(len(run.outcomes[-1].episodes) for run in runs)
    cells = {(run.result["seed"], run.result["world"]): run for run in runs}
    everyone = sorted({seed for seed, _ in cells})
    seeds = [seed for seed in everyone if worlds and all((seed, world) in cells for world in worlds)]
    if worlds and len(seeds) < len(everyone):
        left = sorted(set(everyone) - set(seeds))
        notes.append(f"{label}: seeds {left} are left out of scores and curves, as they lack one of the shared worlds.")
    matrix = [[cells[seed, world] for world in worlds] for seed in seeds]
    scores = np.array([[run.outcomes[-1].rate(column) for run in row] for row in matrix])
    if len(seeds) == 1:
        notes.append(f"{label}: one seed, so there is no interval between seeds; only episodes can be trusted.")
    curves = np.empty(0)
    if seeds and grid.size and all(run.series(f"eval/{column}")[0].size for row in matrix for run in row):
        curves = np.array([[np.interp(grid, *run.series(f"eval/{column}", over)) for run in row] for row in matrix])
    areas = statistics.success_area(grid, curves) if curves.size else np.empty(0)
    return Group(
        label,
        tuple(runs),
        successes,
        episodes,
        statistics.wilson(successes, episodes),
        scores,
        tuple(seeds),
        statistics.estimate(statistics.interquartile_mean, scores) if seeds else None,
        statistics.estimate(statistics.mean, areas) if areas.size else None,
        areas,
        _curve(label, grid, curves) if curves.size else None,
    )


def _grid(runs: Sequence[Run], column: Column, over: Clock) -> Array:
    """Return the steps or seconds that every run with a curve has reached: [T], empty where there are none."""
    spans = [run.series(f"eval/{column}", over)[0] for run in runs]
    spans = [at for at in spans if at.size > 1]
    if not spans:
        return np.empty(0)
    low, high = max(at[0] for at in spans), min(at[-1] for at in spans)
    return np.linspace(low, high, POINTS) if high > low else np.empty(0)


def _curve(label: str, grid: Array, curves: Array) -> Curve:
    value, low, high = statistics.bootstrap(statistics.interquartile_mean, curves)
    return Curve(label, grid, value, *((low, high) if len(curves) > 1 else (None, None)))


def _improvement(groups: Sequence[Group]) -> dict[tuple[str, str], Estimate]:
    pairs = [(a, b) for a in groups for b in groups if a is not b and a.scores.size and b.scores.size]
    chance = statistics.probability_of_improvement
    return {(a.label, b.label): statistics.estimate(chance, a.scores, b.scores) for a, b in pairs}


def _area_difference(groups: Sequence[Group]) -> dict[tuple[str, str], Estimate]:
    found = {}
    for a, b in ((a, b) for n, a in enumerate(groups) for b in groups[n + 1 :]):
        both = [seed for seed in a.seeds if seed in b.seeds]
        if both and a.areas.size and b.areas.size:
            first, second = (group.areas[[group.seeds.index(seed) for seed in both]] for group in (a, b))
            found[a.label, b.label] = statistics.paired_difference(first, second)
    return found


# --------------------------------------------------------------------------------------------------------- as text


def _draw_profiles(axis: Any, groups: Sequence[Group], colours: Mapping[str, str]) -> None:
    for group in groups:
        if not group.scores.size:
            continue
        value, low, high = profile(group)
        if len(group.scores) > 1:
            axis.fill_between(THRESHOLDS, low, high, step="post", color=colours[group.label], alpha=0.16, linewidth=0)
        axis.step(THRESHOLDS, value, where="post", color=colours[group.label], label=group.label)
    axis.set(title="performance profile", xlabel="success rate τ", ylabel="share of runs above τ", ylim=(-0.02, 1.04))


def _points(found: Estimate | None) -> str:
    if found is None:
        return "–"
    text = f"{100 * found.value:.1f}"
    return text if found.interval is None else f"{text} [{100 * found.interval[0]:.1f}, {100 * found.interval[1]:.1f}]"


def _share(found: Estimate) -> str:
    text = f"{found.value:.2f}"
    return text if found.interval is None else f"{text} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def _jsonable(found: Estimate | None) -> dict[str, Any]:
    if found is None or not math.isfinite(found.value):
        return {"value": None, "interval": None}
    return {"value": found.value, "interval": None if found.interval is None else list(found.interval)}


def _pairs(found: Mapping[tuple[str, str], Estimate]) -> list[dict[str, Any]]:
    return [{"first": a, "second": b, **_jsonable(value)} for (a, b), value in found.items()]
