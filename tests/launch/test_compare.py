"""Comparisons of runs: the numbers, what is refused, and what the reader is told to doubt."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from palaestra.launch import statistics
from palaestra.launch.compare import compare
from palaestra.launch.track import read_metrics

MakeRun = Callable[..., Path]
PUSH, PICK = "maniskill/PushCube-v1", "maniskill/PickCube-v1"


def several(make_run: MakeRun, rates: dict[str, list[float]], **options: object) -> list[Path]:
    return [
        make_run(f"{recipe}-{seed}", recipe=recipe, seed=seed, after=rate, **options)
        for recipe, column in rates.items()
        for seed, rate in enumerate(column)
    ]


def test_numbers_of_two_groups_over_three_seeds(make_run: MakeRun, tmp_path: Path) -> None:
    runs = several(make_run, {"sde": [0.95, 0.97, 0.9], "noise": [0.7, 0.92, 0.65]})
    found = compare(runs, tmp_path / "out")
    sde, noise = found.groups
    assert (sde.successes, sde.episodes) == (190 + 194 + 180, 600)
    assert sde.rate_interval == statistics.wilson(564, 600)
    assert sde.scores[:, 0] == pytest.approx([0.95, 0.97, 0.9])
    assert sde.iqm is not None and sde.iqm.value == pytest.approx((0.95 + 0.97 + 0.9) / 3)  # 0.25 of 3 cuts nothing
    assert sde.iqm.interval is not None and 0.9 <= sde.iqm.interval[0] < sde.iqm.interval[1] <= 0.9701
    # 0.92 beats 0.90 once in nine pairs.
    assert found.improvement["sde", "noise"].value == pytest.approx(8 / 9)
    assert found.improvement["noise", "sde"].value == pytest.approx(1 / 9)
    assert sde.area is not None and noise.area is not None and sde.area.value > noise.area.value
    difference = found.area_difference["sde", "noise"]
    assert difference.value == pytest.approx(sde.area.value - noise.area.value)
    assert sde.curve is not None and sde.curve.low is not None and np.all(sde.curve.low <= sde.curve.value)
    assert sde.curve.at[[0, -1]] == pytest.approx([0, 60 * 2048])


def test_groups_are_paired_over_the_seeds_that_both_have(make_run: MakeRun) -> None:
    runs = several(make_run, {"sde": [0.95, 0.97, 0.9], "noise": [0.7, 0.92, 0.65]})
    whole, part = compare(runs), compare([run for run in runs if run.name != "noise-1"])
    areas = [group.areas[:, 0] for group in whole.groups]
    expected = ((areas[0] - areas[1])[[0, 2]]).mean()
    assert part.area_difference["sde", "noise"].value == pytest.approx(expected)
    assert part.area_difference["sde", "noise"].value != pytest.approx(whole.area_difference["sde", "noise"].value)


def test_curves_over_the_wall_clock(make_run: MakeRun) -> None:
    runs = several(make_run, {"sde": [0.95, 0.97], "noise": [0.7, 0.92]})
    found = compare(runs, over="wall_s")
    curve = found.groups[0].curve
    seconds = [row["wall_s"] for row in read_metrics(runs[0] / "metrics.jsonl") if "eval/success_once" in row]
    assert curve is not None and curve.at[[0, -1]] == pytest.approx([seconds[0], seconds[-1]])
    assert found.to_json()["over"] == "wall_s"
    assert found.figure().startswith(b"\x89PNG")


def test_files_hold_the_same_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    runs = several(make_run, {"a|b": [0.95, 0.97], "noise": [0.7, 0.92]})
    found = compare(runs, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert stored["groups"][0]["rate"] == found.groups[0].rate == pytest.approx(0.96)
    assert stored["groups"][0]["runs"] == [str(path) for path in runs[:2]]
    profile = dict(zip(stored["thresholds"], stored["groups"][0]["profile"], strict=True))
    assert (profile[0.94], profile[0.96], profile[0.98]) == (1.0, 0.5, 0.0)
    markdown = (tmp_path / "out" / "compare.md").read_text()
    assert "| a\\|b | 1 | 2 | 96.0 [" in markdown and "| P(row beats column) |" in markdown
    console = Console(file=io.StringIO(), width=200)
    console.print(found.table())
    assert "96.0 [" in console.file.getvalue()  # type: ignore[attr-defined]
    picture = (tmp_path / "out" / "compare.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_one_seed_has_no_interval_between_seeds(make_run: MakeRun) -> None:
    found = compare([make_run()])
    (group,) = found.groups
    assert group.iqm is not None and group.iqm.interval is None
    assert group.curve is not None and group.curve.low is None
    assert any("one seed, so there is no interval" in note for note in found.notes)
    assert "97.0 [93.6, 98.6] of 200 | 97.0 |" in found.markdown()
    assert found.figure().startswith(b"\x89PNG")


def test_worlds_are_strata_and_unshared_ones_are_left_out(make_run: MakeRun) -> None:
    runs = [
        make_run(f"{recipe}-{world[10:14]}-{seed}", recipe=recipe, world=world, seed=seed, after=rate)
        for recipe, lift in (("sde", 0.1), ("noise", 0.0))
        for world, rate in ((PUSH, 0.8), (PICK, 0.5))
        for seed, rate in enumerate((rate + lift, rate + lift + 0.05))
    ]
    runs.append(make_run("extra", recipe="sde", world="toy/reach-v0", seed=0, after=1.0))
    runs.append(make_run("odd", recipe="noise", world=PUSH, seed=7, after=0.0))
    found = compare(runs)
    assert found.worlds == (PICK, PUSH)
    sde, noise = found.groups
    assert sde.scores == pytest.approx(np.array([[0.6, 0.9], [0.65, 0.95]]))
    assert noise.seeds == (0, 1)
    assert any("noise: seeds [7] are left out" in note for note in found.notes)
    assert sde.episodes == 5 * 200
    assert found.improvement["sde", "noise"].value == 1.0


def test_groups_without_a_shared_world_are_not_set_against_each_other(make_run: MakeRun) -> None:
    found = compare([make_run("a", recipe="push"), make_run("b", recipe="pick", world=PICK)])
    assert found.worlds == () and found.improvement == {} and found.groups[0].iqm is None
    assert any("share no world" in note for note in found.notes)
    assert found.figure().startswith(b"\x89PNG")


def test_groups_by_an_entry_of_the_recipe(make_run: MakeRun) -> None:
    runs = [make_run(name, config={"pi_rl": {"sampler": name}}) for name in ("sde", "noise")]
    assert [group.label for group in compare(runs, by=("recipe", "pi_rl.sampler")).groups] == [
        "pi-rl-push-cube · sde",
        "pi-rl-push-cube · noise",
    ]
    with pytest.raises(ValueError, match=r"no value 'pi_rl.sample' to group by. Entries: .*pi_rl"):
        compare(runs, by=("pi_rl.sample",))


def test_success_at_the_end_is_another_column(make_run: MakeRun) -> None:
    run = make_run(after=1.0)
    assert compare([run]).groups[0].rate == 1.0
    assert compare([run], column="success_at_end").groups[0].rate == 0.95


def test_runs_without_curves_still_compare(make_run: MakeRun) -> None:
    found = compare(several(make_run, {"a": [0.5, 0.6], "b": [0.8, 0.9]}, iterations=0))
    assert found.groups[0].curve is None and found.groups[0].area is None and not found.area_difference
    assert found.improvement["b", "a"].value == 1.0
    assert found.figure().startswith(b"\x89PNG")


def test_refusals(make_run: MakeRun, tmp_path: Path) -> None:
    good = make_run("good")
    with pytest.raises(ValueError, match="at least one run"):
        compare([])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        compare([tmp_path / "nowhere"])
    unfinished = make_run("unfinished", seed=1)
    (unfinished / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"unfinished has no result.json: .*Resume it"):
        compare([good, unfinished])
    with pytest.raises(ValueError, match=r"good and .*good are both 'pi-rl-push-cube' .* with seed 0"):
        compare([good, good])
    other = make_run("other", seed=2, definition="info['success']: within 0.2 m")
    with pytest.raises(ValueError, match=r"has 2 definitions.*0\.1 m.*0\.2 m"):
        compare([good, other])
    wordless = make_run("wordless", seed=3, definition="")
    with pytest.raises(ValueError, match=r"no success rate .*info\['success'\]"):
        compare([wordless])
    assert not (tmp_path / "out").exists()


def test_altered_results_are_refused(make_run: MakeRun) -> None:
    run = make_run()
    path = run / "result.json"
    whole = json.loads(path.read_text())
    for change, message in (
        ({"format": 2}, "format 2"),
        ({"evaluations": []}, "holds no evaluation"),
        ({"evaluations": [{"name": "after"}]}, "broken evaluation"),
        ({"evaluations": [whole["evaluations"][0] | {"episodes": 3}]}, "says 3 episodes but lists 200"),
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=message):
            compare([run])
    path.write_text(json.dumps(whole)[:-30])
    with pytest.raises(ValueError, match="not JSON"):
        compare([run])


def test_doubts_are_said(make_run: MakeRun) -> None:
    first, second = make_run("first", seed=0), make_run("second", seed=1, episodes=150)
    stored = json.loads((first / "result.json").read_text())
    stored["evaluations"][-1]["faults"] = 4
    (first / "result.json").write_text(json.dumps(stored))
    notes = compare([first, second]).notes
    assert any("first: 4 episodes were lost to faults" in note for note in notes)
    assert any("different episodes" in note for note in notes)
