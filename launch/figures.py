"""Pictures of runs. Matplotlib is imported when the first is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from palaestra.launch.statistics import Array, Interval, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from palaestra.launch.runs import Run
    from palaestra.launch.track import Row

Draw = Callable[["Figure"], None]
"""Draws on an empty figure."""
COLOURS = ("#2b8cd6", "#e08a1e", "#1fa97c", "#c65fa0", "#7a6fd0", "#d2583b", "#5bb3c9", "#9a9a3c")
"""Kept apart by the colour-blind too, and readable on white and on black (after Okabe and Ito)."""
INK, FAINT, GRID = "#1c2430", "#66707d", "#8a95a344"
"""Text, faint text, and lines that let both light and dark through."""
LEARNING = (
    "train/actor_loss",
    "train/critic_loss",
    "train/approximate_kl",
    "train/clip_fraction",
    "train/explained_variance",
    "train/entropy",
    "train/gradient_norm",
    "train/noise_std",
)
"""The learner's curves that people look at first, in this order; others follow."""
MOST_PANELS = 12


@dataclass(frozen=True, slots=True)
class Curve:
    """A line with its band."""

    label: str
    at: Array
    """[T]."""
    value: Array
    """[T]."""
    low: Array | None = None
    """[T], None where there is no band."""
    high: Array | None = None
    dashed: bool = False


def render(draw: Draw, width: float, height: float, clear: bool = True) -> bytes:
    """Return a figure as PNG.

    Args:
        draw: Draws on an empty figure.
        width: In inches, of 140 pixels.
        height: In inches.
        clear: Leave the background out, for a page that has its own.
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    page = "none" if clear else "#ffffff"
    style: Any = {
        "font.size": 9, "text.color": INK, "axes.labelcolor": FAINT, "axes.edgecolor": GRID, "axes.titlecolor": INK,
        "xtick.color": FAINT, "ytick.color": FAINT, "xtick.major.size": 0, "ytick.major.size": 0,
        "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 9,
        "axes.facecolor": "none", "figure.facecolor": page, "savefig.facecolor": page,
        "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "legend.frameon": False, "legend.labelcolor": INK, "lines.linewidth": 1.8,
        "axes.prop_cycle": cycler(color=COLOURS),
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=140)
    return stream.getvalue()


# --------------------------------------------------------------------------------------------------------- one run


def success_curves(run: Run, by: str) -> list[Curve]:
    """Return exploring and deployed success of a run, with their intervals where those can be known."""
    curves = []
    for name, label, dashed in (
        ("rollout/success_once", "exploring, once", False),
        ("eval/success_once", "deployed, once", False),
        ("eval/success_at_end", "deployed, at the end", True),
    ):
        rows = [row for row in run.metrics if np.isfinite(row.get(name, np.nan))]
        if not rows:
            continue
        at, value = (np.array([row[key] for row in rows]) for key in (by, name))
        bounds = [_bounds(row, name) for row in rows]
        known = [bound for bound in bounds if bound is not None]
        low, high = np.array(known).T if len(known) == len(rows) else (None, None)
        curves.append(Curve(label, at, value, low, high, dashed))
    return curves


def _bounds(row: Row, name: str) -> Interval | None:
    if f"{name}_low" in row:
        return row[f"{name}_low"], row[f"{name}_high"]
    count = round(row.get(name.partition("/")[0] + "/episodes", 0))
    return wilson(round(row[name] * count), count) if count else None


def draw_success(run: Run) -> Draw:
    """Draw success against environment steps and against the wall clock."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for axis, by in zip(axes, ("env_steps", "wall_s"), strict=True):
            curves = success_curves(run, by)
            steps = by == "env_steps"
            if not steps:
                curves = [_scaled(curve, 1 / 60) for curve in curves]
            _plot(axis, curves)
            _percent(axis)
            axis.set_title("against environment steps" if steps else "against the wall clock")
            axis.set_xlabel("environment steps" if steps else "minutes")
            _thousands(axis, steps)
        axes[0].legend(loc="lower right")

    return draw


def learning_names(run: Run) -> list[str]:
    """Return the train/ metrics that have something to show: the well-known ones first."""
    names = [name for name in run.names if name.startswith("train/") and run.series(name)[0].size > 1]
    known = [name for name in LEARNING if name in names]
    return (known + [name for name in names if name not in known])[:MOST_PANELS]


def draw_learning(run: Run) -> Draw:
    """Draw the learner's own metrics as small multiples."""

    def draw(figure: Figure) -> None:
        names = learning_names(run)
        axes = figure.subplots(-(-len(names) // 4), 4, squeeze=False).flat
        for axis, name in zip(axes, names, strict=False):
            at, value = run.series(name)
            axis.plot(at, value, color=COLOURS[0], linewidth=0.7, alpha=0.45)
            axis.plot(at, smooth(value), color=COLOURS[0])
            axis.set_title(name.removeprefix("train/").replace("_", " ").replace(" kl", " KL"), fontsize=9)
            _thousands(axis, True)
            axis.locator_params(nbins=4)
        for axis in list(figure.axes)[len(names) :]:
            axis.remove()

    return draw


def smooth(value: Array) -> Array:
    """Return a centred moving mean over about a twentieth of the points: [N] -> [N]; the ends average what is there."""
    width = max(1, value.size // 20) | 1
    kernel = np.ones(width)
    counted = np.convolve(np.ones_like(value), kernel, "same")
    return np.asarray(np.convolve(value, kernel, "same") / counted)


def time_shares(run: Run) -> dict[str, float]:
    """Return the seconds that a run spent on each part: its time/ metrics summed, and the rest as "other"."""
    parts: dict[str, float] = {}
    for name in run.names:
        if name.startswith("time/"):
            parts[name.removeprefix("time/").replace("_", " ")] = float(run.series(name)[1].sum())
    wall = max((row["wall_s"] for row in run.metrics), default=0.0)
    if parts and wall > sum(parts.values()):
        parts["other"] = parts.get("other", 0.0) + wall - sum(parts.values())
    return parts


def draw_time(run: Run) -> Draw:
    """Draw where the wall clock went: one bar for the run, and steps a second along it."""

    def draw(figure: Figure) -> None:
        bar, rate = figure.subplots(1, 2, width_ratios=(1.25, 1))
        parts = time_shares(run)
        total, left = sum(parts.values()), 0.0
        for number, (name, seconds) in enumerate(parts.items()):
            colour = FAINT if name == "other" else COLOURS[number % len(COLOURS)]
            bar.barh(0, seconds / 60, left=left / 60, color=colour, height=0.5)
            share = 100 * seconds / total
            bar.text(0, -0.62 - 0.24 * number, "■", color=colour, va="center", fontsize=11)
            bar.text(total / 60 * 0.035, -0.62 - 0.24 * number, f"{name}", va="center")
            bar.text(total / 60, -0.62 - 0.24 * number, f"{seconds:,.0f} s   {share:4.1f} %", va="center", ha="right")
            left += seconds
        bar.set(xlim=(0, total / 60), ylim=(-0.6 - 0.24 * len(parts), 0.4), title="where the wall clock went (minutes)")
        bar.set_yticks([])
        bar.grid(False)
        bar.xaxis.tick_top()
        bar.spines[:].set_visible(False)
        at, steps = run.series("env_steps", "wall_s")
        if at.size > 1:
            speed = np.diff(steps) / np.maximum(np.diff(at), 1e-9)
            moving = speed > 0
            rate.plot(at[1:][moving] / 60, speed[moving], color=COLOURS[0], linewidth=0.7, alpha=0.45)
            rate.plot(at[1:][moving] / 60, smooth(speed[moving]), color=COLOURS[0])
            rate.set(ylim=(0, 1.1 * speed.max()), title="environment steps a second, all counted", xlabel="minutes")

    return draw


# ------------------------------------------------------------------------------------------------------- many runs


def draw_curves(axis: Axes, curves: Sequence[Curve], colours: Mapping[str, str], over: str = "env_steps") -> None:
    """Draw groups' success against environment steps, or against the seconds of the wall clock."""
    steps = over == "env_steps"
    _plot(axis, curves, colours)
    _percent(axis)
    _thousands(axis, steps)
    title = "sample efficiency" if steps else "success against the wall clock"
    axis.set(title=title, xlabel="environment steps" if steps else "seconds")


def draw_intervals(
    axis: Axes, rows: Sequence[tuple[str, float, tuple[float, float] | None]], colours: Mapping[str, str], title: str
) -> None:
    """Draw one dot with its interval a group."""
    for number, (label, value, interval) in enumerate(rows):
        colour = colours[label]
        if interval:
            axis.plot(interval, (number, number), color=colour, linewidth=9, alpha=0.3, solid_capstyle="butt")
        axis.plot([value], [number], marker="o", color=colour, markersize=6)
        axis.annotate(f"{100 * value:.1f}", (value, number), (0, 8), textcoords="offset points", ha="center")
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axis.set(ylim=(len(rows) - 0.4, -0.6), title=title)
    _percent(axis, "x")


def draw_matrix(axis: Axes, labels: Sequence[str], table: Array) -> None:
    """Draw P(row beats column) as a table of colours."""
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("improvement", [COLOURS[1], "#8a94a1", COLOURS[0]])
    axis.imshow(table, cmap=ramp, vmin=0, vmax=1, alpha=0.75, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        axis.text(j, i, "–" if i == j else f"{value:.2f}", ha="center", va="center")
    axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.grid(False)
    axis.set_title("chance that a run of the row beats one of the column")


def _plot(axis: Axes, curves: Sequence[Curve], colours: Mapping[str, str] | None = None) -> None:
    for number, curve in enumerate(curves):
        place = (0, 1, 1)[number] if colours is None else number % len(COLOURS)
        colour = (colours or {}).get(curve.label, COLOURS[place])
        if curve.low is not None and curve.high is not None:
            axis.fill_between(curve.at, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
        style, marker = "--" if curve.dashed else "-", "o" if curve.at.size <= 30 else ""
        axis.plot(curve.at, curve.value, style, marker=marker, markersize=3.5, color=colour, label=curve.label)


def _scaled(curve: Curve, factor: float) -> Curve:
    return Curve(curve.label, curve.at * factor, curve.value, curve.low, curve.high, curve.dashed)


def _percent(axis: Axes, which: str = "y") -> None:
    from matplotlib.ticker import PercentFormatter

    (axis.yaxis if which == "y" else axis.xaxis).set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set(**{f"{which}lim": (-0.02, 1.04)})


def _thousands(axis: Axes, steps: bool) -> None:
    from matplotlib.ticker import EngFormatter

    if steps:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
