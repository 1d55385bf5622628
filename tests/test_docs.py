"""The README tells the truth: its commands and examples run, its figures stand in results/."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from palaestra.envs.registry import names
from palaestra.launch.cli import COMMANDS
from palaestra.launch.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDED = {"found-rl-driving": "vmr+awag"}
"""What the runs are called that a row is about, where a record holds others beside them."""


def example(name: str) -> str:
    """Return the Python block that follows `<!-- example: name -->`."""
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_ten_lines_train_and_print_a_rate(tmp_path: Path) -> None:
    """As they stand, but for a shorter run: the recipe itself is the learning test's."""
    code = example("train").replace(
        'recipe_named("reach")', 'replace(recipe_named("reach"), iterations=1, final_episodes=20)'
    )
    (tmp_path / "first.py").write_text("from dataclasses import replace\n" + code)
    shown = run([sys.executable, "first.py"], tmp_path)
    assert re.search(r"before: \d+% of 20 \[\d+%, \d+%\]\nafter: \d+% of 20 \[\d+%, \d+%\]", shown)


def test_the_model_of_the_example_answers(tmp_path: Path) -> None:
    (tmp_path / "ask.py").write_text(example("ask"))
    shown = run([sys.executable, "ask.py"], tmp_path)
    assert re.match(r"(stop|go) \(-[\d.]+, -[\d.]+\) \w+", shown.splitlines()[-1])


def test_the_world_of_four_steps_keeps_the_contract(tmp_path: Path) -> None:
    (tmp_path / "my_world.py").write_text(example("world"))
    shown = run([sys.executable, "-m", "palaestra.launch.cli", "check", "my_world:make"], tmp_path)
    assert "fail" not in shown.lower().replace("0 fail", "").replace("failed to", ""), shown


def test_the_tools_of_fifteen_lines_answer(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(example("tools"))
    assert run([sys.executable, "shop.py"], tmp_path).splitlines() == ["3", "answered 1.0"]


@pytest.mark.parametrize("line", re.findall(r"^palaestra (.+?)(?:\s+#.*)?$", README, re.MULTILINE))
def test_the_commands_exist_with_their_options(line: str, tmp_path: Path) -> None:
    command, *words = line.split()
    assert command in COMMANDS
    options = {word for word in words if word.startswith("--") and word not in ("--help", "--resume")}
    recipe = words[:1] if command == "train" else []
    asked = [sys.executable, "-m", "palaestra.launch.cli", command, *recipe, "--help"]
    shown = run(asked, tmp_path) if options else ""
    assert all(option in shown for option in options), shown


def test_every_named_world_recipe_and_file_is_there() -> None:
    for world in re.findall(r"`((?:toy|maniskill)/\w+-\w+)`", README):
        assert world in names()
    for recipe in re.findall(r"palaestra train ([a-z][\w-]+)", README):
        assert recipe in RECIPES
    for path in re.findall(r"\]\((results/[^)]+)\)", README) + re.findall(
        r"`((?:results|envs|agents|launch)/[\w./]+)`", README
    ):
        assert (ROOT / path).exists(), path


def rates(folder: Path, name: str) -> dict[str, str]:
    """Return a record's rates by stage, in per cent: of its run, or pooled over the runs (seeds) of one name."""
    paths = [folder / "result.json"] if (folder / "result.json").exists() else sorted(folder.glob("*/result.json"))
    documents = [document for path in paths if (document := json.loads(path.read_text()))["recipe"] == name]
    won: dict[str, list[int]] = {}
    for entry in (entry for document in documents for entry in document["evaluations"]):
        total = won.setdefault(entry["name"], [0, 0])
        total[0] += round(entry["success_once"] * entry["episodes"])
        total[1] += entry["episodes"]
    return {stage: f"{100 * successes / episodes:.1f}" for stage, (successes, episodes) in won.items()}


def test_the_table_repeats_what_the_results_say() -> None:
    """A rate in the table is the rate of the runs in the row's folder."""
    rows = re.findall(r"^\| \[`([\w-]+)`\]\((results/[\w-]+)\) \| ([\d.]+) .*?\| ([\d.]+) ", README, re.MULTILINE)
    assert len(rows) > 5, "the README has no table of results"
    for name, folder, before, after in rows:
        summary = ROOT / folder / "summary.json"
        if summary.exists():  # phones keep counts in place of lists of episodes
            stages = json.loads(summary.read_text())["digirl"]
            found = {stage: f"{100 * entry['rate']:.1f}" for stage, entry in stages.items()}
        else:
            found = rates(ROOT / folder, GUIDED.get(name, name))
        assert (found["before"], found["after"]) == (before, after), (folder, found)


@pytest.mark.parametrize("run", ["push-cube", "pick-cube"])
def test_little_time_goes_to_anything_but_simulation_and_gradients(run: str) -> None:
    """Below a tenth, of the recorded runs; evaluation apart."""
    rows = [json.loads(line) for line in (ROOT / "results" / run / "metrics.jsonl").read_text().splitlines()]
    spent = {part: sum(row.get(f"time/{part}", 0.0) for row in rows) for part in ("simulate", "act", "learn", "other")}
    assert 0 < spent["act"] + spent["other"] < 0.1 * sum(spent.values()), spent


def test_docstring_examples_run() -> None:
    import doctest
    import importlib

    for name in ("palaestra.envs.toy", "palaestra.envs.registry", "palaestra.envs.lockstep", "palaestra.envs.pool"):
        failed, tried = doctest.testmod(importlib.import_module(name))
        assert tried and not failed, name
