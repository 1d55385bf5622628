"""A run's folder, read back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from palaestra.launch import statistics
from palaestra.launch.runs import Outcome, read_run

MakeRun = Callable[..., Path]


def outcome(wins: list[bool | None], first_seed: int = 0, definition: str = "it is done") -> Outcome:
    episodes = tuple(
        {"seed": first_seed + n, "success_once": win, "success_at_end": False, "return": 2.0 * n, "length": 10}
        for n, win in enumerate(wins)
    )
    return Outcome("policy", definition, episodes, 0)


def test_counts_come_from_the_list_of_episodes() -> None:
    found = outcome([True, False, True, True])
    assert found.successes("success_once") == 3 and found.successes("success_at_end") == 0
    assert found.rate("success_once") == 0.75 and found.interval("success_once") == statistics.wilson(3, 4)
    assert found.mean("return") == 3.0 and found.mean("length") == 10
    assert not outcome([]).measured and not outcome([None], definition="").measured


def test_the_same_episodes_are_compared_as_pairs() -> None:
    first, second = [True] * 30 + [False] * 10, [True] * 22 + [False] * 18
    paired = outcome(first).separation(outcome(second), "success_once")
    unpaired = outcome(first).separation(outcome(second, first_seed=100), "success_once")
    assert paired == statistics.separate_paired(first, second)
    assert unpaired == statistics.separate(30, 40, 22, 40)
    assert paired.separable and not unpaired.separable


def test_entries_of_the_result_come_before_those_of_the_recipe(make_run: MakeRun) -> None:
    run = read_run(make_run(seed=3, config={"seed": 4, "pi_rl": {"level": 0.5}}, iterations=0))
    assert run.get("seed") == 3 and run.get("pi_rl.level") == 0.5
    assert run.get("pi_rl.nothing") is None and run.get("seed.deeper") is None


def test_series_leave_out_what_is_not_finite(make_run: MakeRun) -> None:
    path = make_run(iterations=2)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    rows[1] |= {"train/actor_loss": None, "nonfinite": {"train/actor_loss": "nan"}}
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(path)
    at, _ = run.series("train/actor_loss")
    assert at.tolist() == [0, 2 * 2048] and run.series("train/critic_loss")[0].size == 3
    assert run.series("train/none")[0].shape == (0,)


@pytest.mark.parametrize(("content", "message"), [("[1]", "must hold a JSON object, not list"), ("{", "is no JSON")])
def test_a_broken_recipe_is_named(make_run: MakeRun, content: str, message: str) -> None:
    path = make_run(iterations=0)
    (path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"config.json {message}"):
        read_run(path)
