import dataclasses

import numpy as np
import pytest
import torch

from palaestra.envs.driving.arena import PIXELS_A_METRE, Arena, Command, Control, Ground
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.conflicts import turn_of
from palaestra.envs.driving.lanes import LaneGraph
from palaestra.envs.driving.maps import MAPS, suite


@pytest.fixture(scope="module")
def maps() -> list[LaneGraph]:
    return suite("mixed", "train", 2 * len(MAPS), seed=3)


@pytest.fixture(scope="module")
def arena(maps: list[LaneGraph]) -> Arena:
    return build_arena(maps)


def ends(arena: Arena) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of each lane's first and last point."""
    return arena.first, arena.first + arena.count - 1


def ground_at(arena: Arena, points: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Return the texture's bits at points [n, 2] of maps [n]."""
    cell = ((points - arena.texture_origin[maps]) * PIXELS_A_METRE).floor().long()
    shape = arena.texture_shape[maps]
    assert ((cell >= 0) & (cell < shape.flip(1))).all()
    return arena.texture[arena.texture_first[maps] + cell[:, 1] * shape[:, 1] + cell[:, 0]]


def on_route(arena: Arena) -> torch.Tensor:
    """Return [R, Q] bool: the points that are a route's, and not padding."""
    return torch.arange(arena.route_yaw.shape[1]) < arena.route_count[:, None]


def angle(difference: torch.Tensor) -> torch.Tensor:
    return torch.atan2(difference.sin(), difference.cos()).abs()


def test_consecutive_lanes_join(arena: Arena) -> None:
    first, last = ends(arena)
    lane, slot = (arena.successors >= 0).nonzero().T
    after = arena.successors[lane, slot]
    gap = (arena.position[first[after]] - arena.position[last[lane]]).norm(dim=1)
    assert len(lane) > 100 and gap.max() < 0.05
    assert angle(arena.yaw[first[after]] - arena.yaw[last[lane]]).max() < 0.1


def test_points_divide_a_lane_evenly_and_yaw_is_the_direction(arena: Arena) -> None:
    last = ends(arena)[1]
    step = torch.ones(len(arena.yaw) - 1, dtype=torch.bool)
    step[last[:-1]] = False
    moved = (arena.position[1:] - arena.position[:-1])[step]
    spacing = torch.repeat_interleave(arena.length / (arena.count - 1), arena.count)[:-1][step]
    assert (moved.norm(dim=1) / spacing - 1).abs().max() < 0.01
    between = torch.atan2(moved[:, 1], moved[:, 0])
    # halfway between two points the direction is the mean of theirs
    assert angle(between - arena.yaw[:-1][step]).max() < 0.15
    turned = arena.yaw[1:][step] - arena.yaw[:-1][step]
    mean = arena.yaw[:-1][step] + torch.atan2(turned.sin(), turned.cos()) / 2
    assert angle(between - mean).max() < 0.04  # where a straight line turns into a bend


def test_neighbours_are_mutual_and_beside_each_other(arena: Arena) -> None:
    first, last = ends(arena)
    lane = (arena.left >= 0).nonzero()[:, 0]
    beside = arena.left[lane]
    assert len(lane) > 20 and (arena.right[beside] == lane).all()
    assert ((arena.right >= 0).sum() == len(lane)).item()
    for point in (first, last):
        away = arena.position[point[beside]] - arena.position[point[lane]]
        yaw = arena.yaw[point[lane]]
        ahead = away[:, 0] * yaw.cos() + away[:, 1] * yaw.sin()
        left = away[:, 1] * yaw.cos() - away[:, 0] * yaw.sin()
        assert ahead.abs().max() < 0.1
        assert torch.allclose(left, arena.half_width[point[lane]] * 2, atol=0.05)


def test_every_lane_lies_on_the_road_and_no_border_does(arena: Arena) -> None:
    maps = torch.repeat_interleave(arena.lane_map, arena.count)
    bits = ground_at(arena, arena.position, maps)
    assert ((bits & Ground.ROAD) > 0).all()
    inside = torch.repeat_interleave(arena.junction, arena.count)
    inside[torch.cat(ends(arena))] = False  # the last pixel of one lane is the first one of the next
    assert ((bits[inside] & Ground.JUNCTION) > 0).all()
    for index in range(arena.maps):
        rows, columns = arena.texture_shape[index].tolist()
        start = int(arena.texture_first[index])
        picture = arena.texture[start : start + rows * columns].reshape(rows, columns)
        for border in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
            assert (border == 0).all()
        assert ((picture == 0) | ((picture & Ground.ROAD) > 0)).all()  # all paint is on the road
        assert 0.01 < ((picture & Ground.ROAD) > 0).float().mean() < 0.6
    assert len(arena.texture) == start + rows * columns


def test_marks_lie_between_lanes_and_not_in_their_middle(arena: Arena) -> None:
    maps = torch.repeat_interleave(arena.lane_map, arena.count)
    marks = Ground.SOLID | Ground.BROKEN
    assert ((ground_at(arena, arena.position, maps) & marks) == 0).all()
    outside = ~torch.repeat_interleave(arena.junction, arena.count)
    normal = torch.stack((-arena.yaw.sin(), arena.yaw.cos()), 1)
    left = arena.position + (arena.half_width[:, None] - 0.05) * normal
    beside = torch.repeat_interleave(arena.left >= 0, arena.count)
    free = ground_at(arena, left, maps)
    solid = ((free & Ground.SOLID) > 0).float()
    broken = ((free & Ground.BROKEN) > 0).float()
    assert solid[outside & ~beside].mean() > 0.9
    assert 0.3 < broken[outside & beside].mean() < 0.5  # 3 m of paint in 7.5 m
    assert solid[outside & beside].mean() < 0.02


def test_routes_step_exactly_one_metre_on_the_road(arena: Arena) -> None:
    valid = on_route(arena)
    step = (arena.route_position[:, 1:].double() - arena.route_position[:, :-1].double()).norm(dim=2)
    pairs = valid[:, 1:]
    assert (step[pairs] - 1).abs().max() < 1e-3
    assert (step[~pairs] == 0).all()
    maps = arena.route_map[:, None].expand_as(valid)[valid]
    assert ((ground_at(arena, arena.route_position[valid], maps) & Ground.ROAD) > 0).all()
    moved = (arena.route_position[:, 1:] - arena.route_position[:, :-1])[pairs]
    assert angle(torch.atan2(moved[:, 1], moved[:, 0]) - arena.route_yaw[:, :-1][pairs]).max() < 0.15
    assert (arena.route_curvature[valid].abs() < 0.25).all()  # a car's tightest turn is about 5 m


def test_a_route_is_within_half_a_lane_of_the_lane_and_station_it_names(arena: Arena) -> None:
    valid = on_route(arena)
    lane, station = arena.route_lane[valid], arena.route_station[valid]
    spacing = (arena.length / (arena.count - 1))[lane]
    point = arena.first[lane] + (station / spacing).round().long()
    assert (station >= 0).all() and (station <= arena.length[lane] + 1e-3).all()
    away = arena.position[point] - arena.route_position[valid]
    changing = (arena.route_command[valid] == Command.CHANGE_LEFT) | (
        arena.route_command[valid] == Command.CHANGE_RIGHT
    )
    assert away[~changing].norm(dim=1).max() < 0.8  # half a spacing and half a sample along the lane
    assert (away.norm(dim=1) < arena.half_width[point] + 0.9).all()
    assert (arena.lane_map[lane] == arena.route_map[:, None].expand_as(valid)[valid]).all()


def test_routes_end_well_inside_a_lane_and_start_outside_junctions(arena: Arena) -> None:
    rows = torch.arange(len(arena.route_count))
    first, last = arena.route_lane[:, 0], arena.route_lane[rows, arena.route_count - 1]
    station = arena.route_station[rows, arena.route_count - 1]
    assert not arena.junction[first].any() and not arena.junction[last].any()
    assert (station > 10).all() and (arena.length[last] - station > 5).all()


def test_routes_are_comfortable_at_the_limit(arena: Arena) -> None:
    valid = on_route(arena)
    sideways = (arena.route_curvature.abs() * arena.route_limit**2)[valid]
    assert sideways.max() < 5.0
    outside = ~arena.junction[arena.route_lane[valid]]
    assert (sideways[outside] < 3.6).float().mean() > 0.99


def test_commands_start_30_m_before_a_manoeuvre_and_end_with_it(arena: Arena) -> None:
    seen = set()
    for row in range(len(arena.route_count)):
        count = int(arena.route_count[row])
        lanes, commands = arena.route_lane[row, :count], arena.route_command[row, :count]
        inside = arena.junction[lanes]
        seen |= set(commands.tolist())
        edges = inside.int().diff().nonzero()[:, 0].tolist()
        for enter, leave in zip(edges[::2], edges[1::2], strict=True):
            yaw = arena.route_yaw[row]
            turn = turn_of(float(yaw[enter + 1]), float(yaw[leave]))
            wanted = {1: Command.LEFT, -1: Command.RIGHT, 0: Command.STRAIGHT}[turn]
            assert (commands[enter + 1 : leave] == wanted).all()
        moves = (commands == Command.LEFT) | (commands == Command.RIGHT) | (commands == Command.STRAIGHT)
        for at in moves.nonzero()[:, 0].tolist():
            assert inside[at : at + 33].any()
        for at in range(count - 1):
            one, other = int(lanes[at]), int(lanes[at + 1])
            if arena.left[one] == other:
                assert commands[at] == Command.CHANGE_LEFT
            elif arena.right[one] == other:
                assert commands[at] == Command.CHANGE_RIGHT
    assert seen == {int(command) for command in Command}


def test_conflicts_are_symmetric_and_exactly_one_waits(arena: Arena, maps: list[LaneGraph]) -> None:
    entries = {}
    for lane, slot in (arena.conflict >= 0).nonzero().tolist():
        entries[lane, int(arena.conflict[lane, slot])] = slot
    assert len(entries) > 200
    before: dict[int, list[int]] = {}
    for lane, slot in (arena.successors >= 0).nonzero().tolist():
        before.setdefault(int(arena.successors[lane, slot]), []).append(lane)
    first = 0.0
    for (lane, other), slot in entries.items():
        back = entries[other, lane]
        assert arena.junction[lane] and arena.lane_map[lane] == arena.lane_map[other]
        assert torch.equal(arena.conflict_here[lane, slot], arena.conflict_there[other, back])
        low, high = arena.conflict_here[lane, slot].tolist()
        assert 0 <= low < high <= float(arena.length[lane]) + 1e-4
        waiting = int(arena.gives_way[lane, slot]) + int(arena.gives_way[other, back])
        groups = [{int(arena.signal[one]) for one in before[each]} for each in (lane, other)]
        together = any(green_together(arena, a, b) for a in groups[0] for b in groups[1])
        assert waiting == int(together)
        first += waiting
    assert first > 50
    assert not arena.gives_way[arena.conflict < 0].any()


def green_together(arena: Arena, one: int, other: int) -> bool:
    """Return whether two groups are green or yellow at the same time, by trying every tenth of a second."""
    if one < 0 or other < 0:
        return True
    assert arena.cycle[one] == arena.cycle[other]
    clock = torch.arange(0, float(arena.cycle[one]), 0.1)
    open_ = [(clock - arena.start[g]) % arena.cycle[g] < arena.green[g] + arena.yellow[g] for g in (one, other)]
    return bool((open_[0] & open_[1]).any())


def test_crossing_lanes_of_a_junction_conflict(arena: Arena) -> None:
    """Two junction lanes whose centre lines cross conflict, unless they part from, or follow, each other."""
    pairs = 0
    for index in range(arena.maps):
        low, high = arena.lane_range[index].tolist()
        inside = [lane for lane in range(low, high) if arena.junction[lane]]
        for at, lane in enumerate(inside):
            for other in inside[at + 1 :]:
                one, two = (
                    arena.position[arena.first[each] : arena.first[each] + arena.count[each]] for each in (lane, other)
                )
                starts_apart = (one[0] - two[0]).norm() > 1
                follow = other in arena.successors[lane].tolist() or lane in arena.successors[other].tolist()
                if starts_apart and not follow and torch.cdist(one, two).min() < 1.0:
                    assert other in arena.conflict[lane].tolist()
                    pairs += 1
    assert pairs > 100


def test_a_straight_road_has_priority_over_the_side_road() -> None:
    for seed in range(4):
        arena = build_arena([MAPS["priority"](seed)])
        before = {int(after): lane for lane, row in enumerate(arena.successors.tolist()) for after in row if after >= 0}
        checked = 0
        for lane, slot in (arena.conflict >= 0).nonzero().tolist():
            mine, theirs = (int(arena.control[before[each]]) for each in (lane, int(arena.conflict[lane, slot])))
            if mine != theirs:
                checked += 1
                assert bool(arena.gives_way[lane, slot]) == (mine in (Control.STOP, Control.YIELD))
        assert checked > 2


def test_who_enters_a_roundabout_waits() -> None:
    graph = MAPS["roundabout"](0)
    arena = build_arena([graph])
    names = list(graph.lanes)
    entries = [index for index, name in enumerate(names) if ":enter" in name]
    assert len(entries) >= 3
    for lane in entries:
        against = [names[other] for other in arena.conflict[lane].tolist() if other >= 0]
        assert any(":ring" in other for other in against)
        assert arena.gives_way[lane][arena.conflict[lane] >= 0].all()


def test_crossings_lie_on_their_crosswalk(arena: Arena) -> None:
    lanes = (arena.crossing >= 0).nonzero()
    assert len(lanes) > 40
    for lane, slot in lanes.tolist():
        walk = arena.crosswalk[arena.crossing[lane, slot]]
        share = arena.crossing_at[lane, slot] / arena.length[lane]
        point = arena.first[lane] + (share * (arena.count[lane] - 1)).round().long()
        axis = (walk[1] - walk[0]) / (walk[1] - walk[0]).norm()
        away = arena.position[point] - walk[0]
        assert abs(float(away[0] * axis[1] - away[1] * axis[0])) < 0.8
        assert arena.crosswalk_map[arena.crossing[lane, slot]] == arena.lane_map[lane]
    used = set(arena.crossing[arena.crossing >= 0].tolist())
    assert used == set(range(len(arena.crosswalk)))  # every crosswalk is crossed by a lane


def test_crosswalk_ends_are_off_the_road(arena: Arena) -> None:
    for end in (0, 1):
        bits = ground_at(arena, arena.crosswalk[:, end], arena.crosswalk_map)
        assert ((bits & Ground.ROAD) == 0).float().mean() > 0.95


def test_spawns_are_outside_junctions_and_10_m_apart(arena: Arena) -> None:
    assert not arena.junction[arena.spawn_lane].any()
    same = arena.spawn_lane[1:] == arena.spawn_lane[:-1]
    assert (arena.spawn_station.diff()[same] >= 10 - 1e-4).all()
    assert (arena.spawn_station < arena.length[arena.spawn_lane]).all()


def test_ranges_cover_everything_in_order(arena: Arena) -> None:
    for name, maps in (
        ("lane", arena.lane_map),
        ("route", arena.route_map),
        ("crosswalk", arena.crosswalk_map),
        ("spawn", arena.lane_map[arena.spawn_lane]),
    ):
        spans = getattr(arena, f"{name}_range")
        assert spans[0, 0] == 0 and spans[-1, 1] == len(maps)
        assert (spans[1:, 0] == spans[:-1, 1]).all()
        assert torch.equal(maps, torch.repeat_interleave(torch.arange(arena.maps), spans[:, 1] - spans[:, 0]))


def test_a_map_is_the_same_alone_and_among_others(arena: Arena, maps: list[LaneGraph]) -> None:
    index = 2
    alone = build_arena([maps[index]])
    low, high = arena.lane_range[index].tolist()
    point = slice(int(arena.first[low]), int(arena.first[high - 1] + arena.count[high - 1]))
    assert torch.equal(arena.position[point], alone.position)
    assert torch.equal(arena.conflict_here[low:high, : alone.conflict.shape[1]], alone.conflict_here)
    shifted = torch.where(alone.successors >= 0, alone.successors + low, -1)
    assert torch.equal(arena.successors[low:high], shifted)
    start, size = int(arena.texture_first[index]), len(alone.texture)
    assert torch.equal(arena.texture[start : start + size], alone.texture)
    begin, end = arena.route_range[index].tolist()
    assert torch.equal(arena.route_position[begin:end, : alone.route_yaw.shape[1]], alone.route_position)
    assert torch.equal(arena.route_lane[begin:end, 0], alone.route_lane[:, 0] + low)


def test_dtypes_and_moving(arena: Arena) -> None:
    for entry in dataclasses.fields(arena):
        value = getattr(arena, entry.name)
        assert value.dtype in (torch.float32, torch.int64, torch.bool, torch.uint8), entry.name
        if value.is_floating_point():
            assert torch.isfinite(value).all(), entry.name
    assert torch.equal(arena.to("cpu").yaw, arena.yaw)


def test_no_maps() -> None:
    with pytest.raises(ValueError, match="at least one map"):
        build_arena([])


def test_wrapped_angles(arena: Arena) -> None:
    for yaw in (arena.yaw, arena.route_yaw):
        assert (yaw >= -np.pi - 1e-5).all() and (yaw <= np.pi + 1e-5).all()
