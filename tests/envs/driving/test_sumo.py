from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.lanes import MapError
from palaestra.envs.driving.sumo import load, signal_of

LANE = '<lane id="{0}_{1}" index="{1}" speed="13.9" length="90" shape="{2}"{3}/>'
CROSSING = """<net version="1.20">
<edge id=":C_0" function="internal"><lane id=":C_0_0" index="0" speed="9.0" length="20" shape="-10,-2 10,-2"/></edge>
<edge id="west" from="W" to="C" priority="2">{west0}{west1}</edge>
<edge id="east" from="C" to="E" priority="2">{east0}</edge>
<edge id="south" from="S" to="C" priority="1">{south0}{walk}</edge>
<edge id="north" from="C" to="N" priority="1">{north0}</edge>
<tlLogic id="C" type="static" programID="0" offset="5">
 <phase duration="30" state="GGr"/><phase duration="4" state="yyr"/>
 <phase duration="20" state="rrG"/><phase duration="6" state="rry"/></tlLogic>
<junction id="C" type="{type}" x="0" y="0" incLanes="west_0 west_1 south_0" intLanes=":C_0_0"/>
<connection from="west" to="east" fromLane="0" toLane="0" via=":C_0_0" dir="s" state="{major}"{tl0}/>
<connection from="west" to="north" fromLane="1" toLane="0" dir="l" state="m"{tl1}/>
<connection from="south" to="north" fromLane="0" toLane="0" dir="s" state="{minor}"{tl2}/>
<connection from=":C_0" to="east" fromLane="0" toLane="0" dir="s" state="M"/>
</net>"""
SHAPES = {
    "west0": LANE.format("west", 0, "-100,-5 -10,-5", ""),
    "west1": LANE.format("west", 1, "-100,-1.8 -10,-1.8", ""),
    "east0": LANE.format("east", 0, "10,-5 100,-5", ""),
    "south0": LANE.format("south", 0, "1.6,-100 1.6,-10", ' width="3.0"'),
    "north0": LANE.format("north", 0, "1.6,10 1.6,60 11.6,110", ""),
    "walk": LANE.format("south", 1, "5,-100 5,-10", ' allow="pedestrian"'),
}


def write(folder: Path, lights: bool = True, **changes: str) -> Path:
    """Write a crossing: with traffic lights, or with priority to the west-east road."""
    values = {"type": "traffic_light" if lights else "priority", "major": "O" if lights else "M", "minor": "m"}
    values |= {f"tl{link}": f' tl="C" linkIndex="{link}"' if lights else "" for link in range(3)}
    path = folder / "crossing.net.xml"
    path.write_text(CROSSING.format(**{**SHAPES, **values, **changes}))
    return path


def test_lanes_connections_and_neighbours(tmp_path: Path) -> None:
    graph = load(write(tmp_path))
    outside = [name for name, lane in graph.lanes.items() if not lane.junction]
    assert outside == ["west_0", "west_1", "east_0", "south_0", "north_0"]
    assert graph.lanes["west_0"].left == "west_1" and graph.lanes["west_1"].right == "west_0"
    assert graph.lanes["south_0"].left is None  # walkers only
    assert graph.lanes["south_0"].width == 3.0 and graph.lanes["west_0"].width == 3.2
    through = graph.lanes["west_0>east_0"]
    assert graph.lanes["west_0"].successors == ["west_0>east_0"] and through.successors == ["east_0"]
    assert through.points[0] == pytest.approx([-10, -5]) and through.points[-1] == pytest.approx([10, -5])
    assert through.limit == 9.0  # that of the internal lane
    assert graph.lanes["west_1>north_0"].limit < 9.0  # that of a bend


def test_corners_are_rounded_and_ends_kept(tmp_path: Path) -> None:
    points = load(write(tmp_path)).lanes["north_0"].points
    assert points[0] == pytest.approx([1.6, 10]) and points[-1] == pytest.approx([11.6, 110])
    yaw = np.arctan2(*np.diff(points, axis=0).T[::-1])
    assert np.abs(np.diff(yaw)).max() < 0.12  # the corner is one of 0.2


def test_signals(tmp_path: Path) -> None:
    graph = load(write(tmp_path))
    west, south = (graph.signals[str(graph.lanes[name].signal)] for name in ("west_0", "south_0"))
    assert (west.cycle, west.start, west.green, west.yellow) == (60, 5, 30, 4)
    assert (south.cycle, south.start, south.green, south.yellow) == (60, 39, 20, 6)
    assert not west.overlaps(south)
    arena = build_arena([graph])
    assert len(arena.route_count) >= 3 and not arena.gives_way.any()


def test_priorities(tmp_path: Path) -> None:
    graph = load(write(tmp_path, lights=False))
    assert graph.lanes["west_0"].control == Control.NONE
    assert graph.lanes["south_0"].control == Control.YIELD
    assert load(write(tmp_path, lights=False, minor="s")).lanes["south_0"].control == Control.STOP
    names = list(graph.lanes)
    arena = build_arena([graph])
    waits = arena.gives_way.any(1).tolist()
    assert [name for name, waiting in zip(names, waits, strict=True) if waiting] == ["south_0>north_0"]


def test_a_green_may_go_on_over_the_end_of_the_cycle_and_over_phases() -> None:
    logic = ElementTree.fromstring(
        '<tlLogic id="x"><phase duration="10" state="g"/><phase duration="3" state="y"/>'
        '<phase duration="20" state="r"/>'
        '<phase duration="4" state="G"/><phase duration="2" state="y"/><phase duration="5" state="G"/></tlLogic>'
    )
    signal = signal_of(logic, [0], "x")
    assert (signal.cycle, signal.start, signal.green, signal.yellow) == (44, 39, 15, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"east0": LANE.format("east", 0, "10,-5", "")}, r"<lane id='east_0'>: shape is '10,-5'"),
        ({"east0": LANE.format("east", 0, "10,-5 nan,3", "")}, r"<lane id='east_0'>: shape"),
        ({"east0": LANE.format("east", 0, "10,a 3,3", "")}, r"<lane id='east_0'>: shape"),
        ({"east0": '<lane id="east_0" index="0" length="3" shape="10,-5 100,-5"/>'}, r'<lane id="east_0".*speed'),
        ({"north0": ""}, "names the lane 'north_0'"),
        ({"tl2": ' tl="D" linkIndex="2"'}, "lane 'south_0' obeys the traffic light 'D'"),
        ({"tl2": ' tl="C" linkIndex="7"'}, "has no link 7"),
        ({"tl1": ' tl="C" linkIndex="x"'}, "linkIndex is 'x'"),
        ({"walk": "<lane"}, "is not XML"),
    ],
)
def test_broken_files(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(MapError, match=message):
        load(write(tmp_path, **change))


def test_document_types_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    path.write_text('<!DOCTYPE net [<!ENTITY a "aaaa">]><net>&a;</net>')
    with pytest.raises(MapError, match="declares a document type"):
        load(path)
    path.write_bytes('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE net><net/>'.encode("utf-16"))
    with pytest.raises(MapError, match="declares a document type"):
        load(path)
    path.write_text("<OpenDRIVE/>")
    with pytest.raises(MapError, match="the root element is <OpenDRIVE>, not <net>"):
        load(path)
    path.write_text("<net/>")
    with pytest.raises(MapError, match="no <edge>"):
        load(path)


def test_large_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(MapError, match="68157440 bytes"):
        load(path)
