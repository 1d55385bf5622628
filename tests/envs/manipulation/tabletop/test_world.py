"""Tables: episodes of their seeds, tasks that experts solve and chance does not, splits that hold out what they say."""

from itertools import islice

import pytest
import torch

from palaestra.envs.check import check
from palaestra.envs.core import Observation
from palaestra.envs.manipulation.tabletop.catalogue import OBJECTS, RECEPTACLES, SPLITS, TASKS, WORDINGS, Task
from palaestra.envs.manipulation.tabletop.pointing import pointing
from palaestra.envs.manipulation.tabletop.world import STEPS, TabletopEnv, demonstrate
from palaestra.envs.registry import make, names


def play(world: TabletopEnv, kind: str, seed: int = 0) -> torch.Tensor:
    """Return which worlds succeed within their time, [B] bool."""
    world.reset(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    done = torch.zeros(world.num_envs, dtype=torch.bool)
    for _ in range(world.max_episode_steps):
        actions = {
            "expert": world.expert,
            "null": lambda: torch.zeros(world.num_envs, 4),
            "random": lambda: torch.rand(world.num_envs, 4, generator=generator) * 2 - 1,
        }[kind]()
        done |= world.step(actions)[2]
    return done


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_solves_what_chance_does_not(task: Task) -> None:
    """On 64 tables: at least 95 %, and doing nothing or anything at all next to nothing."""
    world = TabletopEnv(64, task=task, pixels=32)
    assert play(world, "expert").float().mean() >= 0.95
    assert not play(world, "null").any()
    assert play(world, "random").float().mean() <= 0.05


@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_solves_every_split(split: str) -> None:
    """What is held out is no harder for one who sees the state."""
    assert play(TabletopEnv(32, split=split, pixels=32), "expert").float().mean() >= 0.95  # type: ignore[arg-type]


def test_a_world_does_not_depend_on_its_neighbours() -> None:
    """World 5 alone shows and earns what it does among 64, bit for bit, pictures included."""
    many, one = TabletopEnv(64, pixels=32), TabletopEnv(1, pixels=32)
    shown = many.reset(seed=list(range(64)))[0], one.reset(seed=[5])[0]
    for turn in range(6):
        assert shown[0]["text"][5] == shown[1]["text"][0]
        for name in ("overhead", "side", "state"):
            assert torch.equal(shown[0][name][5], shown[1][name][0]), (turn, name)
        action = many.expert()
        (left, reward, *_), (right, alone, *_) = many.step(action), one.step(action[5:6])
        assert torch.equal(reward[5], alone[0])
        shown = left, right


def test_rewards_add_up_to_the_way_made() -> None:
    """Return = first way - last way + success, with whatever actions."""
    world = TabletopEnv(32, pixels=32)
    world.reset(seed=1)
    first, total, success = world.table.way(), torch.zeros(32), torch.zeros(32)
    for _ in range(9):
        _, reward, ended, _, _ = world.step(world.expert())
        total, success = total + reward, success + ended
    torch.testing.assert_close(total, first - world.table.way() + success, atol=1e-4, rtol=0)


def test_a_reset_touches_the_worlds_of_its_mask_alone() -> None:
    """The others keep their state, their pictures and their words; the masked ones start as their seed says."""
    world, fresh = TabletopEnv(4, pixels=32), TabletopEnv(4, pixels=32)
    world.reset(seed=[0, 1, 2, 3])
    before = {name: value.clone() for name, value in world.step(world.expert())[0].items() if name != "text"}
    after = world.reset(seed=[9, 9, 9, 9], options={"reset_mask": torch.tensor([False, True, False, False])})[0]
    start = fresh.reset(seed=[9, 9, 9, 9])[0]
    for name, value in before.items():
        assert torch.equal(after[name][[0, 2, 3]], value[[0, 2, 3]]), name
        assert torch.equal(after[name][1], start[name][1]), name
    assert after["text"][1] == start["text"][1]


def test_splits_hold_out_what_they_say() -> None:
    """No wanted kind, scene, wording or pose of a held-out split is drawn in training, and only its own is new."""
    tables = {split: TabletopEnv(512, split=split, pixels=32).table for split in SPLITS}
    train = tables["train"]
    assert train.kinds.max() == 11 and train.receptacle_kinds.max() == 12 and train.scene.max() == 11
    assert train.wording.max() == len(WORDINGS["pick-place"]) - 3
    assert tables["object"].kinds[:, 0].min() == 12 and tables["object"].kinds[:, 1:].max() == 11
    assert tables["receptacle"].receptacle_kinds[:, 0].min() == 13
    assert tables["wording"].wording.min() == len(WORDINGS["pick-place"]) - 2
    assert tables["texture"].scene.min() == 12 and tables["texture"].light.max() < train.light.min()
    reach = torch.linalg.vector_norm(train.tool[:, :2], dim=1).max()
    assert torch.linalg.vector_norm(tables["start"].tool[:, :2], dim=1).min() > reach
    assert torch.equal(tables["wording"].objects, train.objects)
    assert len({kind.name for kind in OBJECTS}) == 17 and len({kind.name for kind in RECEPTACLES}) == 17


def test_things_start_apart_and_out_of_place() -> None:
    """No two things touch at the start, and no wanted object is on its goal."""
    table = TabletopEnv(512, objects=6, receptacles=4, pixels=32).table
    places = torch.cat([table.objects[:, :, :2], table.receptacles], 1)
    apart = torch.cdist(places, places) + 9 * torch.eye(10)
    assert apart.min() > 0.31
    assert not table.placed()[:, 0].any() and table.placed()[:, 1:].all()


def test_instructions_name_the_wanted_things() -> None:
    """The words name the object and the receptacle that the state wants."""
    world = TabletopEnv(64, pixels=32)
    text = world.reset(seed=0)[0]["text"]
    for row, line in enumerate(text):
        assert OBJECTS[int(world.table.kinds[row, 0])].name in line
        assert RECEPTACLES[int(world.table.receptacle_kinds[row, 0])].name in line
        assert line in world.single_observation_space["text"]
    drawers = TabletopEnv(64, task="drawer", pixels=32).reset(seed=0)[0]["text"]
    assert {"open" in line for line in drawers} == {True, False} and all("{" not in line for line in drawers)


def test_what_is_held_moves_with_the_tool_and_falls() -> None:
    """A shut gripper over nothing holds nothing; a held object is where the tool is; let go of, it lies."""
    world = TabletopEnv(64, pixels=32)
    world.reset(seed=0)
    for _ in range(12):
        world.step(world.expert())
        held = world.table.held == 0
        assert torch.equal(world.table.objects[held, 0], world.table.tool[held])
    assert held.any()
    world.step(torch.tensor([0.0, 0, 0, -1]).expand(64, 4))
    assert (world.table.held == -1).all() and (world.table.objects[..., 2] == 0).all()


def test_demonstrations_replay() -> None:
    """Demonstrations hold pictures, words and successes, with noise too, and play again as recorded."""
    episodes = demonstrate(6, seed=3, noise=0.2, pixels=32)
    assert len(episodes) == 6 and all(episode.success and episode.text for episode in episodes)
    episode = episodes[2]
    world = TabletopEnv(1, pixels=32)
    shown = world.reset(seed=[episode.seed])[0]
    for turn in range(len(episode)):
        assert torch.equal(shown["overhead"][0], episode.images["overhead"][turn])
        shown, _, ended, _, _ = world.step(episode.action[turn : turn + 1])
    assert ended.all() and torch.equal(shown["side"][0], episode.images["side"][-1])


def test_the_contract_is_kept() -> None:
    """`palaestra check` finds no fault, and all four worlds have names."""
    report = check("tabletop/pick-place-v0", pixels=32)
    assert all(finding.verdict == "pass" for finding in report.findings), report
    assert {f"tabletop/{task}-v0" for task in TASKS} <= set(names())
    worlds = make("tabletop/drawer-v0", 2, pixels=32)
    assert worlds.spec.max_steps == STEPS["drawer"] and worlds.spec.text and worlds.spec.state == 5
    worlds.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "pickplace"}, "task is 'pickplace'.*Did you mean 'pick-place'"),
        ({"split": "objects"}, "split is 'objects'.*Did you mean 'object'"),
        ({"task": "sort", "objects": 1}, "objects is 1.*from 2 to 6"),
        ({"kinds": 2}, "kinds is 2, but 3 objects"),
        ({"pixels": 500}, "pixels is 500"),
    ],
)
def test_bad_options_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabletopEnv(2, **options)  # type: ignore[arg-type]


def test_people_see_more_than_policies_and_the_same() -> None:
    """A film's pictures are 192 wide a camera however small the policy's are; at that size they are its own."""
    small = TabletopEnv(2, pixels=32, render_mode="rgb_array")
    large = TabletopEnv(2, pixels=192)
    small.reset(seed=4)
    shown, _ = large.reset(seed=4)
    for picture, overhead, side in zip(small.render(), shown["overhead"], shown["side"], strict=True):
        assert picture.shape == (192, 384, 3)
        assert (picture[:, :192] == overhead.numpy()).all() and (picture[:, 192:] == side.numpy()).all()


def test_lessons_in_pointing_say_where_the_named_things_are() -> None:
    """An object's own colour is seen at its place in the overhead picture, at all stages of episodes; seeds repeat."""
    options = {"objects": 1, "receptacles": 1, "kinds": 2, "scenes": 1, "pixels": 64}
    lessons, again = (islice(pointing(64, seed=7, **options), 4) for _ in range(2))
    views, places = zip(*lessons, strict=True)
    for view, place, (same, there) in zip(views, places, again, strict=True):
        assert view.text == same.text and torch.equal(place, there) and place.shape == (64, 2, 2)
        assert torch.equal(view.images["side"], same.images["side"])
    view, place = Observation.concatenate(views), torch.cat(places)
    named = [next(kind for kind in OBJECTS if f"the {kind.name}" in line) for line in view.text]
    column, row = (((1 + part) * 32).long().clamp(0, 63) for part in (place[:, 0, 0], -place[:, 0, 1]))
    seen = view.images["overhead"][torch.arange(256), row, column].float()
    meant = torch.tensor([kind.colour for kind in named]).float()
    right = (seen / seen.norm(dim=1, keepdim=True) - meant / meant.norm(dim=1, keepdim=True)).norm(dim=1) < 0.1
    assert right.float().mean() > 0.8  # fingers hide some
    assert len({tuple(goal) for goal in place[:, 1].tolist()}) > 64
