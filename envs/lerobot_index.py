"""Where each episode of a LeRobotDataset lies, from its metadata, with every file checked against it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palaestra.envs.lerobot_format import CAMERA, FINAL_STATE, SEED, TASKS_PATH, VERSION, check_installed

OLD_VERSION = "v2.1"


class DatasetError(ValueError):
    """A dataset that cannot be read: names the file, the field, what was found and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one episode lies."""

    length: int
    """How many rows it has."""
    start: int
    """Its first row, counted over the whole dataset."""
    data: Path
    """The parquet file with its rows."""
    offset: int
    """Its first row in `data`."""
    videos: Mapping[str, tuple[Path, float]]
    """Feature to the video file and the time of the first frame there, in seconds."""
    whole: bool = False
    """Whether the view after the last action was kept, as our writer does."""
    final_state: list[float] | None = None
    """The state of that view."""
    seed: int = -1
    """The seed of the reset, -1 where it is not said."""


@dataclass(frozen=True, slots=True)
class Index:
    """What the metadata of a dataset says."""

    fps: int
    """Actions a second."""
    robot: str
    """LeRobot's `robot_type`, empty where there is none."""
    features: Mapping[str, Mapping[str, Any]]
    """Column or video to its `dtype` and `shape`."""
    tasks: Mapping[int, str]
    """`task_index` to the instruction."""
    places: tuple[Place, ...] = field(repr=False)
    """One an episode."""

    @property
    def cameras(self) -> dict[str, str]:
        """Camera name to its feature."""
        videos = [name for name, feature in self.features.items() if feature["dtype"] == "video"]
        return {name.removeprefix(CAMERA).removeprefix("observation."): name for name in videos}


def open_index(root: Path) -> Index:
    """Read the metadata of a dataset and check that the files are what it says.

    Raises:
        FileNotFoundError: A file is missing.
        DatasetError: A version that is not read, a field that is missing, a file that is truncated or has
            other rows or frames than the metadata says.
    """
    check_installed()
    info_path = root / "meta/info.json"
    info = read_json(info_path)
    version = need(info, "codebase_version", info_path)
    if version not in (VERSION, OLD_VERSION):
        raise DatasetError(
            f"{info_path}: codebase_version is {version!r}; read are {VERSION} and {OLD_VERSION}. "
            "Convert the dataset with LeRobot's own scripts."
        )
    features = _features(info, info_path)
    source = _places_v3(root, info, features) if version == VERSION else _places_v2(root, info, features)
    index = Index(
        fps=int(need(info, "fps", info_path)),
        robot=str(info.get("robot_type") or ""),
        features=features,
        tasks=_tasks_v3(root) if version == VERSION else _tasks_v2(root),
        places=tuple(source),
    )
    _check_counts(index, info, info_path)
    return index


def _features(info: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Return info.json's features, those that episodes need checked."""
    features: dict[str, dict[str, Any]] = need(info, "features", path)
    need(features, "action", path, "features.")
    for name, feature in features.items():
        for key in ("dtype", "shape"):
            need(feature, key, path, f"features.{name}.")
        if feature["dtype"] == "image":
            raise DatasetError(
                f"{path}: {name} is stored as pictures in the rows; only video is read. "
                "Convert it with LeRobot's own tools (lerobot-edit-dataset)."
            )
        if name in ("action", "observation.state") and len(feature["shape"]) != 1:
            raise DatasetError(f"{path}: features.{name}.shape is {feature['shape']}; expected one number.")
    return features


def _places_v3(root: Path, info: Mapping[str, Any], features: Mapping[str, Any]) -> Iterable[Place]:
    """Yield where the episodes of a v3.0 dataset lie, from `meta/episodes`."""
    videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
    offsets: dict[Path, int] = {}
    start = 0
    for file in _found(root, "meta/episodes/*/*.parquet"):
        for row in _episode_rows(file):
            length = int(need(row, "length", file))
            first, last = need(row, "dataset_from_index", file), need(row, "dataset_to_index", file)
            if (first, last) != (start, start + length):
                raise DatasetError(
                    f"{file}: episode {need(row, 'episode_index', file)} has rows {first} to {last}, expected "
                    f"{start} to {start + length} by the episodes before it and its length. {RESTORE}"
                )
            data = _file(root, info, "data_path", **_chunk(row, "data", file))
            offset = offsets.get(data, 0)
            offsets[data] = offset + length
            yield Place(
                length=length,
                start=start,
                data=data,
                offset=offset,
                videos={
                    name: (
                        _file(root, info, "video_path", video_key=name, **_chunk(row, f"videos/{name}", file)),
                        float(need(row, f"videos/{name}/from_timestamp", file)),
                    )
                    for name in videos
                },
                whole=SEED in row,
                final_state=row.get(FINAL_STATE),
                seed=-1 if row.get(SEED) is None else int(row[SEED]),
            )
            start += length


def _places_v2(root: Path, info: Mapping[str, Any], features: Mapping[str, Any]) -> Iterable[Place]:
    """Yield where the episodes of a v2.1 dataset lie, from `meta/episodes.jsonl`."""
    path = root / "meta/episodes.jsonl"
    size = int(need(info, "chunks_size", root / "meta/info.json"))
    start = 0
    for row in _json_lines(path):
        number, length = int(need(row, "episode_index", path)), int(need(row, "length", path))
        where = {"episode_chunk": number // size, "episode_index": number}
        yield Place(
            length=length,
            start=start,
            data=_file(root, info, "data_path", **where),
            offset=0,
            videos={
                name: (_file(root, info, "video_path", video_key=name, **where), 0.0)
                for name, feature in features.items()
                if feature["dtype"] == "video"
            },
        )
        start += length


def _tasks_v3(root: Path) -> dict[int, str]:
    """Return the instructions of `meta/tasks.parquet`: the column beside `task_index`, whatever its name."""
    path = root / TASKS_PATH
    columns = read_table(path).to_pydict()
    indices = need(columns, "task_index", path)
    texts = [values for name, values in columns.items() if name != "task_index"]
    if len(texts) != 1 or not all(isinstance(text, str) for text in texts[0]):
        raise DatasetError(f"{path}: columns are {list(columns)}; expected task_index and one of strings.")
    return dict(zip(indices, texts[0], strict=True))


def _tasks_v2(root: Path) -> dict[int, str]:
    """Return the instructions of `meta/tasks.jsonl`."""
    path = root / "meta/tasks.jsonl"
    return {int(need(row, "task_index", path)): str(need(row, "task", path)) for row in _json_lines(path)}


def _check_counts(index: Index, info: Mapping[str, Any], info_path: Path) -> None:
    """Raise DatasetError where info.json, the episodes and the files do not agree."""
    for name, found in (
        ("total_episodes", len(index.places)),
        ("total_frames", sum(place.length for place in index.places)),
    ):
        said = need(info, name, info_path)
        if said != found:
            raise DatasetError(f"{info_path}: {name} is {said}, but meta/episodes has {found}. {RESTORE}")
    rows: dict[Path, int] = {}
    frames: dict[Path, int] = {}
    for place in index.places:
        rows[place.data] = place.offset + place.length
        for path, start in place.videos.values():
            end = round(start * index.fps) + place.length + place.whole
            frames[path] = max(frames.get(path, 0), end)
    for path, expected in rows.items():
        found = _count_rows(path)
        if found != expected:
            raise DatasetError(f"{path} has {found} rows, but the metadata says {expected}. {RESTORE}")
    for path, expected in frames.items():
        if not _holds_frame(path, expected - 1, index.fps):
            raise DatasetError(f"{path} lacks frame {expected - 1}, of which the metadata speaks. {RESTORE}")


RESTORE = "The dataset was altered or copied in part: restore it, or write it again."


def need(record: Mapping[str, Any], key: str, path: Path, prefix: str = "") -> Any:
    """Return a field of a record, or raise DatasetError where it is missing or null."""
    value = record.get(key)
    if value is None:
        raise DatasetError(f"{path} lacks {prefix}{key}; it has {sorted(record)}. {RESTORE}")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object."""
    try:
        content = json.loads(_existing(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not JSON: {error}. {RESTORE}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds a {type(content).__name__}; expected an object. {RESTORE}")
    return content


def read_table(path: Path, columns: list[str] | None = None) -> Any:
    """Return a parquet file (some of its columns) as a pyarrow table, its pages' checksums verified."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(_existing(path), page_checksum_verification=True) as file:
            return file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _episode_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `meta/episodes` file, without the statistics."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    rows: list[dict[str, Any]] = read_table(path, [n for n in names if not n.startswith("stats/")]).to_pylist()
    return rows


def _count_rows(path: Path) -> int:
    """Return how many rows a parquet file has, from its footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(_existing(path)).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _holds_frame(path: Path, number: int, fps: int) -> bool:
    """Whether a video holds a frame whole. Reads its end only and decodes nothing."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(int(number / fps * av.time_base))
            for packet in container.demux(stream):
                if packet.pts is None or packet.time_base is None or packet.is_corrupt:
                    return False
                if round(packet.pts * packet.time_base * fps) >= number:
                    return True
    except (av.error.FFmpegError, IndexError) as error:
        raise _unreadable(path, error) from error
    return False


def _unreadable(path: Path, error: Exception) -> Exception:
    """Return the error for a file that its library refuses (FileNotFoundError as it is)."""
    if isinstance(error, FileNotFoundError):
        return error
    return DatasetError(f"{path} cannot be read ({error}). {RESTORE}")


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file."""
    rows = []
    for number, line in enumerate(_existing(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}, line {number} is not JSON: {error}. {RESTORE}") from error
    return rows


def _existing(path: Path) -> Path:
    """Return the path, or raise FileNotFoundError with what to do."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {RESTORE}")
    return path


def _found(root: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern in order, or raise FileNotFoundError."""
    files = sorted(root.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{root} has no {pattern}. {RESTORE}")
    return files


def _chunk(row: Mapping[str, Any], kind: str, path: Path) -> dict[str, int]:
    """Return the chunk's and the file's index of one kind of file."""
    return {key: int(need(row, f"{kind}/{key}", path)) for key in ("chunk_index", "file_index")}


def _file(root: Path, info: Mapping[str, Any], template: str, **where: int | str) -> Path:
    """Return a file's path by one of info.json's templates, which must stay inside the dataset."""
    pattern = str(need(info, template, root / "meta/info.json"))
    try:
        path = root / pattern.format(**where)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DatasetError(f"{root / 'meta/info.json'}: {template} is {pattern!r}, unknown: {error!r}.") from error
    if not path.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{root / 'meta/info.json'}: {template} {pattern!r} leads out of the dataset.")
    return _existing(path)
