"""`report.html`: one page that says what was run, what came of it, and how far that can be believed.

It is made from a run's folder alone:

- `config.json`: the resolved recipe, any JSON object; `name`, `world.id` and `seed` head the page while there is no
  result yet.
- `metrics.jsonl`: see `track.py`. Drawn are `rollout/success_once` (exploring; with `rollout/episodes` it gets a
  band), `eval/success_once` and `eval/success_at_end` (deployed; with `<name>_low` and `<name>_high` they get theirs),
  every `train/` metric, and `time/`: seconds of each iteration by what they were spent on.
- `result.json`: see `result.py`. Every count and interval here is taken from its lists of episodes.
- `videos/*.mp4` and `figures/*.png`, in the order of their names.

All but one of the first and the third may be missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from palaestra.launch import page
from palaestra.launch.compare import Comparison, compare
from palaestra.launch.figures import (
    Draw,
    draw_learning,
    draw_success,
    draw_time,
    learning_names,
    render,
    success_curves,
    time_shares,
)
from palaestra.launch.files import write_atomically
from palaestra.launch.runs import COLUMNS, Column, Outcome, Run, read_run
from palaestra.launch.statistics import smallest_visible_difference

LARGEST_FILM = 6_000_000
LARGEST_FILMS = 24_000_000
"""Bytes of films that a page holds: one of them, and all together."""


def write_report(run: Path | Sequence[Path] | Comparison, out: Path | None = None) -> Path:
    """Write the page of one run, or of several side by side, and return its path.

    Args:
        run: A run's folder, finished or not; or several finished ones, which are compared; or their comparison.
        out: The file; by default `report.html` in the run's folder, or in the folder above the first of several.

    Raises:
        FileNotFoundError: Where there is no run.
        ValueError: Where a file is broken, or runs do not compare.
    """
    if isinstance(run, Path):
        return write_atomically(out or run / "report.html", _one(read_run(run, finished=False)).encode())
    comparison = run if isinstance(run, Comparison) else compare(run)
    above = comparison.groups[0].runs[0].path.parent
    return write_atomically(out or above / "report.html", _many(comparison).encode())


def _one(run: Run) -> str:
    recipe, world = str(run.get("recipe") or run.get("name")), str(run.result.get("world") or run.get("world.id"))
    body = [
        "" if run.result else page.note("This run is not finished: there is no result yet, only its curves.", "warn"),
        _tiles(run),
        page.section("Success", _success(run)),
        page.section("Success while learning", _drawn(draw_success(run), 4.2, _has_curves(run), "success curves")),
        page.section("Learning", _drawn(draw_learning(run), *_learning_size(run), "the learner's own metrics")),
        page.section("Time", _drawn(draw_time(run), 2.6, bool(time_shares(run)), "where the wall clock went")),
        page.section("Films", page.films(sorted(run.path.glob("videos/*.mp4")), LARGEST_FILM, LARGEST_FILMS)),
        page.section("Figures", *(page.image(path) for path in sorted(run.path.glob("figures/*.png")))),
        page.section("What was run", _provenance(run)),
        page.section("Episodes", *(_episodes(outcome) for outcome in run.outcomes)),
    ]
    return page.page(recipe, f"{world} · seed {run.get('seed')} · {run.path.resolve().name}", body)


def _many(comparison: Comparison) -> str:
    header, *rows = comparison.rows()
    runs = [(group.label, run) for group in comparison.groups for run in group.runs]
    columns = ["group", "world", "seed", "interval", "success once", "success at the end", "episodes", "faults", "run"]
    pictures = page.picture(comparison.figure(clear=True), "the groups compared")
    tables = [[[escape(cell) for cell in row] for row in part] for part in comparison.pairs()]
    body = [
        page.section(
            "Success",
            page.table(header, ([escape(cell) for cell in row] for row in rows)),
            *(page.note(text, "warn") for text in comparison.notes),
        ),
        page.section("Side by side", pictures),
        page.section("Pairs", *(page.table(part[0], part[1:]) for part in tables)),
        page.section("Runs", page.table(columns, (_row(label, run, comparison.column) for label, run in runs))),
    ]
    worlds = ", ".join(comparison.worlds) or "no shared world"
    title = " against ".join(group.label for group in comparison.groups)
    return page.page(title, f"{len(runs)} runs · {worlds}", body)


# ---------------------------------------------------------------------------------------------------------- success


def _tiles(run: Run) -> str:
    found = []
    measured = [outcome for outcome in run.outcomes if outcome.measured]
    if measured:
        last = measured[-1]
        found.append(page.tile(f"success once, {last.name}", _percent(last.rate("success_once")), _counted(last)))
    if len(measured) > 1:
        change = measured[-1].separation(measured[0], "success_once")
        low, high = (f"{100 * bound:+.1f}" for bound in change.interval)
        found.append(page.tile("change", f"{100 * change.difference:+.1f} points", f"95 % interval {low} to {high}"))
    if run.metrics:
        last_row = run.metrics[-1]
        seconds = last_row["wall_s"]
        found.append(page.tile("environment steps", f"{last_row['env_steps']:,.0f}", "in training"))
        speed = f"{last_row['env_steps'] / seconds:,.0f} steps a second, all counted" if seconds else ""
        found.append(page.tile("wall clock", _clock(seconds), speed))
    return page.tiles(found)


def _success(run: Run) -> str:
    if not run.outcomes:
        return ""
    columns = ["policy", "success once", "", "success at the end", "", "episodes", "faults", "return", "length"]
    rows = []
    for outcome in run.outcomes:
        cells = [f"<b>{escape(outcome.name)}</b>"]
        for column in COLUMNS:
            cells += [_bar(outcome, column), _rate(outcome, column)]
        counts = [str(len(outcome.episodes)), str(outcome.faults)]
        rows.append([*cells, *counts, _number(outcome.mean("return")), _number(outcome.mean("length"))])
    html = page.table(columns, rows)
    measured = [outcome for outcome in run.outcomes if outcome.measured]
    if not measured:
        return html + page.note("There is no rate: this world defines no success, which it would by info['success'].")
    definitions = dict.fromkeys(outcome.definition for outcome in measured)
    html += page.note(f"Success is {' / '.join(definitions)}. Brackets and bands are Wilson's 95 % intervals.")
    return html + (_verdict(measured[0], measured[-1]) if len(measured) > 1 else _resolution(measured[0]))


def _verdict(first: Outcome, last: Outcome) -> str:
    """Say whether the change is real."""
    found = last.separation(first, "success_once")
    if found.warning:
        return page.note(f"{last.name} against {first.name}: {found.warning}", "warn")
    how = "the same episodes, compared as pairs" if first.seeds == last.seeds else "different episodes"
    apart = "the two intervals do not overlap" if found.disjoint else "the interval of the difference leaves zero out"
    return page.note(f"{last.name} differs from {first.name}: {apart} ({how}).", "good")


def _resolution(outcome: Outcome) -> str:
    count = len(outcome.episodes)
    least = smallest_visible_difference(outcome.successes("success_once"), count)
    return page.note(f"{count} episodes cannot separate policies that differ by less than {100 * least:.0f} points.")


def _bar(outcome: Outcome, column: Column) -> str:
    return page.interval_bar(outcome.rate(column), outcome.interval(column)) if outcome.measured else ""


def _rate(outcome: Outcome, column: Column) -> str:
    if not outcome.measured:
        return "–"
    low, high = outcome.interval(column)
    return f"<b>{_percent(outcome.rate(column))}</b> <small>[{100 * low:.1f}, {100 * high:.1f}]</small>"


def _counted(outcome: Outcome) -> str:
    low, high = (f"{100 * bound:.1f}" for bound in outcome.interval("success_once"))
    return f"{outcome.successes('success_once')} of {len(outcome.episodes)} · {low} to {high} %"


def _row(label: str, run: Run, column: Column) -> list[str]:
    last = run.outcomes[-1]
    where = [escape(label), escape(run.result["world"]), escape(str(run.result["seed"])), _bar(last, column)]
    rates = [_rate(last, one) for one in COLUMNS]
    return [*where, *rates, str(len(last.episodes)), str(last.faults), escape(run.path.name)]


def _episodes(outcome: Outcome) -> str:
    """Return one square an episode, and the list behind them."""
    squares, rows = [], []
    for episode in outcome.episodes:
        kind = "end" if episode["success_at_end"] else "once" if episode["success_once"] else ""
        squares.append(f'<i class="{kind}" title="seed {escape(str(episode["seed"]))}"></i>')
        values = [episode["seed"], *(_yes(episode[column]) for column in COLUMNS)]
        rows.append([escape(str(value)) for value in (*values, _number(episode["return"]), episode["length"])])
    key = '<span class="key sub"><i class="end"></i>success at the end<i class="once"></i>only once<i></i>none</span>'
    listed = page.table(["seed", "success once", "success at the end", "return", "length"], rows)
    title = f"<h3>{escape(outcome.name)} {key}</h3>"
    return f'{title}<div class="strip">{"".join(squares)}</div>' + page.folded(f"{len(rows)} episodes", listed)


# ------------------------------------------------------------------------------------------------- pictures and words


def _has_curves(run: Run) -> bool:
    return bool(success_curves(run, "env_steps"))


def _learning_size(run: Run) -> tuple[float, bool]:
    count = len(learning_names(run))
    return 2.1 * -(-count // 4), count > 0


def _drawn(draw: Draw, height: float, wanted: bool, words: str) -> str:
    return page.picture(render(draw, 10.6, height), words) if wanted else ""


def _provenance(run: Run) -> str:
    entries = {}
    if run.get("command"):
        entries["command"] = f"<code>{escape(str(run.get('command')))}</code>"
    for key in ("recipe", "world", "seed", "commit"):
        if run.result.get(key) is not None:
            entries[key] = escape(str(run.result[key]))
    for key in ("machine", "versions"):
        found = run.result.get(key)
        if isinstance(found, Mapping):
            known = [f"{name} {value}" for name, value in found.items() if value is not None]
            entries[key] = "".join(f'<span class="chip">{escape(text)}</span>' for text in known)
    broken = {name for row in run.metrics for name, value in row.items() if not math.isfinite(value)}
    if broken:
        entries["not finite"] = escape(f"{', '.join(sorted(broken))}: see metrics.jsonl")
    settings = f"<pre>{escape(json.dumps(run.config, indent=2))}</pre>"
    return page.definitions(entries) + (page.folded("every setting", settings) if run.config else "")


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _number(value: Any) -> str:
    return "–" if not isinstance(value, (int, float)) or not math.isfinite(value) else f"{value:.4g}"


def _yes(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "no"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
