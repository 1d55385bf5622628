"""Reports hold what they should, escape what they are given, and open in a real browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from palaestra.launch import report
from palaestra.launch.report import write_report

MakeRun = Callable[..., Path]
CHROMIUM = shutil.which("chromium")
NASTY = "<script>alert('&')</script>\"'><img src=http://example.invalid/x>"
VOID = {"meta", "img", "source", "br"}


class Checker(HTMLParser):
    """Fails on a tag that is never closed, and collects everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "srcset", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text())
    assert not checker.open
    assert all(address.startswith("data:") for address in checker.fetched)
    assert not {"script", "link", "iframe", "object"} & set(checker.tags)
    return checker


def add_film(run: Path, name: str, size: int = 0) -> None:
    imageio = pytest.importorskip("imageio.v2")
    (run / "videos").mkdir(exist_ok=True)
    path = run / "videos" / name
    frames = [np.full((64, 64, 3), 12 * i, np.uint8) for i in range(20)]
    imageio.mimwrite(path, frames, fps=10)
    if size:
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))


def test_numbers_of_a_run(make_run: MakeRun) -> None:
    path = write_report(make_run())
    text = path.read_text()
    assert path.name == "report.html"
    assert "<b>45.0 %</b> <small>[38.3, 51.9]</small>" in text  # 90 of 200
    assert "<b>97.0 %</b> <small>[93.6, 98.6]</small>" in text  # 194 of 200
    assert "the two intervals do not overlap (the same episodes, compared as pairs)" in text
    assert "194 of 200 · 93.6 to 98.6 %" in text and "+52.0 points" in text
    assert "122,880" in text and "7 min 12 s" in text
    assert text.count('class="bar"') == 4 and text.count("<tr>") == 2 * 201 + 3
    assert "within 0.1 m of the goal" in text and "&quot;sampler&quot;: &quot;sde&quot;" in text
    assert len(parsed(path).fetched) == 3  # curves, learning, time


def test_a_change_that_is_none_is_said(make_run: MakeRun) -> None:
    text = write_report(make_run(before=0.9, after=0.92, episodes=50, iterations=0)).read_text()
    assert "cannot separate the two policies" in text and "you need about" in text
    assert "do not overlap" not in text


def test_everything_foreign_is_escaped(make_run: MakeRun) -> None:
    run = make_run(recipe=NASTY, world=NASTY, definition=NASTY, config={NASTY: NASTY}, iterations=1)
    stored = json.loads((run / "result.json").read_text())
    stored |= {"command": NASTY, "commit": NASTY, "machine": {NASTY: NASTY}}
    stored["evaluations"][0]["name"] = NASTY
    stored["evaluations"][0]["episode_list"][0]["seed"] = 7
    (run / "result.json").write_text(json.dumps(stored))
    row = {"iteration": 1, "env_steps": 1, "wall_s": 1.0, f"train/{NASTY}": 1.0, f"time/{NASTY}": 1.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.write(json.dumps({"iteration": 2, "env_steps": 2, "wall_s": 2.0, "nonfinite": {NASTY: "nan"}}) + "\n")
    add_film(run, "<b>&film.mp4")
    path = write_report(run)
    text = path.read_text()
    parsed(path)
    assert "<script" not in text and "<img src=http" not in text and "<b>&film" not in text
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in text


def test_films_are_bounded_and_figures_shown(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(iterations=0)
    add_film(run, "small.mp4")
    add_film(run, "large.mp4", 50_000)
    monkeypatch.setattr(report, "LARGEST_FILM", 40_000)
    (run / "figures").mkdir()
    (run / "figures" / "phones.png").write_bytes(report.render(lambda figure: None, 1, 1))
    path = write_report(run)
    text = path.read_text()
    checker = parsed(path)
    assert checker.tags.count("video") == 1 and 'href="videos/large.mp4"' in text
    assert "<figcaption>phones</figcaption>" in text
    assert "wall clock" not in text  # no metrics, so no curves and no times


def test_unfinished_runs_and_worlds_without_success(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("unfinished", iterations=2)
    (run / "result.json").unlink()
    text = write_report(run).read_text()
    assert "This run is not finished" in text and "maniskill/PushCube-v1 · seed 0" in text
    wordless = make_run("wordless", definition="", iterations=0)
    assert "this world defines no success" in write_report(wordless).read_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither config.json nor result.json"):
        write_report(tmp_path / "empty")
    assert not (tmp_path / "empty" / "report.html").exists()


def test_time_shares_account_for_the_whole_wall_clock(make_run: MakeRun) -> None:
    shares = report.time_shares(report.read_run(make_run()))
    assert list(shares) == ["simulate", "act", "learn", "other", "evaluate"]
    assert sum(shares.values()) == pytest.approx(7.2 * 60)
    assert shares["evaluate"] == pytest.approx(4.0 * 13)


def test_several_runs_are_compared_on_one_page(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [
        make_run(f"{recipe}-{seed}", recipe=recipe, seed=seed, after=rate - 0.02 * seed)
        for recipe, rate in (("flow-sde", 0.97), ("flow-noise", 0.8))
        for seed in range(3)
    ]
    path = write_report(runs)
    assert path == tmp_path / "report.html"
    text = path.read_text()
    parsed(path)
    assert "flow-sde against flow-noise" in text and "6 runs" in text
    assert text.count('class="bar"') == 6 and "P(row beats column)" in text
    assert not (tmp_path / "compare.json").exists()


def chromium(path: Path, folder: Path, *flags: str) -> str:
    assert CHROMIUM is not None
    quiet = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet.split(), "--window-size=1200,2400"]
    command += [f"--user-data-dir={folder}", "--virtual-time-budget=4000", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_opens_in_a_browser(make_run: MakeRun, tmp_path: Path) -> None:
    import matplotlib.image

    run = make_run()
    add_film(run, "after.mp4")
    path = write_report(run)
    shot = tmp_path / "shot.png"
    chromium(path, tmp_path / "profile-1", f"--screenshot={shot}", "--hide-scrollbars")
    pixels = matplotlib.image.imread(shot)[..., :3]
    assert pixels.shape[:2] == (2400, 1200)
    assert pixels.std() > 0.05 and len(np.unique((255 * pixels[::4, ::4]).astype(int).reshape(-1, 3), axis=0)) > 50
    dom = chromium(path, tmp_path / "profile-2", "--dump-dom")
    assert dom.count("<table") == 3 and dom.count("<tr>") == 2 * 201 + 3
    assert re.search(r"<td[^>]*><b>97\.0 %</b>", dom) and "<video" in dom
