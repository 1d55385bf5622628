from dataclasses import fields

import numpy as np
import pytest
import torch

from palaestra.envs.driving.arena import Arena, Command, Control
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.lanes import validate
from palaestra.envs.driving.maps import MAPS, SUITES, suite
from palaestra.envs.driving.maps.draw import Draw


def same(one: Arena, other: Arena) -> bool:
    return all(torch.equal(getattr(one, entry.name), getattr(other, entry.name)) for entry in fields(one))


@pytest.mark.parametrize("family", MAPS)
def test_a_seed_gives_the_same_map_bit_by_bit_and_other_seeds_and_splits_another(family: str) -> None:
    arena = build_arena([MAPS[family](5)])
    assert same(arena, build_arena([MAPS[family](5)]))
    for other in (MAPS[family](6), MAPS[family](5, "test")):
        validate(other)
        points = torch.from_numpy(next(iter(other.lanes.values())).points).float()
        assert not torch.isin(points, arena.position).all()


@pytest.mark.parametrize("family", MAPS)
def test_limits_and_lengths(family: str) -> None:
    arena = build_arena(suite(family, "test", 2))
    assert arena.limit.min() >= 4.0 and arena.limit.max() <= 25.0
    if family != "highway":
        assert arena.limit.max() <= 18.0
        assert arena.route_count.min() >= 100 and arena.route_count.max() <= 402
    else:
        assert arena.limit.max() > 20.0 and arena.route_count.max() > 500
    assert (arena.route_range.diff(dim=1) >= 6).all()


def test_controls_by_family() -> None:
    wanted = {
        "signalised": {Control.SIGNAL},
        "roundabout": {Control.YIELD},
        "highway": set(),
        "lane-drop": set(),
        "arterial": {Control.SIGNAL},
    }
    for family, controls in wanted.items():
        found = {lane.control for lane in MAPS[family](1).lanes.values()}
        assert found == controls | {Control.NONE}
    minor = {lane.control for seed in range(8) for lane in MAPS["priority"](seed).lanes.values()}
    assert minor == {Control.NONE, Control.STOP, Control.YIELD}
    town = {lane.control for seed in range(3) for lane in MAPS["town"](seed).lanes.values()}
    assert town == set(Control)


def test_a_merge_and_an_exit_change_lanes() -> None:
    graphs = suite("highway", "train", 3)
    arena = build_arena(graphs)
    names = [name for graph in graphs for name in graph.lanes]
    starts = [names[lane] for lane in arena.route_lane[:, 0].tolist()]
    ends = [names[lane] for lane in arena.route_lane[:, -1].tolist()]
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        commands = set(arena.route_command[row].tolist())
        if start == "on-ramp":
            assert Command.CHANGE_LEFT in commands
        if end == "off-ramp" and start != "off-ramp":
            assert Command.CHANGE_RIGHT in commands
    assert "on-ramp" in starts and "off-ramp" in ends


def test_signal_phases_share_a_cycle_with_yellow_and_all_red_between() -> None:
    for graph in (*suite("signalised", "train", 6), MAPS["town"](0)):
        junctions: dict[str, list] = {}
        for name, signal in graph.signals.items():
            junctions.setdefault(name.split("/")[0], []).append(signal)
        for signals in junctions.values():
            assert len({signal.cycle for signal in signals}) == 1 and len(signals) >= 2
            ordered = sorted(signals, key=lambda signal: signal.start)
            ends = [signal.start + signal.green + signal.yellow for signal in ordered]
            begins = [*(signal.start for signal in ordered[1:]), ordered[0].cycle]
            assert all(signal.yellow == 3.0 and signal.green >= 4.0 for signal in ordered)
            assert np.subtract(begins, ends) == pytest.approx(1.5)  # all red


def test_crosswalks_are_at_junctions_and_between_them() -> None:
    graph = MAPS["arterial"](0)
    arena = build_arena([graph])
    crossed_outside = set(arena.crossing[~arena.junction].flatten().tolist()) - {-1}
    crossed_inside = set(arena.crossing[arena.junction].flatten().tolist()) - {-1}
    assert len(crossed_inside) == 4 and len(crossed_outside) == 1


def test_training_and_testing_knobs_never_meet() -> None:
    train, test = Draw("town", "train", 0), Draw("town", "test", 0)
    low = np.array([train.uniform(0.0, 8.0) for _ in range(500)])
    high = np.array([test.uniform(0.0, 8.0) for _ in range(500)])
    assert set(np.floor(low)) == {0, 2, 4, 6} and set(np.floor(high)) == {1, 3, 5, 7}
    assert low.mean() == pytest.approx(3.5, abs=0.3) and high.mean() == pytest.approx(4.5, abs=0.3)


def test_lane_widths_of_training_and_testing_maps_differ() -> None:
    widths = {
        split: {float(np.max(lane.width)) for graph in suite("arterial", split, 10) for lane in graph.lanes.values()}
        for split in ("train", "test")
    }
    assert len(widths["train"]) > 5 and not widths["train"] & widths["test"]


def test_suites_take_turns_and_count_on() -> None:
    names = [graph.name.replace("-test-", " ") for graph in suite("junctions", "test", 5, seed=7)]
    assert names == ["signalised 7", "priority 7", "roundabout 7", "signalised 8", "priority 8"]
    assert set(SUITES["mixed"]) == set(MAPS)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"no suite of maps 'roundabuot'.* Did you mean 'roundabout'"):
        suite("roundabuot")
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'dev'"):
        suite("town", "dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 or more, got -1"):
        suite("town", "train", 1, -1)


@pytest.mark.slow
@pytest.mark.parametrize("family", MAPS)
def test_many_seeds_build(family: str) -> None:
    for split in ("train", "test"):
        arena = build_arena(suite(family, split, 8, 10))
        assert arena.route_curvature.abs().max() < 0.3
