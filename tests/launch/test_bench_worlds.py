import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import gymnasium
import pytest

from palaestra.launch.bench import BENCHES
from palaestra.launch.benches.measure import measure
from palaestra.launch.benches.worlds import _pool, _single, _vector, worlds


def sleeper(seconds: float, played: list[int]) -> Callable[[int], int]:
    def play(steps: int) -> int:
        time.sleep(seconds * steps)
        played.append(steps)
        return steps

    return play


def test_ratios_are_those_of_the_rates_and_every_contender_has_its_turns() -> None:
    slow: list[int] = []
    fast: list[int] = []
    plays = {"slow": sleeper(3e-3, slow), "fast": sleeper(1e-3, fast)}
    result = measure(plays, [("fast", "slow"), ("slow", "fast")], rounds=5, seconds=0.06)
    assert 250 < result["rates"]["slow"] <= 334 and 700 < result["rates"]["fast"] <= 1000
    ratio, inverse = result["ratios"]["fast / slow"], result["ratios"]["slow / fast"]
    assert 2 < ratio["least"] <= ratio["median"] <= ratio["greatest"] < 4
    assert ratio["median"] * inverse["median"] == pytest.approx(1, abs=0.01)
    assert len(slow) == len(fast) == 2 + 5  # two to find how many steps a turn takes, then the rounds
    assert slow[-1] == pytest.approx(20, abs=3) and fast[-1] == pytest.approx(60, abs=15)


@pytest.mark.parametrize("kind", ["single", "sync", "async", "pool"])
def test_contenders_play_what_they_are_asked(kind: str) -> None:
    factory = partial(gymnasium.make, "CartPole-v1")
    with ExitStack() as stack:
        if kind == "single":
            play = _single(stack, factory, seed=0)
        elif kind == "pool":
            play = _pool(stack, factory, 2, 1, 3, seed=0)
        else:
            play = _vector(stack, kind, factory, 2, seed=0)
        for steps in (1, 61):  # through several episode ends
            assert steps <= play(steps) < steps + 6


@pytest.mark.slow
@pytest.mark.simulator
def test_the_bench_of_worlds_writes_what_it_measured(tmp_path: Path) -> None:
    assert BENCHES["worlds"] is worlds
    result = worlds(count=2, rounds=1, seconds=0.1, output=tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(result))
    assert {"pool ours / bare", "pool ours / async ours"} <= result["maniskill"]["ratios"].keys()
    assert {"command", "versions", "seed", "commit"} <= result.keys()
