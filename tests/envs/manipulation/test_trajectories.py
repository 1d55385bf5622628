"""ManiSkill's own recordings are read as they were played, and broken ones say what is broken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palaestra.envs.manipulation.experts import CONTROL, EXPERTS
from palaestra.envs.manipulation.maniskill import ManiSkillFactory, build, env_factory, registered
from palaestra.envs.manipulation.trajectories import read

pytestmark = pytest.mark.simulator
pytest.importorskip("mani_skill")
h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of PushCube by ManiSkill's own recorder: one expert's, one of two idle steps."""
    from mani_skill.utils.wrappers.record import RecordEpisode

    folder = tmp_path_factory.mktemp("recording")
    factory = ManiSkillFactory("PushCube-v1", control=CONTROL)
    simulator = build(factory, registered("PushCube-v1"), None)
    simulator.spec = registered("PushCube-v1").gym_spec
    env = RecordEpisode(simulator, str(folder), trajectory_name="trajectory", save_video=False)
    state, _ = env.reset(seed=11)
    done = False
    while not done:
        state, _, terminated, _, _ = env.step(EXPERTS["PushCube-v1"](state))
        done = bool(terminated)
    env.reset(seed=12)
    for _ in range(2):
        env.step(torch.zeros(1, 4))
    env.flush_trajectory()
    env.close()
    return folder / "trajectory.h5"


@pytest.fixture
def copy(recording: Path, tmp_path: Path) -> Path:
    for suffix in (".h5", ".json"):
        shutil.copy(recording.with_suffix(suffix), tmp_path / f"demos{suffix}")
    return tmp_path / "demos.h5"


def test_a_recording_is_read_as_it_was_played(recording: Path) -> None:
    found = read(recording)
    assert (found.task, found.control, len(found.episodes)) == ("PushCube-v1", CONTROL, 2)
    first, second = found.episodes
    assert first.success and first.seed == 11 and first.text == "push the cube onto the target"
    assert not second.success and second.seed == 12 and len(second) == 2
    env = env_factory("PushCube-v1", control=CONTROL)()
    views, rewards = [env.reset(seed=11)[0]], []
    for action in first.action.numpy():
        view, reward, *_ = env.step(action)
        views.append(view)
        rewards.append(reward)
    assert first.state is not None
    np.testing.assert_array_equal(first.state.numpy(), np.stack(views))
    np.testing.assert_array_equal(first.reward.numpy(), np.float32(rewards))


def test_successes_and_a_limit(recording: Path) -> None:
    assert [e.seed for e in read(recording, only_successes=True).episodes] == [11]
    assert [e.seed for e in read(recording, limit=1).episodes] == [11]


def test_without_rewards_the_reward_is_success(copy: Path) -> None:
    with h5py.File(copy, "a") as file:
        del file["traj_0/rewards"]
    reward = read(copy).episodes[0].reward
    assert reward[-1] == 1 and reward[:-1].sum() == 0


def test_dictionaries_and_pictures_are_read(copy: Path) -> None:
    known = read(copy).episodes[0]
    assert known.state is not None
    views = len(known) + 1
    with h5py.File(copy, "a") as file:
        group = file["traj_0"]
        del group["obs"], file["traj_1"]
        obs = group.create_group("obs", track_order=True)
        agent = obs.create_group("agent", track_order=True)
        agent["qpos"], agent["qvel"] = known.state[:, :9], known.state[:, 9:18]
        agent.create_group("controller")
        obs.create_group("extra", track_order=True)["height"] = known.state[:, 20]
        sensor = obs.create_group("sensor_data/front")
        sensor["rgb"] = np.full((views, 4, 4, 3), 7, np.uint8)
        sensor["depth"] = np.full((views, 4, 4, 1), 1234, np.int16)
    (episode,) = read(copy, limit=1).episodes
    assert episode.state is not None
    torch.testing.assert_close(episode.state, known.state[:, [*range(18), 20]])
    assert episode.images["front"].unique().tolist() == [7]
    assert episode.images["front_depth"][0, 0, 0].tolist() == [1234 // 256, 1234 % 256]


def edit_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        file = path.with_suffix(".json")
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


def edit_h5(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file["traj_0"])

    return edit


def shorten(field: str) -> Callable[[Any], None]:
    def change(group: Any) -> None:
        values = group[field][:-1]
        del group[field]
        group[field] = values

    return change


def forget(*fields: str) -> Callable[[Any], None]:
    def change(group: Any) -> None:
        for field in fields:
            del group[field]

    return change


def empty_observations(group: Any) -> None:
    del group["obs"]
    group.create_group("obs")


def not_a_number(group: Any) -> None:
    group["actions"][1, 2] = np.nan


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def cut_json_short(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, r"demos.h5 is cut short or no HDF5 file.*again"),
        (cut_json_short, r"demos.json is cut short or no JSON"),
        (edit_json(lambda c: c.pop("env_info")), r"demos.json lacks the field 'env_info'"),
        (edit_json(lambda c: c["episodes"][1].pop("control_mode")), r"lacks the field 'control_mode'"),
        (edit_json(lambda c: c["episodes"].clear()), r"lists no episodes"),
        (edit_json(lambda c: c["episodes"][1].update(control_mode="x")), r"mixes the control modes pd_ee_delta_pos, x"),
        (edit_json(lambda c: c["episodes"][1].update(episode_id=9)), r"traj_9: .* HDF5 file lacks it"),
        (edit_h5(forget("actions")), r"traj_0: it lacks 'actions'; it has .*obs"),
        (edit_h5(forget("obs")), r"no observations.*replay_trajectory"),
        (edit_h5(empty_observations), r"no observations.*replay_trajectory"),
        (edit_h5(forget("rewards", "success")), r"does not say how it went.*record_reward=True"),
        (edit_h5(shorten("rewards")), r"its rewards have \d+ entries for \d+ actions"),
        (edit_h5(shorten("obs")), r"'obs' has \d+ entries, expected one more"),
        (edit_h5(not_a_number), r"traj_0: Episode.action is not finite at index 1"),
    ],
)
def test_damage_is_named_with_its_place_and_its_remedy(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=message):
        read(copy)


@pytest.mark.parametrize("suffix", [".h5", ".json"])
def test_a_missing_file_is_named(copy: Path, suffix: str) -> None:
    copy.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError, match=rf"demos\{suffix} does not exist. A recording is two files"):
        read(copy)
