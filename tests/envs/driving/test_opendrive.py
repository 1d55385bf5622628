from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from palaestra.envs.driving.arena import Control
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.curves import curvatures
from palaestra.envs.driving.lanes import MapError, validate
from palaestra.envs.driving.opendrive import load
from palaestra.envs.driving.opendrive_geometry import sample


def geometry(shape: str, length: float, start: tuple[float, float, float] = (0.0, 0.0, 0.0), s: float = 0.0) -> str:
    x, y, yaw = start
    return f'<geometry s="{s}" x="{x}" y="{y}" hdg="{yaw}" length="{length}">{shape}</geometry>'


def sampled(shape: str, length: float, start: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[np.ndarray, ...]:
    return sample(ElementTree.fromstring(geometry(shape, length, start)), "here")


def test_an_arc_ends_where_its_circle_says() -> None:
    _, points, yaw = sampled('<arc curvature="-0.05"/>', 30.0, (3.0, 4.0, 0.0))
    assert points[-1] == pytest.approx([3 + 20 * np.sin(1.5), 4 - 20 * (1 - np.cos(1.5))], abs=1e-9)
    assert yaw[-1] == pytest.approx(-1.5) and np.diff(yaw) == pytest.approx(-0.005)


def test_a_line() -> None:
    along, points, yaw = sampled("<line/>", 10.0, (1.0, 0.0, np.pi / 6))
    assert points[-1] == pytest.approx([1 + 10 * np.cos(np.pi / 6), 5.0])
    assert along[-1] == 10.0 and yaw == pytest.approx(np.pi / 6)


def test_a_spiral_ends_where_the_integral_says() -> None:
    """x = ∫ cos θ, y = ∫ sin θ with θ = k0 s + (k1 - k0) s² / 2L, by a midpoint rule of a million steps."""
    first, last, length = 0.01, 0.12, 25.0
    _, points, yaw = sampled(f'<spiral curvStart="{first}" curvEnd="{last}"/>', length)
    s = (np.arange(10**6) + 0.5) * length / 10**6
    theta = first * s + (last - first) * s**2 / (2 * length)
    assert points[-1] == pytest.approx([np.cos(theta).mean() * length, np.sin(theta).mean() * length], abs=1e-4)
    assert yaw[-1] == pytest.approx((first + last) / 2 * length)


def test_parametric_cubics_in_both_ranges() -> None:
    normalised = '<paramPoly3 aU="0" bU="20" cU="0" dU="0" aV="0" bV="0" cV="6" dV="-4" pRange="normalized"/>'
    by_length = '<paramPoly3 aU="0" bU="1" cU="0" dU="0" aV="0" bV="0" cV="0.015" dV="-0.0005" pRange="arcLength"/>'
    for shape in (normalised, by_length):
        _, points, yaw = sampled(shape, 20.0, (0.0, 0.0, np.pi / 2))
        assert points[-1] == pytest.approx([-2.0, 20.0])  # u to the north, v to the west
        assert points[len(points) // 2] == pytest.approx([-1.0, 10.0])
        assert yaw[len(yaw) // 2] == pytest.approx(np.pi / 2 + np.arctan(3 / 20))
        assert yaw[-1] == pytest.approx(np.pi / 2)


def lanes(left: int, right: int, links: str = "", width: str = '<width sOffset="0" a="3.5" b="0" c="0" d="0"/>') -> str:
    def side(ordinals: range) -> str:
        return "".join(
            f'<lane id="{at}" type="driving"><link>{links.format(at)}</link>{width}</lane>' for at in ordinals
        )

    middle = '<center><lane id="0"/></center>'
    return f"<left>{side(range(left, 0, -1))}</left>{middle}<right>{side(range(-1, -right - 1, -1))}</right>"


BOTH = '<predecessor id="{0}"/><successor id="{0}"/>'


def road(identifier: int, plan: str, length: float, sections: str, rest: str = "", junction: int = -1) -> str:
    return (
        f'<road id="{identifier}" length="{length}" junction="{junction}">{rest}<planView>{plan}</planView>'
        f"<lanes>{sections}</lanes></road>"
    )


def section(content: str, s: float = 0.0) -> str:
    return f'<laneSection s="{s}">{content}</laneSection>'


def write(folder: Path, *parts: str) -> Path:
    path = folder / "map.xodr"
    path.write_text(f"<OpenDRIVE>{''.join(parts)}</OpenDRIVE>")
    return path


def bent(rest: str = "") -> str:
    """Return a road of a line and an arc of radius 40 m, in two sections, two lanes ahead and one back."""
    plan = geometry("<line/>", 100.0) + geometry('<arc curvature="0.025"/>', 60.0, (100.0, 0.0, 0.0), 100.0)
    sections = section(lanes(1, 2, '<successor id="{0}"/>')) + section(lanes(1, 2, '<predecessor id="{0}"/>'), 100.0)
    return road(7, plan, 160.0, sections, rest)


def test_lanes_of_a_road(tmp_path: Path) -> None:
    graph = load(write(tmp_path, bent('<type s="0" type="town"><speed max="36" unit="km/h"/></type>')))
    assert set(graph.lanes) == {f"7.{part}.{lane}" for part in (0, 1) for lane in (1, -1, -2)}
    inner, outer, back = (graph.lanes[f"7.1.{lane}"] for lane in (-1, -2, 1))
    assert np.linalg.norm(inner.points - [100, 40], axis=1) == pytest.approx(41.75, abs=2e-3)
    assert np.linalg.norm(outer.points - [100, 40], axis=1) == pytest.approx(45.25, abs=2e-3)
    assert curvatures(inner.points)[5:-5] == pytest.approx(1 / 41.75, rel=0.02)
    assert curvatures(back.points)[5:-5] == pytest.approx(-1 / 38.25, rel=0.02)
    assert graph.lanes["7.0.1"].points[-1] == pytest.approx([0, 1.75])  # against the road
    assert graph.lanes["7.0.-1"].successors == ["7.1.-1"] and back.successors == ["7.0.1"]
    assert graph.lanes["7.0.-1"].right == "7.0.-2" and graph.lanes["7.0.-2"].left == "7.0.-1"
    assert back.left is None and back.right is None
    assert {lane.limit for lane in graph.lanes.values()} == {10.0}
    build_arena([graph])


def test_widths_and_offsets(tmp_path: Path) -> None:
    taper = '<width sOffset="0" a="3" b="0" c="0" d="0"/><width sOffset="50" a="3" b="0.02" c="0" d="0"/>'
    sections = '<laneOffset s="0" a="1" b="0" c="0" d="0"/>' + section(lanes(0, 1, "", taper))
    graph = load(write(tmp_path, road(1, geometry("<line/>", 200.0), 200.0, sections)))
    lane = graph.lanes["1.0.-1"]
    assert lane.points[:101, 1] == pytest.approx(-0.5)  # offset by 1 m, then half of 3 m to the right
    assert np.asarray(lane.width)[-1] == pytest.approx(6.0) and lane.points[-1, 1] == pytest.approx(-2.0)
    arena = build_arena([graph])
    assert arena.half_width[0] == pytest.approx(1.5) and arena.half_width[-1] == pytest.approx(3.0)


def junction(signals: str = "", controller: str = "", contact: str = "start") -> list[str]:
    """Return roads from the west (1), to the east (2) and from the south (3) with two roads through a junction."""
    toward = '<link><successor elementType="junction" elementId="9"/></link>'
    away = '<link><predecessor elementType="junction" elementId="9"/></link>'

    def through(before: int, after: int) -> str:
        return (
            f'<link><predecessor elementType="road" elementId="{before}" contactPoint="end"/>'
            f'<successor elementType="road" elementId="{after}" contactPoint="start"/></link>'
        )

    north = (0.0, -100.0, np.pi / 2)
    pair = '<laneLink from="-1" to="-1"/></connection>'
    right = '<arc curvature="-0.05"/>'
    both = section(lanes(0, 1, BOTH))
    return [
        road(1, geometry("<line/>", 80.0, (-100.0, 0.0, 0.0)), 80.0, section(lanes(0, 1)), toward + signals.format(1)),
        road(2, geometry("<line/>", 80.0, (20.0, 0.0, 0.0)), 80.0, section(lanes(0, 1)), away),
        road(3, geometry("<line/>", 80.0, north), 80.0, section(lanes(0, 1)), toward + signals.format(3)),
        road(10, geometry("<line/>", 40.0, (-20.0, 0.0, 0.0)), 40.0, both, through(1, 2), 9),
        road(11, geometry(right, 10 * np.pi, (0.0, -20.0, np.pi / 2)), 10 * np.pi, both, through(3, 2), 9),
        '<junction id="9">'
        f'<connection id="0" incomingRoad="1" connectingRoad="10" contactPoint="{contact}">{pair}'
        f'<connection id="1" incomingRoad="3" connectingRoad="11" contactPoint="start">{pair}</junction>',
        controller,
    ]


SIGNAL = '<signals><signal id="s{0}" s="79" t="-4" dynamic="yes" orientation="+" type="1000001"/></signals>'
STOP = '<signals><signal id="s{0}" s="79" t="-4" dynamic="no" orientation="+" type="206"/></signals>'


def test_a_junction(tmp_path: Path) -> None:
    graph = load(write(tmp_path, *junction()))
    validate(graph)
    links = {name: lane.successors for name, lane in graph.lanes.items()}
    assert links == {
        "1.0.-1": ["10.0.-1"],
        "2.0.-1": [],
        "3.0.-1": ["11.0.-1"],
        "10.0.-1": ["2.0.-1"],
        "11.0.-1": ["2.0.-1"],
    }
    assert [name for name, lane in graph.lanes.items() if lane.junction] == ["10.0.-1", "11.0.-1"]
    arena = build_arena([graph])
    assert arena.gives_way.any(1).tolist() == [False, False, False, False, True]  # the turn waits


def test_signals_are_green_in_turn(tmp_path: Path) -> None:
    graph = load(write(tmp_path, *junction(SIGNAL)))
    assert graph.lanes["1.0.-1"].signal == "signal s1" and graph.lanes["3.0.-1"].signal == "signal s3"
    one, other = graph.signals["signal s1"], graph.signals["signal s3"]
    assert one.cycle == other.cycle == 33.0 and not one.overlaps(other)
    assert not build_arena([graph]).gives_way.any()


def test_signals_of_one_controller_are_one_group(tmp_path: Path) -> None:
    controller = '<controller id="c"><control signalId="s1"/><control signalId="s3"/></controller>'
    graph = load(write(tmp_path, *junction(SIGNAL, controller)))
    assert {lane.signal for lane in graph.lanes.values()} == {None, "controller c"}
    assert list(graph.signals) == ["controller c"]


def test_stop_signs(tmp_path: Path) -> None:
    graph = load(write(tmp_path, *junction(STOP)))
    assert graph.lanes["1.0.-1"].control == Control.STOP and not graph.signals


def test_short_sections_are_joined(tmp_path: Path) -> None:
    both = lanes(0, 1, BOTH)
    sections = section(both) + section(both, 99.0) + section(both, 100.0)
    graph = load(write(tmp_path, road(1, geometry("<line/>", 200.0), 200.0, sections)))
    assert set(graph.lanes) == {"1.0.-1", "1.2.-1"} or len(graph.lanes) == 2
    assert sum(np.ptp(lane.points[:, 0]) for lane in graph.lanes.values()) == pytest.approx(200.0)
    validate(graph)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([bent().replace('curvature="0.025"', 'curvature="x"')], r'<road id="7">: <geometry s="100.0">.*is .x.'),
        ([bent().replace('<arc curvature="0.025"/>', "<poly3/>")], r"<geometry s=\"100.0\"> has none of line, arc"),
        ([bent().replace('length="60.0"', 'length="0"')], "length is 0.0 m"),
        ([bent().replace(' hdg="0.0"', "")], "lacks the attribute 'hdg'"),
        ([bent().replace("<planView>", "<plan>").replace("</planView>", "</plan>")], "no <geometry>"),
        ([bent().replace("laneSection", "part")], "no <laneSection>"),
        ([bent().replace('<road id="7"', '<road id="7" rule="LHT"')], "traffic keeps to the left"),
        ([bent('<type s="0"><speed max="3" unit="knots"/></type>')], "unit='knots'"),
        ([bent().replace('type="driving"', 'type="sidewalk"')], "no <road> with a lane of type driving"),
        ([bent().replace('a="3.5"', 'a="nan"')], "a is 'nan'"),
        (junction(contact="middle"), r"<connection id=\"0\">: contactPoint is 'middle'"),
        (junction()[1:], "names the road '1', which the file does not have"),
    ],
)
def test_broken_files(tmp_path: Path, parts: list[str], message: str) -> None:
    with pytest.raises(MapError, match=message):
        load(write(tmp_path, *parts))


def test_document_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.xodr"
    path.write_text('<!DOCTYPE OpenDRIVE SYSTEM "file:///etc/hosts"><OpenDRIVE/>')
    with pytest.raises(MapError, match="declares a document type"):
        load(path)
