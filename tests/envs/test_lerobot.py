import importlib.util
import json
import resource
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from palaestra.envs import lerobot_write
from palaestra.envs.episode import Episode
from palaestra.envs.lerobot import DatasetError, read, write
from palaestra.envs.lerobot_stats import merge, picture_stats, table_stats, vector_stats

ROOT = Path(__file__).parents[2]
LEROBOTS = Path(__file__).parent / "lerobot_0_4_4"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.base/chunk-000/file-000.mp4"


def episode(seed: int = 0, steps: int = 5, state: int | None = 3, action: int = 2, **changes: Any) -> Episode:
    random = torch.Generator().manual_seed(seed)
    made = Episode(
        action=torch.randn(steps, action, generator=random),
        reward=torch.rand(steps, generator=random),
        success=seed % 2 == 0,
        seed=100 + seed,
        text=("push the cube", "lift the cube")[seed % 2],
        state=None if state is None else torch.randn(steps + 1, state, generator=random),
    )
    return replace(made, **changes)


def pictures(steps: int, height: int, width: int, start: int = 0) -> torch.Tensor:
    """Smooth pictures whose brightness tells their time: 4 levels more a frame."""
    time = 4 * torch.arange(start, start + steps + 1).view(-1, 1, 1, 1)
    slope = torch.arange(height).view(-1, 1, 1) / 2 + torch.arange(width).view(-1, 1) / 3
    return (20 + time + slope + 10 * torch.arange(3)).clamp(0, 255).to(torch.uint8)


def assert_same_numbers(left: Episode, right: Episode) -> None:
    assert (left.success, left.seed, left.text) == (right.success, right.seed, right.text)
    assert (left.state is None) == (right.state is None)
    for name in ("state", "action", "reward"):
        a, b = getattr(left, name), getattr(right, name)
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), name


def decibels(left: torch.Tensor, right: torch.Tensor) -> float:
    error = (left.double() - right.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def made(folder: Path) -> Path:
    """A small dataset with a camera, written afresh."""
    episodes = [episode(i, 4 + i, images={"base": pictures(4 + i, 16, 24)}) for i in range(3)]
    return write(folder / "made", episodes, fps=20)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply a function to the columns of a parquet file."""
    table = pq.read_table(path)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    change(columns)
    pq.write_table(pa.table(columns), path)


def changed(column: pa.ChunkedArray, row: int, value: object) -> pa.Array:
    values = column.to_pylist()
    values[row] = value
    return pa.array(values, column.type)


def edit_info(folder: Path, **fields: object) -> None:
    path = folder / "meta/info.json"
    info = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


# The round trip


@pytest.mark.parametrize(("state", "action"), [(3, 2), (1, 1), (None, 4)])
def test_numbers_come_back_bit_for_bit(tmp_path: Path, state: int | None, action: int) -> None:
    episodes = [episode(i, 3 + 4 * i, state, action) for i in range(3)]
    data = read(write(tmp_path / "set", iter(episodes), fps=20, robot="panda"))
    assert (len(data), data.fps, data.robot, data.cameras) == (3, 20, "panda", ())
    for before, after in zip(episodes, data, strict=True):
        assert_same_numbers(before, after)


def test_extreme_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    numbers = torch.tensor([[1e-45, -0.0], [3.4028235e38, 1e-38], [0.1, -3.4e38]])
    before = replace(episode(steps=3), action=numbers)
    after = read(write(tmp_path / "set", [before], fps=20))[0]
    assert np.array_equal(before.action.numpy().view(np.uint32), after.action.numpy().view(np.uint32))


def test_one_step_and_no_text(tmp_path: Path) -> None:
    before = episode(steps=1, text="", success=True)
    assert_same_numbers(before, read(write(tmp_path / "set", [before], fps=1))[0])


@pytest.mark.parametrize("size", [(16, 24), (15, 23), (128, 96)])
def test_every_frame_comes_back_in_its_place_and_looks_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    # Episodes start at different brightness, and frames differ by 4 levels: a frame in the place of its
    # neighbour is at most 36 dB like it.
    episodes = [episode(i, 6, images={"base": pictures(6, *size, start=5 * i)}) for i in range(3)]
    data = read(write(tmp_path / "set", episodes, fps=20))
    for number in (2, 0, 1):
        before, after = episodes[number].images["base"], data[number].images["base"]
        assert before.shape == after.shape
        assert min(decibels(a, b) for a, b in zip(before, after, strict=True)) > 42


def test_several_cameras_keep_their_names(tmp_path: Path) -> None:
    images = {"wrist.left": pictures(4, 16, 16), "base": pictures(4, 32, 16, start=9)}
    data = read(write(tmp_path / "set", [episode(steps=4, images=images)], fps=20))
    assert data.cameras == ("wrist.left", "base")
    assert decibels(data[0].images["wrist.left"], images["wrist.left"]) > 40
    assert decibels(data[0].images["base"], images["base"]) > 40


def test_a_dataset_is_a_sequence(tmp_path: Path) -> None:
    episodes = [episode(i) for i in range(4)]
    data = read(write(tmp_path / "set", episodes, fps=20))
    assert_same_numbers(data[-1], episodes[3])
    assert [part.seed for part in data[1:3]] == [101, 102]
    assert len(list(data)) == 4
    with pytest.raises(IndexError):
        data[4]


# The layout


def test_the_layout_is_lerobots(tmp_path: Path) -> None:
    folder = made(tmp_path)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"meta/info.json", "meta/stats.json", "meta/tasks.parquet", EPISODES, DATA, VIDEO}
    theirs = json.loads((LEROBOTS / "meta/info.json").read_text())
    ours = json.loads((folder / "meta/info.json").read_text())
    assert ours.keys() == theirs.keys()
    for key in ("codebase_version", "data_path", "video_path", "chunks_size"):
        assert ours[key] == theirs[key]
    assert (ours["total_episodes"], ours["total_frames"], ours["total_tasks"]) == (3, 15, 2)
    for key in ("action", "next.reward", "timestamp", "index", "observation.images.base"):
        assert ours["features"][key].keys() == theirs["features"][key].keys()
        assert ours["features"][key]["dtype"] == theirs["features"][key]["dtype"]
    columns = set(pq.read_schema(folder / EPISODES).names)
    assert columns >= {n for n in pq.read_schema(LEROBOTS / EPISODES).names if "stats/" not in n}
    assert {n.split("/")[-1] for n in columns if "stats/" in n} == {
        n.split("/")[-1] for n in pq.read_schema(LEROBOTS / EPISODES).names if "stats/" in n
    }


def test_rows_say_when_the_episode_ends_and_whether_it_succeeded(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [episode(0, 2), episode(1, 3)], fps=10)
    rows = pq.read_table(folder / DATA).to_pydict()
    assert rows["next.done"] == [False, True, False, False, True]
    assert rows["next.success"] == [False, True, False, False, False]
    assert rows["frame_index"] == [0, 1, 0, 1, 2]
    assert rows["episode_index"] == [0, 0, 1, 1, 1]
    assert rows["index"] == [0, 1, 2, 3, 4]
    assert rows["task_index"] == [0, 0, 1, 1, 1]
    assert rows["timestamp"] == [np.float32(t) for t in (0, 0.1, 0, 0.1, 0.2)]


def test_pandas_finds_instructions_as_the_index(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    folder = write(tmp_path / "set", [episode(i) for i in range(3)], fps=10)
    tasks = pandas.read_parquet(folder / "meta/tasks.parquet")
    assert tasks.iloc[1].name == "lift the cube"  # how LeRobot looks one up
    assert int(tasks.loc["push the cube"].task_index) == 0


def test_files_roll_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_write, "VIDEO_SECONDS", 1.0)  # 20 frames
    episodes = [episode(i, 8, state=9000, images={"base": pictures(8, 8, 8, start=9 * i)}) for i in range(5)]
    folder = write(tmp_path / "set", episodes, fps=20, data_file_mb=1)
    assert len(list(folder.glob("data/*/*.parquet"))) > 1
    assert len(list(folder.glob("videos/*/*/*.mp4"))) == 3  # 9 frames an episode, two episodes a file
    data = read(folder)
    for number in (4, 1, 0, 3, 2):
        assert_same_numbers(data[number], episodes[number])
        assert decibels(data[number].images["base"], episodes[number].images["base"]) > 38


def test_writing_holds_few_episodes_at_once(tmp_path: Path) -> None:
    references, most = [], 0

    def stream() -> Iterator[Episode]:
        nonlocal most
        for i in range(12):
            made = episode(i % 2)
            references.append(weakref.ref(made.action))
            most = max(most, sum(reference() is not None for reference in references))
            yield made

    write(tmp_path / "set", stream(), fps=20)
    assert most <= 3  # the first, the last and the next


# Statistics


def test_statistics_are_those_of_all_rows(tmp_path: Path) -> None:
    episodes = [episode(i, 3 + 5 * i, images={"base": pictures(3 + 5 * i, 16, 16)}) for i in range(3)]
    stats = json.loads((write(tmp_path / "set", episodes, fps=20) / "meta/stats.json").read_text())
    actions = torch.cat([part.action for part in episodes]).double().numpy()
    for key in ("min", "max", "mean", "std"):
        assert np.allclose(stats["action"][key], getattr(actions, key)(0), rtol=1e-12)
    assert stats["action"]["count"] == [24]
    pixels = torch.cat([part.images["base"][:-1] for part in episodes]).double().numpy().reshape(-1, 3) / 255
    for key in ("min", "max", "mean", "std"):
        assert np.shape(stats["observation.images.base"][key]) == (3, 1, 1)
        assert np.allclose(np.ravel(stats["observation.images.base"][key]), getattr(pixels, key)(0), rtol=1e-9)


def test_statistics_by_hand() -> None:
    stats = vector_stats(np.array([1.0, 2.0, 3.0, 4.0]))
    # Mean 10/4; variance (2.25 + 0.25 + 0.25 + 2.25) / 4; the median between 2 and 3.
    assert (stats["mean"], stats["std"], stats["q50"]) == (2.5, pytest.approx(1.25**0.5), 2.5)
    frames = np.zeros((2, 1, 2, 3), np.uint8)
    frames[1, ..., 1] = 255
    stats = picture_stats(frames)
    assert stats["mean"].ravel().tolist() == [0.0, 0.5, 0.0]
    assert stats["std"].ravel().tolist() == [0.0, 0.5, 0.0]


def test_columns_together_have_the_statistics_of_each_alone() -> None:
    random = np.random.default_rng(0)
    columns = {"a": random.normal(size=(7, 3)).astype(np.float32), "b": np.arange(7), "c": random.random(7) < 0.5}
    together = table_stats(columns)
    for name, values in columns.items():
        for key, value in vector_stats(values).items():
            assert np.array_equal(together[name][key], value), (name, key)


def test_merging_is_associative_and_weighs_by_count() -> None:
    parts = [vector_stats(np.random.default_rng(i).normal(size=(3 + i, 2))) for i in range(3)]
    left, right = merge(merge(parts[0], parts[1]), parts[2]), merge(parts[0], merge(parts[1], parts[2]))
    for key in left:
        assert np.allclose(left[key], right[key], rtol=1e-12), key
    assert left["count"] == 12


def test_at_most_a_hundred_pictures_are_looked_at() -> None:
    assert picture_stats(np.zeros((250, 2, 2, 3), np.uint8))["count"] == 100


# Others' datasets


def test_a_dataset_written_by_lerobot_is_read() -> None:
    spec = importlib.util.spec_from_file_location("check", ROOT / "results/lerobot_reader/check.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    data = read(LEROBOTS)
    assert len(data) == 3
    for number, found in enumerate(data):
        expected = check.numbers(number)
        steps = check.LENGTHS[number] - 1  # the action after which nothing was seen is left out
        assert (len(found), found.text, found.seed) == (steps, check.TASKS[number], -1)
        assert found.success == (number != 1)
        assert np.array_equal(found.state.numpy(), expected["state"][: steps + 1])
        assert np.array_equal(found.action.numpy(), expected["action"][:steps])
        assert np.array_equal(found.reward.numpy(), expected["reward"][:steps])
        assert decibels(found.images["base"], torch.from_numpy(expected["picture"][: steps + 1])) > 38


def old_version(new: Path, folder: Path) -> Path:
    """Rewrite a v3.0 dataset as the v2.1 that LeRobot wrote before it: a file an episode, JSON lines."""
    info = json.loads((new / "meta/info.json").read_text())
    info |= {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    rows = pq.read_table(new / DATA)
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    (folder / "videos/chunk-000/observation.images.base").mkdir(parents=True)
    episodes = pq.read_table(new / EPISODES).to_pylist()
    for number, row in enumerate(episodes):
        part = rows.slice(row["dataset_from_index"], row["length"])
        pq.write_table(part, folder / info["data_path"].format(episode_chunk=0, episode_index=number))
        alone = write(folder / f"alone{number}", [read(new)[number]], fps=20)
        target = folder / f"videos/chunk-000/observation.images.base/episode_{number:06d}.mp4"
        shutil.copy(alone / VIDEO, target)
    lines = [json.dumps({k: row[k] for k in ("episode_index", "tasks", "length")}) for row in episodes]
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines))
    tasks = ["push the cube", "lift the cube"]
    lines = [json.dumps({"task_index": i, "task": task}) for i, task in enumerate(tasks)]
    (folder / "meta/tasks.jsonl").write_text("\n".join(lines))
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


def test_version_2_1_is_read(tmp_path: Path) -> None:
    new = read(made(tmp_path))
    old = read(old_version(tmp_path / "made", tmp_path / "old"))
    assert len(old) == len(new)
    for before, after in zip(new, old, strict=True):
        steps = len(before) - 1
        assert (len(after), after.text, after.success, after.seed) == (steps, before.text, before.success, -1)
        assert torch.equal(after.state, before.state[:-1])
        assert torch.equal(after.action, before.action[:-1])
        assert torch.equal(after.reward, before.reward[:-1])
        assert decibels(after.images["base"], before.images["base"][:-1]) > 42


def test_what_a_dataset_does_not_declare_is_zero_and_false(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [episode(0)], fps=20)
    info = json.loads((folder / "meta/info.json").read_text())
    features = {n: f for n, f in info["features"].items() if n not in ("next.reward", "next.success")}
    edit_info(folder, features=features)
    found = read(folder)[0]
    assert (found.reward.tolist(), found.success) == ([0.0] * 5, False)


# Bad input to the writer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": torch.zeros(6, 4)}, r"Episode 1: state has the shape \(4,\).*episode 0 it is \(3,\)"),
        ({"state": None}, r"Episode 1: state has the shape None"),
        ({"action": torch.zeros(5, 1)}, r"Episode 1: action has the shape \(1,\)"),
        ({"images": {}}, r"Episode 1: images\['base'\] has the shape None"),
        ({"images": {"base": pictures(5, 8, 10)}}, r"images\['base'\] has the shape \(8, 10, 3\)"),
    ],
)
def test_an_episode_unlike_the_first_is_refused_and_nothing_is_left(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    first = episode(0, images={"base": pictures(5, 8, 8)})
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "set", [first, replace(first, **changes)], fps=20)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def stream() -> Iterator[Episode]:
        yield episode(0, images={"base": pictures(5, 8, 8)})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", stream(), fps=20)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_not_overwritten(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [episode(0)], fps=20)
    before = (folder / DATA).read_bytes()

    def untouched() -> Iterator[Episode]:
        raise AssertionError("the episodes were asked for before the folder was checked")
        yield

    with pytest.raises(FileExistsError, match="never overwritten"):
        write(folder, untouched(), fps=20)
    assert (folder / DATA).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps = 0"),
        ({"fps": 12.5}, "fps = 12.5"),
        ({"action_names": ["x"]}, "action_names has 1 names, but action is 2 wide"),
        ({"state_names": ["x"] * 4}, "state_names has 4 names, but state is 3 wide"),
        ({"data_file_mb": 0}, "data_file_mb = 0"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "set", [episode(0)], **{"fps": 20, **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"a/b": pictures(5, 8, 8)}, "'a/b' names a folder"),
        ({"..": pictures(5, 8, 8)}, "'..' names a folder"),
        ({"depth": pictures(5, 8, 8)[..., :2]}, "'depth' has 2 channels"),
    ],
)
def test_cameras_that_no_video_holds_are_refused(tmp_path: Path, images: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "set", [episode(0, images=images)], fps=20)


def test_a_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (lambda: write(tmp_path / "set", [episode(0)], fps=20), lambda: read(LEROBOTS)):
        with pytest.raises(ImportError, match=r"with av, not installed here: pip install 'palaestra\[lerobot\]'"):
            call()


def test_no_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No episodes"):
        write(tmp_path / "set", [], fps=20)


@pytest.mark.parametrize("camera", [False, True])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, camera: bool) -> None:
    noise = torch.randint(0, 256, (51, 64, 64, 3), dtype=torch.uint8)
    images = {"base": noise} if camera else {}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="disk has room" if camera else "too large"):
            write(tmp_path / "set", [episode(0, 50, 3 if camera else 2000, images=images)], fps=20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


# Bad input to the reader


@pytest.mark.parametrize("key", ["codebase_version", "fps", "features", "data_path", "video_path", "total_frames"])
def test_a_missing_field_of_info_is_named(tmp_path: Path, key: str) -> None:
    folder = made(tmp_path)
    edit_info(folder, **{key: None})
    with pytest.raises(DatasetError, match=rf"info\.json lacks {key}"):
        read(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codebase_version": "v2.0"}, r"codebase_version is 'v2\.0'; read are v3\.0 and v2\.1"),
        ({"total_episodes": 4}, r"total_episodes is 4, but meta/episodes has 3"),
        ({"total_frames": 14}, r"total_frames is 14, but meta/episodes has 15"),
        ({"data_path": "../{chunk_index}{file_index}"}, "leads out of the dataset"),
        ({"data_path": "{nothing}"}, "data_path is '{nothing}'"),
        ({"features": {}}, r"lacks features\.action"),
        ({"features": {"action": {"dtype": "float32"}}}, r"lacks features\.action\.shape"),
        ({"features": {"action": {"dtype": "float32", "shape": [2, 2]}}}, r"action\.shape is \[2, 2\]"),
    ],
)
def test_info_that_is_not_true_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    folder = made(tmp_path)
    edit_info(folder, **fields)
    with pytest.raises(DatasetError, match=message):
        read(folder)


def test_pictures_in_rows_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path)
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    features["observation.images.base"]["dtype"] = "image"
    edit_info(folder, features=features)
    with pytest.raises(DatasetError, match="only video is read"):
        read(folder)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet", EPISODES, DATA, VIDEO])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"is missing|has no"):
        read(folder)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet", EPISODES, DATA, VIDEO])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    path = made(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=path.name):
        read(tmp_path / "made")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = made(tmp_path) / DATA
    content = bytearray(path.read_bytes())
    values = episode(0, 4, images={"base": pictures(4, 16, 24)}).action.numpy().tobytes()
    content[content.index(values[:8])] ^= 1
    path.write_bytes(content)
    data = read(tmp_path / "made")
    with pytest.raises(DatasetError, match=r"file-000\.parquet cannot be read.*CRC"):
        data[0]


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("action", 5, [float("nan"), 0.0], r"episode 1: Episode\.action is not finite at index 1"),
        ("observation.state", 4, [0.0, float("inf"), 0.0], r"episode 1: Episode\.state is not finite"),
        ("next.reward", 4, float("nan"), r"episode 1: Episode\.reward is not finite"),
        ("next.reward", 4, None, r"column 'next.reward' holds nulls"),
        ("frame_index", 6, 7, r"episode 1, row 2: frame_index is 7, expected 2"),
        ("episode_index", 4, 0, r"episode 1, row 0: episode_index is 0, expected 1"),
        ("index", 4, 5, r"episode 1, row 0: index is 5, expected 4"),
        ("timestamp", 5, 0.2, r"episode 1, row 1: timestamp is 0\.2.*, expected 0\.05"),
        ("timestamp", 5, float("nan"), r"episode 1, row 1: timestamp is nan"),
        ("task_index", 5, 0, r"episode 1: task_index is \[0, 1\]"),
    ],
)
def test_altered_rows_are_named(tmp_path: Path, column: str, row: int, value: object, message: str) -> None:
    path = made(tmp_path) / DATA
    rewrite(path, lambda columns: columns.update({column: changed(columns[column], row, value)}))
    data = read(tmp_path / "made")
    assert len(data[0]) == 4  # the others are as they were
    with pytest.raises(DatasetError, match=message):
        data[1]


@pytest.mark.parametrize("column", ["action", "observation.state", "timestamp", "next.success"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = made(tmp_path) / DATA
    rewrite(path, lambda columns: columns.pop(column))
    with pytest.raises(DatasetError, match=f"lacks the column '{column}'"):
        read(tmp_path / "made")[0]


def test_a_column_of_another_kind_or_width_is_named(tmp_path: Path) -> None:
    path = made(tmp_path) / DATA
    rewrite(path, lambda columns: columns.update(action=pa.array([[1.0]] * 15)))
    with pytest.raises(DatasetError, match=r"column 'action' is list<.*expected \[4, 2\]"):
        read(tmp_path / "made")[0]
    rewrite(path, lambda columns: columns.update(action=pa.array(["x"] * 15)))
    with pytest.raises(DatasetError, match="column 'action' is string"):
        read(tmp_path / "made")[0]


def test_rows_that_are_not_there_are_found_before_any_is_read(tmp_path: Path) -> None:
    path = made(tmp_path) / DATA
    pq.write_table(pq.read_table(path).slice(0, 14), path)
    with pytest.raises(DatasetError, match=r"file-000\.parquet has 14 rows, but the metadata says 15"):
        read(tmp_path / "made")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("length", 6, r"has rows 4 to 9, expected 4 to 10"),
        ("length", None, r"lacks length"),
        ("data/file_index", 7, r"file-007\.parquet is missing"),
        ("videos/observation.images.base/from_timestamp", 0.7, r"file-000\.mp4 lacks frame 19"),
    ],
)
def test_altered_episodes_are_refused(tmp_path: Path, column: str, value: object, message: str) -> None:
    path = made(tmp_path) / EPISODES
    rewrite(path, lambda columns: columns.update({column: changed(columns[column], 1, value)}))
    with pytest.raises((DatasetError, FileNotFoundError), match=message):
        read(tmp_path / "made")


def test_a_missing_last_view_is_named(tmp_path: Path) -> None:
    path = made(tmp_path) / EPISODES
    final = "palaestra/final_state"
    rewrite(path, lambda columns: columns.update({final: changed(columns[final], 1, None)}))
    with pytest.raises(DatasetError, match=r"episode 1: the final state has 0 numbers, observation\.state 3"):
        read(tmp_path / "made")[1]


def test_tasks_without_instructions_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path) / "meta/tasks.parquet"
    rewrite(path, lambda columns: columns.pop("task"))
    with pytest.raises(DatasetError, match=r"columns are \['task_index'\]"):
        read(tmp_path / "made")


def test_a_video_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path)
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    features["observation.images.base"]["shape"] = [16, 16, 3]
    edit_info(folder, features=features)
    with pytest.raises(DatasetError, match=r"shows frames of \(16, 24, 3\), but info.json says \(16, 16, 3\)"):
        read(folder)[0]


def test_a_damaged_video_is_named(tmp_path: Path) -> None:
    path = made(tmp_path) / VIDEO
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    data = read(tmp_path / "made")
    with pytest.raises(DatasetError, match=r"file-000\.mp4 (cannot be read|lacks the frame)"):
        data[0]
