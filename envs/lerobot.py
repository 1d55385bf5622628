"""LeRobotDataset folders, read as episodes and written (`lerobot_write.py`), without the lerobot package.

Read are v3.0 (many episodes a file) and v2.1 (a file an episode). A dataset that others wrote has no view
after its last action, so that action is left out: T rows become an episode of T - 1 actions. What
it does not declare reads as 0 (reward), False (success) and -1 (seed).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from palaestra.envs.episode import Episode
from palaestra.envs.lerobot_index import RESTORE, DatasetError, Place, open_index, read_table
from palaestra.envs.lerobot_write import write

__all__ = ["Dataset", "DatasetError", "read", "write"]

# How far a timestamp may be from frame / fps, in seconds: LeRobot's own tolerance.
TOLERANCE = 1e-4


def read(path: str | Path) -> Dataset:
    """Open a LeRobotDataset v3.0 or v2.1 as a sequence of episodes, each loaded when asked for.

    What the metadata and the files say of each other is checked here; values are checked as episodes load.

    Raises:
        FileNotFoundError: A file is missing.
        DatasetError: A file is truncated or altered, lacks a field, or holds a value that is not finite.
    """
    return Dataset(path)


class Dataset(Sequence[Episode]):
    """A LeRobotDataset as a sequence of episodes. At most one data file is held in memory."""

    def __init__(self, path: str | Path) -> None:
        """Open a dataset; see `read`."""
        self._index = open_index(Path(path))
        self.fps = self._index.fps
        """Actions a second."""
        self.robot = self._index.robot
        """LeRobot's `robot_type`."""
        self.cameras = tuple(self._index.cameras)
        """Their names."""
        self._loaded: tuple[Path, Any] | None = None

    def __len__(self) -> int:
        return len(self._index.places)

    @overload
    def __getitem__(self, number: int) -> Episode: ...

    @overload
    def __getitem__(self, number: slice) -> list[Episode]: ...

    def __getitem__(self, number: int | slice) -> Episode | list[Episode]:
        """Load one episode, or a list of some.

        Raises:
            DatasetError: Its rows or frames are not what the metadata says, or not finite.
        """
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        return self._load(range(len(self))[number])

    def _load(self, number: int) -> Episode:
        """Return one episode."""
        place = self._index.places[number]
        rows = self._rows(place)
        self._check_indices(number, place, rows)
        steps = place.length if place.whole else place.length - 1
        if steps < 1:
            raise DatasetError(f"{place.data}, episode {number} has one row: an action and no view after it.")
        features = self._index.features
        task = rows["task_index"]
        if (task != task[0]).any() or task[0] not in self._index.tasks:
            raise DatasetError(
                f"{place.data}, episode {number}: task_index is {np.unique(task).tolist()}; expected one "
                f"of {sorted(self._index.tasks)} for the whole episode."
            )
        success = rows.get("next.success", np.zeros(place.length, bool))
        state = rows.get("observation.state")
        try:
            return Episode(
                action=torch.from_numpy(rows["action"][:steps]),
                reward=torch.from_numpy(rows.get("next.reward", np.zeros(place.length, np.float32))[:steps]),
                success=bool(success[-1]),
                seed=place.seed,
                text=self._index.tasks[int(task[0])],
                state=None if state is None else torch.from_numpy(self._views(number, place, state)),
                images={
                    camera: torch.from_numpy(_frames(*place.videos[name], steps + 1, self.fps, features[name]["shape"]))
                    for camera, name in self._index.cameras.items()
                },
            )
        except DatasetError:
            raise
        except ValueError as error:
            raise DatasetError(f"{place.data}, episode {number}: {error} {RESTORE}") from error

    def _views(self, number: int, place: Place, state: np.ndarray) -> np.ndarray:
        """Return the states of all views, the last one included, [T + 1, S]."""
        if not place.whole:
            return state
        final = np.asarray(place.final_state or [], np.float32)
        if final.shape != state.shape[1:]:
            raise DatasetError(
                f"meta/episodes, episode {number}: the final state has {final.size} numbers, "
                f"observation.state {state.shape[1]}. {RESTORE}"
            )
        return np.concatenate([state, final[None]])

    def _rows(self, place: Place) -> dict[str, np.ndarray]:
        """Return one episode's rows, column by column: [T] or [T, width]."""
        types: dict[str, Any] = {
            "observation.state": np.float32,
            "action": np.float32,
            "next.reward": np.float32,
            "next.success": np.bool_,
            "timestamp": np.float32,
            "frame_index": np.int64,
            "episode_index": np.int64,
            "index": np.int64,
            "task_index": np.int64,
        }
        always = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
        names = [name for name in types if name in always or name in self._index.features]
        if self._loaded is None or self._loaded[0] != place.data:
            self._loaded = (place.data, read_table(place.data, names))
        table = self._loaded[1]
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise DatasetError(f"{place.data} lacks the column {missing[0]!r}. {RESTORE}")
        part = table.slice(place.offset, place.length)
        vectors = ("observation.state", "action")
        widths = {name: self._index.features[name]["shape"][0] for name in vectors if name in names}
        return {
            name: _numbers(part[name], types[name], widths.get(name), f"{place.data}, column {name!r}")
            for name in names
        }

    def _check_indices(self, number: int, place: Place, rows: dict[str, np.ndarray]) -> None:
        """Raise DatasetError where rows belong to another episode or stand in another order."""
        frame = np.arange(place.length)
        for name, expected in (
            ("episode_index", np.full(place.length, number)),
            ("frame_index", frame),
            ("index", frame + place.start),
        ):
            wrong = np.flatnonzero(rows[name] != expected)
            if wrong.size:
                at = int(wrong[0])
                raise DatasetError(
                    f"{place.data}, episode {number}, row {at}: {name} is {rows[name][at]}, expected "
                    f"{expected[at]}. {RESTORE}"
                )
        time = frame / self.fps
        off = np.flatnonzero(~(np.abs(rows["timestamp"] - time) <= TOLERANCE + 1e-6 * time))
        if off.size:
            at = int(off[0])
            raise DatasetError(
                f"{place.data}, episode {number}, row {at}: timestamp is {rows['timestamp'][at]}, expected "
                f"{time[at]} at {self.fps} a second. {RESTORE}"
            )


def _numbers(column: Any, dtype: Any, width: int | None, where: str) -> np.ndarray:
    """Return a column as [T] (width None) or [T, width] numbers."""
    import pyarrow as pa

    array = column.combine_chunks()
    flat = array.flatten() if pa.types.is_nested(array.type) else array
    if array.null_count or flat.null_count:
        raise DatasetError(f"{where} holds nulls. {RESTORE}")
    shape = (len(array),) if width is None else (len(array), width)
    if pa.types.is_nested(flat.type) or len(flat) != int(np.prod(shape)):
        raise DatasetError(f"{where} is {array.type} with {len(flat)} numbers; expected {list(shape)}. {RESTORE}")
    values: np.ndarray = flat.to_numpy(zero_copy_only=False)
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        raise DatasetError(f"{where} is {array.type}; expected {np.dtype(dtype)}. {RESTORE}")
    return values.astype(dtype).reshape(shape)


def _frames(path: Path, start: float, count: int, fps: int, shape: Sequence[int]) -> np.ndarray:
    """Return `count` frames of a video from a time on, [count, H, W, 3] uint8."""
    import av

    first = round(start * fps)
    frames = np.empty((count, *shape), np.uint8)
    missing = set(range(count))
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(int(start * av.time_base))
            for frame in container.decode(stream):
                at = round(frame.time * fps) - first
                if at in missing:
                    picture = frame.to_ndarray(format="rgb24")
                    if picture.shape != tuple(shape):
                        raise DatasetError(
                            f"{path} shows frames of {picture.shape}, but info.json says {tuple(shape)}. {RESTORE}"
                        )
                    frames[at] = picture
                    missing.discard(at)
                if at >= count - 1:
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise DatasetError(f"{path} cannot be read ({error}). {RESTORE}") from error
    if missing:
        raise DatasetError(f"{path} lacks the frame at {(first + min(missing)) / fps:.3f} s. {RESTORE}")
    return frames
