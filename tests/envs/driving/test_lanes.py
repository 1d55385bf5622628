from collections.abc import Callable

import numpy as np
import pytest

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.lanes import Lane, LaneGraph, MapError, Route, Signal, validate


def straight(start: float, end: float, y: float = 0.0) -> np.ndarray:
    return np.stack((np.linspace(start, end, 21), np.full(21, y)), 1)


def road() -> LaneGraph:
    """Return a good map: two lanes side by side, then one."""
    graph = LaneGraph("road")
    graph.lanes["one"] = Lane(straight(0, 50), 10.0, right="two", successors=["next"])
    graph.lanes["two"] = Lane(straight(0, 50, -3.5), 10.0, left="one")
    graph.lanes["next"] = Lane(straight(50, 100), 10.0)
    graph.routes.append(Route(("two", "one", "next")))
    return graph


def test_a_good_map_passes() -> None:
    validate(road())
    arena = build_arena([road()])
    assert arena.lane_map.tolist() == [0, 0, 0]
    assert arena.left.tolist() == [-1, 0, -1] and arena.right.tolist() == [1, -1, -1]
    assert arena.successors.tolist() == [[2, -1, -1], [-1, -1, -1], [-1, -1, -1]]
    assert arena.route_count.tolist() == [91]  # 5 to 95 m; the change of lanes makes it 0.2 m longer


def edit(change: Callable[[LaneGraph], object]) -> LaneGraph:
    graph = road()
    change(graph)
    return graph


def move(graph: LaneGraph, name: str, by: tuple[float, float]) -> None:
    graph.lanes[name].points = graph.lanes[name].points + by


def turn(graph: LaneGraph, name: str, angle: float) -> None:
    lane = graph.lanes[name]
    spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lane.points = lane.points[0] + (lane.points - lane.points[0]) @ spin.T


def put(graph: LaneGraph, name: str, **values: object) -> None:
    for key, value in values.items():
        setattr(graph.lanes[name], key, value)


def nan_at(graph: LaneGraph, name: str, index: int) -> None:
    graph.lanes[name].points[index, 1] = np.nan


def ring(graph: LaneGraph) -> None:
    put(graph, "two", right="one")
    put(graph, "one", left="two")


FAULTS: list[tuple[Callable[[LaneGraph], object], str]] = [
    (lambda graph: graph.lanes.clear(), "map 'road' has no lanes"),
    (lambda graph: graph.routes.clear(), "map 'road' has no routes"),
    (lambda graph: move(graph, "next", (0.6, 0)), r"'one', station 50.0: its successor 'next' starts 0.60 m"),
    (lambda graph: turn(graph, "next", 0.25), r"'one', station 50.0: its successor 'next' .* 0.25 rad away"),
    (lambda graph: put(graph, "next", points=straight(50, 51.5)), "lane 'next' is 1.50 m long"),
    (lambda graph: nan_at(graph, "two", 7), r"lane 'two', point 7 is \[17.5, nan\]"),
    (lambda graph: put(graph, "two", points=np.zeros((1, 2))), r"shape \(1, 2\)"),
    (lambda graph: put(graph, "two", points=np.repeat(straight(0, 50), 2, 0)), "points 0 and 1 coincide"),
    (lambda graph: put(graph, "two", width=-1.0), "lane 'two': width must be positive"),
    (lambda graph: put(graph, "two", width=np.ones(5)), "one for each of 21 points"),
    (lambda graph: put(graph, "two", limit=0.0), "lane 'two' has the limit 0.0 m/s"),
    (lambda graph: put(graph, "next", left="one"), "neighbours must be mutual"),
    (ring, r"going left from lane 'one' comes back to it: \['one', 'two'\]"),
    (lambda graph: put(graph, "next", left="onee"), "lane 'next' .left. names the lane 'onee', .* Did you mean 'one'"),
    (lambda graph: put(graph, "one", successors=["nxt"]), "'nxt', which the map does not have. Did you mean 'next'"),
    (lambda graph: put(graph, "one", successors=["next"] * 2), "at most 3 different"),
    (lambda graph: put(graph, "one", control=Control.SIGNAL), "control SIGNAL and the signal None"),
    (lambda graph: put(graph, "one", signal="a"), "control NONE and the signal 'a'"),
    (lambda graph: graph.signals.update(a=Signal(30.0, 0.0, 0.0)), "signal 'a' is green for 0.0 s"),
    (lambda graph: graph.crosswalks.append(np.zeros((3, 2))), "crosswalk 0"),
    (lambda graph: graph.routes.append(Route(("two", "next"))), "route 1 goes from lane 'two' to 'next'"),
    (lambda graph: graph.routes.append(Route(("one", "gone"))), "route 1 names the lane 'gone'"),
    (lambda graph: graph.routes.append(Route(())), "route 1 names no lanes"),
    (lambda graph: graph.routes.append(Route(("one",), 60.0)), "route 1: its start, 60.0, is off a lane of 50.0 m"),
    (lambda graph: put(graph, "two", junction=True), "route 0 changes lanes in a junction, from 'two' to 'one'"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[message[:30] for _, message in FAULTS])
def test_faults_are_named(change: Callable[[LaneGraph], object], message: str) -> None:
    with pytest.raises(MapError, match=message):
        validate(edit(change))


def test_a_gap_of_less_than_half_a_metre_passes() -> None:
    validate(edit(lambda graph: move(graph, "next", (0.4, 0))))


def test_no_room_for_a_lane_change() -> None:
    graph = road()
    graph.routes = [Route(("two", "one", "next"), start=35.0)]
    with pytest.raises(MapError, match=r"'two' of 50.0 m leaves 4.9 m for each of 1 lane changes"):
        build_arena([graph])


def test_signals_overlap_by_green_and_yellow() -> None:
    one = Signal(40.0, 0.0, 15.0, 3.0)
    assert not one.overlaps(Signal(40.0, 19.0, 17.0, 3.0))
    assert one.overlaps(Signal(40.0, 17.0, 10.0, 3.0))  # while the first is yellow
    assert one.overlaps(Signal(40.0, 30.0, 10.0, 3.0))  # beyond the cycle's end
    assert one.overlaps(one) and one.overlaps(Signal(41.0, 19.0, 17.0, 3.0))
