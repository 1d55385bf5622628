import math
from itertools import pairwise

import pytest
import torch

from palaestra.envs.driving.arena import Arena, Control
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.maps import suite
from palaestra.envs.driving.tables import NEVER, SIDE, SLOWING, OfLane, OfRoute, allowed_speed, tabulate


def test_allowed_speed_brakes_for_the_curve_ahead() -> None:
    limit, curvature = torch.full((1, 60), 12.0), torch.zeros(1, 60)
    curvature[0, 40:] = 0.125
    speed = allowed_speed(limit, curvature, torch.ones(1))
    curve = math.sqrt(SIDE / 0.125)
    assert float(speed[0, 40]) == pytest.approx(curve)
    for before in (1, 5, 10):
        assert float(speed[0, 40 - before]) == pytest.approx(math.sqrt(curve**2 + 2 * SLOWING * before))
    assert float(speed[0, 0]) == 12.0


def test_a_route_knows_its_next_line_crosswalk_and_lane(road: Arena) -> None:
    tables = tabulate(road)
    rows = tables.routes
    assert float(rows[50, OfRoute.LINE]) == pytest.approx(145.0, abs=0.3)  # the route begins at station 5
    assert rows[50, OfRoute.CONTROL] == Control.SIGNAL
    assert rows[50, OfRoute.AHEAD] == rows[200, OfRoute.LANE] == 1
    assert float(rows[200, OfRoute.LINE]) == NEVER
    assert float(rows[200, OfRoute.CROSSWALK_AT]) == pytest.approx(215.0, abs=0.3)
    assert float(rows[250, OfRoute.CROSSWALK_AT]) == NEVER


def test_every_pair_of_conflicting_lanes_finds_its_row() -> None:
    arena = build_arena(suite("junctions", "train", 3))
    tables = tabulate(arena)
    pairs = tables.pairs.view(arena.maps, tables.numbers, tables.numbers)
    found = 0
    for lane in range(len(arena.length)):
        for slot in range(arena.conflict.shape[1]):
            other = int(arena.conflict[lane, slot])
            if other < 0:
                continue
            row = int(pairs[arena.lane_map[lane], tables.number[lane], tables.number[other]])
            here, there = arena.conflict_here[lane, slot], arena.conflict_there[lane, slot]
            assert [float(zone[row]) for zone in tables.zones] == [*here.tolist(), *there.tolist()]
            back = int(pairs[arena.lane_map[lane], tables.number[other], tables.number[lane]])
            assert tables.order[row] == -tables.order[back]
            assert (tables.order[row] == 1) == bool(arena.gives_way[lane, slot])
            found += 1
    assert found == len(tables.order) - 1 >= 50


def test_lanes_that_part_know_where() -> None:
    arena = build_arena(suite("priority", "train", 1))
    tables = tabulate(arena)
    checked = 0
    for lanes in arena.successors.tolist():
        ways = [lane for lane in lanes if lane >= 0]
        for one, other in pairwise(ways):
            until = tables.lanes[[one, other], OfLane.PARTS]
            beyond = int(until.max()) + 1
            if beyond >= int(arena.count[[one, other]].min()):
                continue
            points = [arena.position[arena.first[lane] + beyond] for lane in (one, other)]
            assert torch.linalg.vector_norm(points[0] - points[1]) > 2.0
            checked += 1
    assert checked >= 3
