"""What is drawn: curves with their bands, smoothing and shares of time. How it looks is seen in test_report.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from palaestra.launch import figures, statistics
from palaestra.launch.runs import Run


def run_of(*rows: dict[str, float]) -> Run:
    return Run(Path("run"), {}, {}, (), tuple({"env_steps": 10.0 * n, "wall_s": n} | row for n, row in enumerate(rows)))


def test_bands_come_from_the_row_or_from_its_count() -> None:
    run = run_of(
        {"rollout/success_once": 0.5, "rollout/episodes": 20, "eval/success_once": 0.5},
        {"rollout/episodes": 0},
        {"rollout/success_once": 0.75, "rollout/episodes": 4, "eval/success_once": float("nan")},
        {"eval/success_at_end": 0.2, "eval/success_at_end_low": 0.1, "eval/success_at_end_high": 0.4},
    )
    exploring, once, at_end = figures.success_curves(run, "env_steps")
    assert exploring.at.tolist() == [0, 20] and exploring.value.tolist() == [0.5, 0.75]
    assert exploring.low is not None and exploring.high is not None
    assert (exploring.low[1], exploring.high[1]) == statistics.wilson(3, 4)
    assert once.at.tolist() == [0] and once.low is None
    assert at_end.at.tolist() == [30] and at_end.dashed
    assert at_end.low is not None and at_end.low.tolist() == [0.1]
    assert figures.success_curves(run, "wall_s")[0].at.tolist() == [0, 2]


def test_smoothing_keeps_constants_and_means_over_a_twentieth() -> None:
    assert figures.smooth(np.full(7, 3.0)) == pytest.approx(np.full(7, 3.0))
    assert figures.smooth(np.arange(10.0)).tolist() == np.arange(10.0).tolist()  # too few points to smooth
    spike = np.zeros(100)
    spike[50] = 5.0
    assert figures.smooth(spike)[48:53] == pytest.approx(np.ones(5)) and figures.smooth(spike)[47] == 0
    assert figures.smooth(np.arange(100.0))[0] == pytest.approx(1.0)  # of 0, 1, 2


def test_time_that_nobody_counted_is_other() -> None:
    run = run_of({"time/simulate": 0.5}, {"time/simulate": 0.5, "time/learn": 0.25}, {"train/loss": 1.0})
    assert figures.time_shares(run) == {"simulate": 1.0, "learn": 0.25, "other": 0.75}
    assert figures.time_shares(run_of({"train/loss": 1.0})) == {}


def test_known_learning_curves_come_first() -> None:
    rows = [{"train/own": 1.0, "train/clip_fraction": 0.1}, {"train/own": 2.0, "train/clip_fraction": 0.2}]
    rows[0] |= {"train/once": 1.0, "train/actor_loss": 1.0}
    rows[1]["train/actor_loss"] = float("nan")
    assert figures.learning_names(run_of(*rows)) == ["train/clip_fraction", "train/own"]


@pytest.mark.parametrize("draw", [figures.draw_success, figures.draw_learning, figures.draw_time])
def test_one_row_draws(draw: Callable[[Run], figures.Draw]) -> None:
    row = {"rollout/success_once": 1.0, "train/actor_loss": 0.1, "time/learn": 1.0}
    assert figures.render(draw(run_of(row, row)), 6, 3).startswith(b"\x89PNG")


def test_more_groups_than_colours_are_drawn_too() -> None:
    names = [f"group {number}" for number in range(len(figures.COLOURS) + 3)]
    curves = [figures.Curve(name, np.arange(3.0), np.arange(3.0) / 3) for name in names]
    colours = dict.fromkeys(names, "k")
    picture = figures.render(lambda figure: figures.draw_curves(figure.subplots(), curves, colours), 6, 3)
    assert picture.startswith(b"\x89PNG")
