"""Episodes into a LeRobotDataset v3.0 (`lerobot_format.py`), without the lerobot package."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.envs.episode import Episode
from palaestra.envs.lerobot_format import (
    CAMERA,
    DATA_PATH,
    EPISODES_PATH,
    FILES_A_CHUNK,
    FINAL_STATE,
    SEED,
    TASKS_PATH,
    VERSION,
    VIDEO_PATH,
    check_installed,
    describe_features,
)
from palaestra.envs.lerobot_stats import Stats, merge, picture_stats, table_stats
from palaestra.envs.video import VideoWriter

# LeRobot looks for a frame at a float32 time within 1e-4 s, and above 1024 s float32 steps by more than that.
VIDEO_SECONDS = 1000.0
# Rows of `meta/episodes` that are held back to be written together.
EPISODES_A_GROUP = 100


def write(
    path: str | Path,
    episodes: Iterable[Episode],
    *,
    fps: int,
    robot: str = "unknown",
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    quality: int = 18,
    data_file_mb: int = 100,
    video_file_mb: int = 200,
) -> Path:
    """Write episodes as a LeRobotDataset v3.0 and return its folder.

    Episodes are taken one at a time and written at once, so a generator of any length fits in memory. The folder
    appears under its name when all is written, and not at all otherwise. State, action and reward read back
    bit for bit; pictures are H.264 video, and so are close only.

    Args:
        path: The folder to make.
        episodes: At least one, all with the same widths and cameras. Pictures have 3 channels.
        fps: Actions a second.
        robot: LeRobot's `robot_type`.
        state_names: A name for each number of the state; `state_0`, `state_1`, … if None.
        action_names: A name for each number of the action; `action_0`, … if None.
        quality: x264's constant rate factor: 0 is lossless in YUV, 18 looks so, 51 is worst.
        data_file_mb: A parquet file that has reached this size is followed by another.
        video_file_mb: The same of a video.

    Raises:
        FileExistsError: `path` exists.
        ValueError: No episodes, or an episode unlike the first, by its number.
        OSError: The disk is full or cannot be written.
        ImportError: The extra `lerobot` is not installed.
    """
    target = Path(path)
    _check_options(target, fps, data_file_mb=data_file_mb, video_file_mb=video_file_mb)
    stream = iter(episodes)
    first = next(stream, None)
    if first is None:
        raise ValueError(f"No episodes were given to write to {target}.")
    features = describe_features(first, fps, state_names, action_names)
    with _whole_folder(target) as partial:
        writer = _Writer(partial, first, features, fps, robot, quality, data_file_mb, video_file_mb)
        try:
            for episode in itertools.chain([first], stream):
                writer.add(episode)
            writer.finish()
        except BaseException:
            writer.abort()
            raise
    return target


def _check_options(target: Path, fps: int, **sizes: int) -> None:
    """Raise what `write` raises before it asks for an episode."""
    check_installed()
    if target.exists():
        raise FileExistsError(f"{target} exists. A dataset is never overwritten: remove it or name another folder.")
    if isinstance(fps, bool) or not isinstance(fps, int) or fps < 1:
        raise ValueError(f"fps = {fps!r}; LeRobot takes a whole number of actions a second, at least 1.")
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} = {size}; expected at least 1.")


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` that takes its name at the end, all on disk, or vanishes on an error."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


class _Rolling:
    """Where numbered files of one kind stand: file-000, file-001, …, 1000 to a chunk."""

    def __init__(self, root: Path, pattern: str, **names: str) -> None:
        self._root, self._pattern, self._names = root, pattern, names
        self._number = 0

    @property
    def place(self) -> dict[str, int]:
        """The chunk's and the file's index."""
        chunk, file = divmod(self._number, FILES_A_CHUNK)
        return {"chunk_index": chunk, "file_index": file}

    @property
    def path(self) -> Path:
        """The present file, its folder made."""
        path = self._root / self._pattern.format(**self.place, **self._names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def next(self) -> None:
        """Go on to the next file."""
        self._number += 1


class _Writer:
    """The open files of a dataset that is being written, and what has been counted so far."""

    def __init__(
        self,
        root: Path,
        first: Episode,
        features: dict[str, dict[str, Any]],
        fps: int,
        robot: str,
        quality: int,
        data_file_mb: int,
        video_file_mb: int,
    ) -> None:
        self._root, self._first, self._features = root, first, features
        self._fps, self._robot, self._quality = fps, robot, quality
        self._data_mb, self._video_mb = data_file_mb, video_file_mb
        self._tasks: dict[str, int] = {}
        self._stats: dict[str, Stats] = {}
        self._episodes = self._frames = 0
        self._pending: list[dict[str, Any]] = []
        self._data_place = _Rolling(root, DATA_PATH)
        self._video_place = {c: _Rolling(root, VIDEO_PATH, video_key=CAMERA + c) for c in first.images}
        self._data: Any = None
        self._meta: Any = None
        self._videos: dict[str, VideoWriter] = {}

    def add(self, episode: Episode) -> None:
        """Write one episode."""
        self._check(episode)
        task = self._tasks.setdefault(episode.text, len(self._tasks))
        columns = self._columns(episode, task)
        row: dict[str, Any] = {
            "episode_index": self._episodes,
            "tasks": [episode.text],
            "length": len(episode),
            **self._write_data(columns),
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + len(episode),
        }
        stats = table_stats(columns)
        for camera, pictures in episode.images.items():
            frames = pictures.cpu().numpy()
            stats[CAMERA + camera] = picture_stats(frames[:-1])
            row |= self._write_video(camera, frames)
        row |= {f"stats/{name}/{key}": v for name, part in stats.items() for key, v in part.items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, SEED: episode.seed}
        if episode.state is not None:
            row[FINAL_STATE] = episode.state[-1].cpu().numpy()
        self._pending.append(row)
        if len(self._pending) == EPISODES_A_GROUP:
            self._write_episodes()
        for name, part in stats.items():
            self._stats[name] = merge(self._stats[name], part) if name in self._stats else part
        self._episodes += 1
        self._frames += len(episode)

    def finish(self) -> None:
        """Close every file and write what describes them."""
        self._write_episodes()
        self._data.close()
        self._meta.close()
        for video in self._videos.values():
            video.close()
        self._write_tasks()
        stats = {name: {key: v.tolist() for key, v in part.items()} for name, part in self._stats.items()}
        info = {
            "codebase_version": VERSION,
            "robot_type": self._robot,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": self._data_mb,
            "video_files_size_in_mb": self._video_mb,
            "fps": self._fps,
            "splits": {"train": f"0:{self._episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._video_place else None,
            "features": self._features,
        }
        for name, content in (("stats", stats), ("info", info)):
            text = json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False)
            (self._root / f"meta/{name}.json").write_text(text, encoding="utf-8")

    def abort(self) -> None:
        """Stop the encoders and let go of the files."""
        for video in self._videos.values():
            video.abort()
        for writer in (self._data, self._meta):
            if writer is not None:
                writer.close()

    def _check(self, episode: Episode) -> None:
        """Raise ValueError where an episode is unlike the first."""

        def shapes(one: Episode) -> dict[str, tuple[int, ...] | None]:
            return {
                "state": None if one.state is None else tuple(one.state.shape[1:]),
                "action": tuple(one.action.shape[1:]),
                **{f"images[{name!r}]": tuple(p.shape[1:]) for name, p in sorted(one.images.items())},
            }

        expected, found = shapes(self._first), shapes(episode)
        for name in {**expected, **found}:
            if expected.get(name) != found.get(name):
                raise ValueError(
                    f"Episode {self._episodes}: {name} has the shape {found.get(name)} a step, but in episode 0 it is "
                    f"{expected.get(name)}. All episodes of a dataset have the same widths and cameras."
                )

    def _columns(self, episode: Episode, task: int) -> dict[str, np.ndarray]:
        """Return the T rows of every column but the videos."""
        steps = len(episode)
        frame = np.arange(steps, dtype=np.int64)
        columns: dict[str, np.ndarray] = {}
        if episode.state is not None:
            columns["observation.state"] = episode.state[:-1].cpu().numpy()
        last = frame == steps - 1
        return columns | {
            "action": episode.action.cpu().numpy(),
            "next.reward": episode.reward.cpu().numpy(),
            "next.done": last,
            "next.success": last & episode.success,  # the verdict is known of the last view only
            "timestamp": (frame / self._fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(steps, self._episodes, np.int64),
            "index": frame + self._frames,
            "task_index": np.full(steps, task, np.int64),
        }

    def _write_data(self, columns: dict[str, np.ndarray]) -> dict[str, int]:
        """Write one episode's rows as a row group and return which file they went to."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        def array(name: str, values: np.ndarray) -> Any:
            width = self._features[name]["shape"][0]
            flat = pa.array(values.reshape(-1))
            return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)

        table = pa.table({name: array(name, values) for name, values in columns.items()})
        if self._data is not None and self._data_place.path.stat().st_size >= self._data_mb * 2**20:
            self._data.close()
            self._data = None
            self._data_place.next()
        if self._data is None:
            self._data = pq.ParquetWriter(self._data_place.path, table.schema, write_page_checksum=True)
        self._data.write_table(table)
        return {f"data/{key}": value for key, value in self._data_place.place.items()}

    def _write_video(self, camera: str, frames: np.ndarray) -> dict[str, Any]:
        """Write one episode's T + 1 pictures and return where its first T are."""
        video, place = self._videos.get(camera), self._video_place[camera]
        if video is not None and (
            video.size() >= self._video_mb * 2**20 or (video.count + len(frames)) / self._fps > VIDEO_SECONDS
        ):
            video.close()
            place.next()
            video = None
        if video is None:
            # Few frames from key frame to key frame, as in LeRobot: training reads them in random order.
            video = VideoWriter(place.path, self._fps, quality=self._quality, keyframe_every=2, pad=False)
            self._videos[camera] = video
        start = video.count
        video.add(frames)
        values = {
            **place.place,
            "from_timestamp": start / self._fps,
            "to_timestamp": (start + len(frames) - 1) / self._fps,
        }
        return {f"videos/{CAMERA}{camera}/{key}": value for key, value in values.items()}

    def _write_episodes(self) -> None:
        """Write the rows of `meta/episodes` that were held back."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._pending:
            return
        names = self._pending[0]
        columns = {name: [_plain(row[name]) for row in self._pending] for name in names}
        types = {FINAL_STATE: pa.list_(pa.float32())}
        table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
        if self._meta is None:
            path = self._root / EPISODES_PATH
            path.parent.mkdir(parents=True)
            self._meta = pq.ParquetWriter(path, table.schema, write_page_checksum=True)
        self._meta.write_table(table)
        self._pending.clear()

    def _write_tasks(self) -> None:
        """Write `meta/tasks.parquet`: pandas' own form of a table with the instructions as its index."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        def column(name: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
            return {
                "name": name,
                "field_name": name,
                "pandas_type": pandas_type,
                "numpy_type": numpy_type,
                "metadata": None,
            }

        described = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
            "pandas_version": "2.0.0",
        }
        indices = pa.array(list(self._tasks.values()), pa.int64())
        table = pa.table({"task_index": indices, "task": pa.array(list(self._tasks), pa.string())})
        metadata = {b"pandas": json.dumps(described).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), self._root / TASKS_PATH)


def _plain(value: Any) -> Any:
    """Return a value that pyarrow takes in a list of mixed rows."""
    return value.tolist() if isinstance(value, np.ndarray) else value
