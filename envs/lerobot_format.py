"""The names and columns of a LeRobotDataset v3.0.

The layout is LeRobot's own (huggingface/lerobot, `src/lerobot/datasets`, 0.4.4): `meta/info.json`,
`meta/stats.json`, `meta/tasks.parquet`, `meta/episodes/`, `data/` and `videos/<camera>/` in numbered files.

A LeRobot row is a view and the action taken there, so an episode of T actions has T rows and its last view
has no row. We keep it where LeRobot's reader does not look: its state in the column `palaestra/final_state` of
`meta/episodes`, its pictures as one frame more, after the episode's T in the video. `palaestra/seed` is
the seed of the reset.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

from palaestra.envs.episode import Episode

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
TASKS_PATH = "meta/tasks.parquet"
FINAL_STATE = "palaestra/final_state"
SEED = "palaestra/seed"
CAMERA = "observation.images."
FILES_A_CHUNK = 1000


def check_installed() -> None:
    """Raise ImportError, with the command that helps, where a package is missing that the format needs."""
    missing = [name for name in ("pyarrow", "av") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"LeRobotDatasets are read and written with {' and '.join(missing)}, not installed here: "
            "pip install 'palaestra[lerobot]'."
        )


def describe_features(
    episode: Episode, fps: int, state_names: Sequence[str] | None, action_names: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Return info.json's `features`: every column's type, shape and names."""

    def vector(field: str, width: int, names: Sequence[str] | None) -> dict[str, Any]:
        names = [f"{field}_{i}" for i in range(width)] if names is None else list(names)
        if len(names) != width:
            raise ValueError(f"{field}_names has {len(names)} names, but {field} is {width} wide: {names}.")
        return {"dtype": "float32", "shape": [width], "names": names}

    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    features: dict[str, dict[str, Any]] = {}
    if episode.state is not None:
        features["observation.state"] = vector("state", episode.state.shape[1], state_names)
    elif state_names is not None:
        raise ValueError(f"state_names = {list(state_names)}, but the episodes have no state.")
    for camera, picture in episode.images.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", camera):
            raise ValueError(
                f"Camera {camera!r} names a folder: use letters, digits, '_', '.' and '-', a letter or digit first."
            )
        height, width, channels = picture.shape[1:]
        if channels != 3:
            raise ValueError(f"Camera {camera!r} has {channels} channels; a video holds 3 (RGB).")
        features[CAMERA + camera] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv444p" if height % 2 or width % 2 else "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
    features["action"] = vector("action", episode.action.shape[1], action_names)
    features["next.reward"] = scalar("float32")
    features["next.done"] = scalar("bool")
    features["next.success"] = scalar("bool")
    features["timestamp"] = scalar("float32")
    for index in ("frame_index", "episode_index", "index", "task_index"):
        features[index] = scalar("int64")
    return features
