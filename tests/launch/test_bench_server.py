"""The server's bench, run small: its numbers mean what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palaestra.launch.bench import BENCHES
from palaestra.launch.benches import advice
from palaestra.launch.benches import server as bench_server
from palaestra.launch.benches.batcher import batcher_part


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return batcher_part(delay=0.01, max_batch=8, callers=24, rounds=2, seconds=0.4, asks=200)


def test_nothing_is_faster_than_the_engine(small: dict[str, Any]) -> None:
    """A batch takes at least `delay`, so no throughput passes the ideal; and saturated it is not far off."""
    assert small["ideal"] == 800
    for name in ("bare", "threads", "tasks"):
        assert 0.3 < small["throughput"][name]["least"] <= small["throughput"][name]["greatest"] <= 1.0


def test_overheads_are_of_an_ask(small: dict[str, Any]) -> None:
    """Seconds: more than nothing, and far from the engine's own hundredth."""
    for name in ("thread", "task"):
        found = small["overhead"][name]
        assert 1e-6 < found["p50"] < 5e-3 and found["p50"] <= found["p90"] <= found["p99"]
    assert 1e-6 < small["crowded"]["median"] < 5e-3
    for name in ("threads", "tasks"):
        assert 1e-7 < small["saturated"][name]["median"] < 1e-3
        assert 1e-6 < small["cost"][name]["median"] < 5e-3


def test_the_result_is_written_with_its_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_server, "PARTS", {"first": lambda: {"a": 1}, "second": lambda: {"b": 2}})
    result = bench_server.server(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["bench"] == "server" and result["first"] == {"a": 1} and result["second"] == {"b": 2}
    assert {"command", "commit", "versions", "machine", "load"} <= result.keys()


def test_it_is_a_bench() -> None:
    assert BENCHES["server"] is bench_server.server and "batcher" in bench_server.PARTS


def test_worlds_are_advised_from_another_core_at_the_rate_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model works on a core of its own, and the loop keeps to its load: half a second at 40 a second is 20 asks."""
    monkeypatch.setattr(advice, "LOADS", {"40/s": advice.Load(40, 4)})
    found = advice.advice_part(worlds=64, rounds=1, seconds=0.5)
    load = found["loads"]["40/s"]
    assert 0 < load["answers a second"] <= 40
    assert 0.2 < load["kept by processor time"]["of alone"] < 2
    assert found["steps a second"]["alone"] > 64 * 100


def test_a_process_keeps_to_the_core_that_it_is_given() -> None:
    """Also from a process that has a core of its own: the model once shared the worlds'."""
    here, there = advice.two_cores()
    show = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
    with advice.on_core(here), advice.on_core(there):
        assert subprocess.check_output(show, text=True).split() == [str(there)]
    assert len(os.sched_getaffinity(0)) >= min(2, os.cpu_count() or 1)
