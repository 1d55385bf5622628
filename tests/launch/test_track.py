"""Metrics survive kills, resumes and numbers that are not finite, and a full disk loses no earlier row."""

import io
import json
import math
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from palaestra.launch import track


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def play(run: Path, first: int, last: int, resume_at: int | None = None) -> None:
    with track.Tracker(run, 10, resume_at=resume_at, console=quiet()) as tracker:
        for iteration in range(first, last + 1):
            tracker.log(iteration, 64 * iteration, {"train/loss": 1 / iteration, "eval/success_once": iteration / 10})


def timeless(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in track.read_metrics(run / "metrics.jsonl")]


def events(run: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(run / "tensorboard"))
    reader.Reload()
    return [(event.step, round(event.value, 5)) for event in reader.Scalars(tag)]


def test_rows_go_to_the_file_and_to_tensorboard(tmp_path: Path) -> None:
    play(tmp_path, 1, 3)
    rows = track.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert [row["env_steps"] for row in rows] == [64, 128, 192]
    assert rows[0]["wall_s"] <= rows[2]["wall_s"]
    assert events(tmp_path, "train/loss") == [(1, 1.0), (2, 0.5), (3, 0.33333)]


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    play(whole, 1, 10)
    play(broken, 1, 7)
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 8, "env_st')  # killed in the middle of a line
    before = track.read_metrics(broken / "metrics.jsonl")
    assert len(before) == 7
    play(broken, 5, 10, resume_at=4)
    assert timeless(broken) == timeless(whole)
    assert events(broken, "train/loss") == events(whole, "train/loss")
    times = [row["wall_s"] for row in track.read_metrics(broken / "metrics.jsonl")]
    assert times == sorted(times) and times[:4] == [row["wall_s"] for row in before[:4]]


def test_kill_at_any_moment_leaves_whole_rows(tmp_path: Path) -> None:
    code = (
        "import itertools, pathlib, sys\n"
        "from palaestra.launch.track import Tracker\n"
        "tracker = Tracker(pathlib.Path(sys.argv[1]), 10**9)\n"
        "for i in itertools.count(1):\n"
        "    tracker.log(i, i, {f'train/{n}': i for n in range(50)})\n"
        "    print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    assert process.stdout is not None
    for _ in range(20):
        said = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = track.read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) >= said == 20  # what was logged is there, whole
    assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))


def test_a_new_run_needs_a_new_folder(tmp_path: Path) -> None:
    play(tmp_path, 1, 1)
    with pytest.raises(FileExistsError, match="Resume that run, or choose another"):
        play(tmp_path, 1, 1)
    assert len(track.read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_not_finite_is_kept_valid_json_and_flagged_once(tmp_path: Path) -> None:
    console = quiet()
    with track.Tracker(tmp_path, 2, console=console) as tracker:
        for iteration in (1, 2):
            tracker.log(iteration, 0, {"train/loss": math.nan, "train/kl": -math.inf, "train/fine": 1.0})
    line = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["train/loss"] is None and row["nonfinite"] == {"train/loss": "nan", "train/kl": "-inf"}
    back = track.read_metrics(tmp_path / "metrics.jsonl")[1]
    assert math.isnan(back["train/loss"]) and back["train/kl"] == -math.inf and back["train/fine"] == 1
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("train/loss is nan at iteration 1") == said.count("train/loss is nan") == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_raises_and_keeps_the_rows_before(tmp_path: Path) -> None:
    tracker = track.Tracker(tmp_path, 5, console=quiet())
    tracker.log(1, 1, {"train/loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes()
    for room in (0, 10):  # none at all; a part of the row
        with largest_file(len(content) + room), pytest.raises(OSError):
            tracker.log(2, 2, {"train/loss": 2.0})
        assert path.read_bytes() == content
    tracker.log(2, 2, {"train/loss": 2.0})
    tracker.close()
    tracker.close()
    assert [row["iteration"] for row in track.read_metrics(path)] == [1, 2]


def test_an_altered_line_is_named(tmp_path: Path) -> None:
    play(tmp_path, 1, 3)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "oops\n" + lines[2])
    with pytest.raises(ValueError, match=r"line 2 is no row of metrics .*'oops'"):
        track.read_metrics(path)


def test_names_need_a_namespace(tmp_path: Path) -> None:
    with track.Tracker(tmp_path, 1, console=quiet()) as tracker, pytest.raises(ValueError, match="'loss' needs"):
        tracker.log(1, 1, {"loss": 1.0})
    assert track.read_metrics(tmp_path / "metrics.jsonl") == []


def test_services_are_off_by_default_and_missing_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown tracking service 'wandB': choose from wandb, trackio"):
        track.Tracker(tmp_path, 1, services=["wandB"])
    code = "import sys, pathlib; sys.modules['wandb'] = None; from palaestra.launch.track import Tracker; "
    code += "Tracker(pathlib.Path(sys.argv[1]), 1, services=['wandb'])"
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 1 and "pip install 'palaestra[tracking]'" in found.stderr
    assert not (tmp_path / "metrics.jsonl").exists()  # refused before anything was written


def test_plain_lines_away_from_a_terminal(tmp_path: Path) -> None:
    console = quiet()
    with track.Tracker(tmp_path, 100, console=console) as tracker:
        for iteration in range(1, 101):
            tracker.log(iteration, iteration * 32, {"rollout/success_once": 0.25})
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == track.PLAIN_LINES + 1
    assert lines[-1].startswith("iteration 100/100 ") and "rollout 25.0 %" in lines[-1] and "0:00:00 left" in lines[-1]


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with track.Tracker(tmp_path, 4, console=console) as tracker:
        tracker.log(3, 96, {"eval/success_once": 0.5})
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3/4" in said and "eval 50.0 %" in said and "steps/s" in said


def test_importing_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, palaestra.launch.track, palaestra.launch.compare, palaestra.launch.report, "
    code += "palaestra.launch.statistics; print({'torch', 'matplotlib', 'tensorboard', 'rich'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
