"""A straight road of two lanes with one signal half-way, 300 m long: small enough to compute by hand."""

import numpy as np
import pytest

from palaestra.envs.driving.arena import Arena, Control
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.lanes import Lane, LaneGraph, Route, Signal


def line(x0: float, x1: float, y: float) -> np.ndarray:
    return np.stack((np.linspace(x0, x1, 31), np.full(31, y)), 1)


def straight(control: Control = Control.SIGNAL, crosswalk: bool = True) -> LaneGraph:
    """Lanes "a0", "a1" (left) lead 150 m to a line at x = 150, and "b0", "b1" on; red from 20 s of 40 s on."""
    graph = LaneGraph("straight")
    signal = "s" if control == Control.SIGNAL else None
    for number, y in ((0, 0.0), (1, 3.5)):
        first = Lane(line(0, 150, y), 12.0, control=control, signal=signal)
        graph.lanes[f"a{number}"] = first
        graph.lanes[f"b{number}"] = Lane(line(150, 300, y), 12.0)
    for part in "ab":
        graph.lanes[f"{part}0"].left, graph.lanes[f"{part}1"].right = f"{part}1", f"{part}0"
    graph.connect("a0", "b0")
    graph.connect("a1", "b1")
    if signal:
        graph.signals["s"] = Signal(cycle=40.0, start=0.0, green=17.0, yellow=3.0)
    if crosswalk:
        graph.crosswalks.append(np.array([[220.0, -2.5], [220.0, 6.0]]))
    graph.routes.append(Route(("a0", "b0")))
    return graph


@pytest.fixture
def graph() -> LaneGraph:
    return straight()


@pytest.fixture(scope="session")
def road() -> Arena:
    return build_arena([straight()])


@pytest.fixture(scope="session")
def stop_road() -> Arena:
    return build_arena([straight(Control.STOP, crosswalk=False)])


@pytest.fixture(scope="session")
def free_road() -> Arena:
    return build_arena([straight(Control.NONE, crosswalk=False)])
