from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from palaestra.envs.driving.arena import Arena, Control, Ground
from palaestra.envs.driving.atlas import ROUTE_WIDTH, STOP_DEPTH, Place, paint_route
from palaestra.envs.driving.bev import AGO, BEHIND, EGO, FIELD, LIGHTS, VEHICLES, WALKERS, Scene, ego_box, pack, unpack
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.lanes import LaneGraph
from palaestra.envs.driving.maps import suite
from palaestra.envs.driving.painter import Painter
from palaestra.envs.driving.state import Light, lights
from palaestra.envs.driving.tables import tabulate
from palaestra.envs.driving.views import View
from palaestra.envs.driving.world import DrivingEnv
from palaestra.envs.registry import make

COLOUR = {Light.GREEN: 80, Light.YELLOW: 170, Light.RED: 255}


@cache
def arena_of(family: str) -> Arena:
    return build_arena(suite(family, count=1))


def driven(steps: int = 16, maps: str = "signalised", **options: Any) -> tuple[DrivingEnv, dict[str, torch.Tensor]]:
    """Worlds after some steps of the expert, and what they show."""
    world = DrivingEnv(**{"count": 3, "maps": arena_of(maps), "view": "bev", **options})
    observation, _ = world.reset(seed=3)
    for _ in range(steps):
        observation, *_ = world.step(expert_action(world))
    assert isinstance(observation, dict)
    return world, observation


def middles(pixels: int, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the middles of a view's pixels are in the world: x and y [N, N]."""
    metres = FIELD / pixels
    row, column = np.mgrid[:pixels, :pixels] + 0.5
    ahead, left = FIELD - BEHIND - row * metres, FIELD / 2 - column * metres
    x, y, cos, sin = ego.astype(np.float64)
    return x + ahead * cos - left * sin, y + ahead * sin + left * cos


def in_box(x: np.ndarray, y: np.ndarray, box: np.ndarray, half: tuple[float, float]) -> np.ndarray:
    along = (x - box[0]) * box[2] + (y - box[1]) * box[3]
    across = (y - box[1]) * box[2] - (x - box[0]) * box[3]
    return (np.abs(along) <= half[0]) & (np.abs(across) <= half[1])


def brute_force(world: DrivingEnv, scene: Scene, row: int, pixels: int) -> np.ndarray:
    """One world's view without its marks, from the definition, in double precision: [N, N, 15]."""
    arena, now = world.arena, len(AGO) - 1
    ego = scene.vehicles[row, now, 0].numpy()
    x, y = middles(pixels, ego)
    view = np.zeros((pixels, pixels, 15), np.uint8)
    place = int(scene.map[row])
    rows, columns = arena.texture_shape[place].tolist()
    begin, origin = int(arena.texture_first[place]), arena.texture_origin[place].numpy()
    ground = arena.texture[begin : begin + rows * columns].view(rows, columns).numpy()
    j, i = np.floor((x - origin[0]) * 4).astype(int), np.floor((y - origin[1]) * 4).astype(int)
    known = (j >= 0) & (j < columns) & (i >= 0) & (i < rows)
    view[..., 0][known] = 255 * ((ground[i[known], j[known]] & Ground.ROAD) > 0)
    route = int(scene.route[row])
    points = arena.route_position[route, : int(arena.route_count[route])].numpy().astype(np.float64)
    for begins, ends in pairwise(points):
        way = ends - begins
        share = np.clip(((x - begins[0]) * way[0] + (y - begins[1]) * way[1]) / (way @ way), 0, 1)
        away = np.hypot(x - begins[0] - share * way[0], y - begins[1] - share * way[1])
        view[..., 1][away <= ROUTE_WIDTH / 2] = 255
    view[..., :2][in_box(x, y, ego, (2.25, 0.95))] = EGO
    for moment in range(len(AGO)):
        cars, sizes = scene.vehicles[row, moment, 1:].numpy(), scene.sizes[row, 1:].tolist()
        for car, (length, width) in zip(cars, sizes, strict=True):
            view[..., VEHICLES + moment][in_box(x, y, car, (length / 2, width / 2))] = 255
        for walker in scene.walkers[row, moment].numpy():
            view[..., WALKERS + moment][in_box(x, y, np.concatenate((walker, ego[2:])), (0.8, 0.8))] = 255
        for lane in (arena.lane_map == place).nonzero().flatten().tolist():
            if int(arena.control[lane]) not in (Control.SIGNAL, Control.STOP):
                continue
            last = int(arena.first[lane] + arena.count[lane]) - 1
            yaw = float(arena.yaw[last])
            middle = arena.position[last].numpy() - STOP_DEPTH / 2 * np.array([np.cos(yaw), np.sin(yaw)])
            box = np.array([*middle, np.cos(yaw), np.sin(yaw)])
            light, _ = lights(world.tables.signals, arena.signal[lane], scene.seconds[row, moment])
            inside = in_box(x, y, box, (STOP_DEPTH / 2, float(arena.half_width[last])))
            view[..., LIGHTS + moment][inside] = COLOUR[Light(int(light))] if arena.signal[lane] >= 0 else 255
    return view


@pytest.mark.parametrize(("pixels", "maps"), [(64, "signalised"), (192, "priority"), (32, "roundabout"), (96, "town")])
def test_views_are_what_a_test_of_every_pixel_shows(pixels: int, maps: str) -> None:
    world, shown = driven(pixels=pixels, maps=maps)
    scene = Scene.of(world.state)
    for row in range(2):
        view, expected = shown["bev"][row].numpy(), brute_force(world, scene, row, pixels)
        for channel in [0, 1, *range(3, 15)]:
            one, other = view[..., channel], expected[..., channel]
            if channel > 2:  # boxes are exact, but for middles that lie on their edges
                assert (one != other).mean() < 2e-4, channel
            else:  # as coarse as the grain of the atlas
                both, either = ((one > 0) & (other > 0)).sum(), ((one > 0) | (other > 0)).sum()
                assert both / max(either, 1) > 0.85, channel
        assert (ground(world, scene, row, pixels) != view[..., :3]).mean() < 1e-3


def ground(world: DrivingEnv, scene: Scene, row: int, pixels: int) -> np.ndarray:
    """The first three channels as the atlas has them, place by place, in double precision: [N, N, 3]."""
    assert world.painter is not None
    atlas, place, route = world.painter.atlas, int(scene.map[row]), int(scene.route[row])
    x, y = middles(pixels, scene.vehicles[row, -1, 0].numpy())
    origin = atlas.origin[place].numpy().astype(np.float64)
    column, line = (np.floor((axis - low) * atlas.density) for axis, low in zip((x, y), origin, strict=True))
    index = int(atlas.first[route]) + (line * int(atlas.stride[place]) + column).astype(int)
    found = atlas.places[torch.from_numpy(index)].numpy()
    view = np.zeros((pixels, pixels, 3), np.uint8)
    view[..., 0] = 255 * (found & Place.ROAD > 0)
    view[..., 1] = 255 * (found & int(atlas.bit[route]) > 0)
    view[..., 2] = np.where(found & Place.SOLID > 0, 255, np.where(found & Place.BROKEN > 0, 120, 0))
    view[:, :, :2][ego_box(pixels)] = EGO
    return view


def test_a_route_is_painted_where_it_is_near() -> None:
    field = torch.zeros(60, 70, dtype=torch.uint8)
    points = torch.tensor([[12.0, 20.0], [30.0, 20.0], [41.5, 33.25]])
    paint_route(field, points, 6.4, 8)
    row, column = np.mgrid[:60, :70] + 0.5
    away = np.full(field.shape, np.inf)
    for begin, end in zip(points[:-1].double().numpy(), points[1:].double().numpy(), strict=True):
        way = end - begin
        share = np.clip(((column - begin[0]) * way[0] + (row - begin[1]) * way[1]) / (way @ way), 0, 1)
        away = np.minimum(away, np.hypot(column - begin[0] - share * way[0], row - begin[1] - share * way[1]))
    assert (field.numpy() == 8 * (away <= 6.4)).all()


@pytest.mark.parametrize("pixels", [32, 64, 96, 192])
def test_packed_views_come_back_exactly(pixels: int) -> None:
    _, shown = driven(2, pixels=pixels, count=16)
    packed = pack(shown["bev"])
    assert packed.shape == (16, 20, pixels, pixels // 8)
    assert torch.equal(unpack(packed), shown["bev"])
    assert shown["bev"][..., VEHICLES:].any()
    for row in (0, 7):
        copy = shown["bev"][row : row + 1].contiguous()  # memory in another order
        assert torch.equal(pack(copy), packed[row : row + 1])


def test_every_value_survives_packing() -> None:
    views = torch.zeros(1, 32, 32, 15, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for channel in range(15):
        values = [0, 80, 170, 255] if channel >= LIGHTS else [0, 120, 255] if channel == 2 else [0, 255]
        chosen = torch.randint(len(values), (32, 32), generator=generator)
        views[0, :, :, channel] = torch.tensor(values, dtype=torch.uint8)[chosen]
    views[:, :, :, :2][:, ego_box(32)[0], ego_box(32)[1]] = EGO
    assert torch.equal(unpack(pack(views)), views)


def test_the_ego_is_always_in_the_same_box() -> None:
    rows, columns = ego_box(192)
    assert ((rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2) == (152.0, 96.0)  # 40 from the edge
    assert rows.stop - rows.start in (22, 23)
    assert columns.stop - columns.start in (9, 10)


def test_views_look_alike_wherever_the_world_lies_and_however_it_is_turned(
    road: Arena, graph: LaneGraph
) -> None:
    world = DrivingEnv(count=4, maps=road, vehicles=12, walkers=4, view="scene", pixels=96)
    shown, _ = world.reset(seed=0)
    assert isinstance(shown, dict)
    assert world.painter is not None
    scene = Scene.parse(shown["scene"], 13, 4)
    view = world.painter.paint(scene)
    angle = 0.7
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shift = np.array([400.0, -150.0])
    for lane in graph.lanes.values():
        lane.points = lane.points @ turn + shift
    graph.crosswalks = [np.asarray(ends) @ turn + shift for ends in graph.crosswalks]
    arena = build_arena([graph])
    rotation, away = torch.tensor(turn).float(), torch.tensor(shift).float()
    cars = scene.vehicles.clone()
    cars[..., :2] = scene.vehicles[..., :2] @ rotation + away
    cars[..., 2:] = scene.vehicles[..., 2:] @ rotation
    other = replace(scene, vehicles=cars, walkers=scene.walkers @ rotation + away)
    again = Painter(arena, tabulate(arena).signals, 96).paint(other)
    assert (again[..., 3:] != view[..., 3:]).float().mean() < 1e-4
    assert (again[..., :2] != view[..., :2]).float().mean() < 0.02  # the ground's places lie otherwise
    assert view[..., 3:7].any()


def test_a_scene_is_enough_to_paint_the_view() -> None:
    one, shown = driven(view="bev", count=5)
    other, rows = driven(view="scene", count=5)
    assert other.painter is not None
    scene = Scene.parse(rows["scene"], 16, 6)
    assert rows["scene"].shape == (5, Scene.width(16, 6))
    assert torch.equal(other.painter.paint(scene), shown["bev"])
    assert torch.equal(rows["state"], shown["state"])
    assert torch.equal(other.painter.paint(scene[1:3]), shown["bev"][1:3])
    with pytest.raises(ValueError, match="15 vehicles"):
        Scene.parse(rows["scene"], 15, 6)
    assert one.single_observation_space["bev"].shape == (64, 64, 15)  # type: ignore[index]


def test_the_past_is_drawn_where_it_was_in_todays_frame(free_road: Arena) -> None:
    world = DrivingEnv(count=1, maps=free_road, vehicles=1, walkers=0, view="bev", endings="evaluation")
    world.reset(seed=0)
    cars = world.state.vehicles
    cars.lane[:, 1], cars.station[:, 1], cars.speed[:, 1] = 0, 15.0, 8.0
    for _ in range(16):
        cars.speed[:, 1], cars.leader_gap[:, 1] = 8.0, torch.inf
        shown, *_ = world.step(torch.tensor([[-1.0, 0.0]]))
    assert isinstance(shown, dict)
    front = [int(shown["bev"][0, :, 32, VEHICLES + moment].nonzero().min()) for moment in range(4)]
    metres = np.diff(front) * -FIELD / 64
    assert np.allclose(metres, 4.0, atol=0.7)
    assert (shown["bev"][0, :, 32, WALKERS:LIGHTS] == 0).all()


def test_an_episodes_past_begins_with_it() -> None:
    _, shown = driven(steps=0)
    for first in (VEHICLES, WALKERS, LIGHTS):
        for moment in range(3):
            assert torch.equal(shown["bev"][..., first + moment], shown["bev"][..., first + 3])


def test_lights_change_their_colour_and_keep_their_past(road: Arena) -> None:
    world = DrivingEnv(count=3, maps=road, vehicles=0, walkers=0, view="bev", endings="evaluation")
    world.reset(seed=0)
    world.state.clocks.tick[:] = 100
    world.state.clocks.shift[:] = torch.tensor([5.8, 7.2, 10.6])  # green to 17 s, yellow to 20 s
    world.state.vehicles.x[:, 0] = 140.0
    shown, *_ = world.step(torch.tensor([[-1.0, 0.0]] * 3))
    assert isinstance(shown, dict)
    seen = shown["bev"][..., LIGHTS:].amax((1, 2))
    assert seen.tolist() == [[80, 80, 80, 80], [80, 80, 80, 170], [170, 170, 255, 255]]


def test_a_world_looks_the_same_alone_and_among_others() -> None:
    alone = DrivingEnv(count=1, maps=arena_of("signalised"), view="bev")
    crowd = DrivingEnv(count=64, maps=arena_of("signalised"), view="bev")
    seen, _ = crowd.reset(seed=list(range(64)))
    mine, _ = alone.reset(seed=[41])
    for _ in range(10):
        assert isinstance(seen, dict)
        assert isinstance(mine, dict)
        assert torch.equal(seen["bev"][41], mine["bev"][0])
        action = expert_action(crowd)
        seen, *_ = crowd.step(action)
        mine, *_ = alone.step(action[41:42])


def test_views_are_the_same_in_every_block() -> None:
    world, shown = driven(maps="town", count=7)
    assert world.painter is not None
    rows = torch.arange(600) % 7  # more than are painted, and far more than are looked up, at a time
    views = world.painter.paint(Scene.of(world.state)[rows])
    assert torch.equal(views, shown["bev"][rows])


def test_the_last_view_stays_while_the_next_one_is_painted() -> None:
    world, shown = driven()
    kept = shown["bev"].clone()
    following, *_ = world.step(torch.zeros(3, 2))
    assert isinstance(following, dict)
    assert torch.equal(shown["bev"], kept)
    assert not torch.equal(following["bev"], kept)
    world.reset(options={"reset_mask": torch.tensor([False, True, False])})
    assert torch.equal(shown["bev"], kept)


@pytest.mark.parametrize("view", ["state", "bev", "scene"])
def test_a_reset_of_some_worlds_shows_the_others_as_they_were(view: View) -> None:
    world = DrivingEnv(count=4, maps=arena_of("roundabout"), view=view, pixels=32)
    world.reset(seed=0)
    for _ in range(3):
        world.step(torch.full((4, 2), 0.4))
    shown, _ = world.reset(seed=[7, 8, 9, 10], options={"reset_mask": torch.tensor([False, True, False, True])})
    now, _ = world.reset(options={"reset_mask": torch.zeros(4, dtype=torch.bool)}), None
    fresh = DrivingEnv(count=4, maps=arena_of("roundabout"), view=view, pixels=32)
    begun, _ = fresh.reset(seed=[7, 8, 9, 10])
    shown, now, begun, again = (
        {"state": part} if isinstance(part, torch.Tensor) else part for part in (shown, now[0], begun, world.observe())
    )
    for name, part in shown.items():
        assert torch.equal(part[[1, 3]], begun[name][[1, 3]])
        assert torch.equal(part, again[name])
        assert torch.equal(part, now[name])
        assert not torch.equal(part[0], begun[name][0])


def test_stop_lines_that_overlap_show_the_warmest(road: Arena) -> None:
    world = DrivingEnv(count=1, maps=road, vehicles=0, walkers=0, view="bev", pixels=32)
    world.reset(seed=0)
    assert world.painter is not None
    atlas = world.painter.atlas
    line = atlas.lines[0, :1].clone()
    sign = line.clone()
    sign[:, 5] = -1
    world.state.vehicles.x[:, 0], world.state.past.vehicles[:, :, 0, 0] = 140.0, 140.0
    scene = replace(Scene.of(world.state), seconds=torch.full((1, 4), 18.0))  # yellow
    for lines, colour in ((line, 170), (line.repeat(7, 1), 170), (torch.cat((line, sign, line)), 255)):
        atlas.lines.resize_(1, len(lines), 6).copy_(lines)
        assert set(world.painter.paint(scene)[..., LIGHTS:].unique().tolist()) == {0, colour}


def test_worlds_show_views_through_the_contract() -> None:
    worlds = make("driving/roundabout-v0", count=3, view="bev", pixels=32, map_count=1)
    assert worlds.spec.images == {"bev": (32, 32, 15)}
    assert worlds.spec.state == 88
    step = worlds.reset(seed=1)
    worlds.send(step.rows, torch.zeros(3, 1, 2))
    following = worlds.recv()
    assert following.observation.images["bev"].shape == (3, 32, 32, 15)
    assert not torch.equal(following.observation.images["bev"], step.observation.images["bev"])
    worlds.close()
    scenes = make("driving/roundabout-v0", count=2, view="scene", map_count=1)
    assert scenes.spec.state == Scene.width(16, 6) + 88
    scenes.close()


def test_bad_views_are_refused() -> None:
    with pytest.raises(ValueError, match="32, 64, 96, 192"):
        DrivingEnv(maps=arena_of("roundabout"), view="bev", pixels=65)
    with pytest.raises(ValueError, match="'scene'"):
        DrivingEnv(maps=arena_of("roundabout"), view="picture")  # type: ignore[arg-type]
