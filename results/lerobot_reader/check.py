"""Show that LeRobot's own reader opens our datasets, and that we open LeRobot's.

lerobot pins other versions of torch, so it lives in an environment of its own:

    python3.11 -m venv lerobot-env && lerobot-env/bin/pip install lerobot==0.4.4
    .venv/bin/python results/lerobot_reader/check.py write both
    HF_HUB_OFFLINE=1 lerobot-env/bin/python results/lerobot_reader/check.py lerobot both
    .venv/bin/python results/lerobot_reader/check.py read both

The first writes a dataset with our writer, the second reads it with LeRobot's reader and writes the same episodes with
LeRobot's writer, the third reads those with our reader. Each prints a JSON object; result.json holds the
three. The episodes are made from a formula, so that both environments know every number without a file between them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FPS = 20
LENGTHS = (12, 7, 31)
CAMERA = "observation.images.base"
TASKS = ("push the cube", "pick up the cube", "push the cube")


def numbers(episode: int) -> dict[str, np.ndarray]:
    """Return one episode's arrays: T actions and rewards, T + 1 states and pictures."""
    steps = LENGTHS[episode]
    random = np.random.default_rng(episode)
    at = [np.arange(n) for n in (steps + 1, 48, 64, 3)]
    picture = 128 + 60 * np.sin(at[0] / 5 + episode)[:, None, None, None] * np.cos(at[1] / 20)[:, None, None]
    picture = picture + at[2][:, None] / 2 + 10 * at[3]
    return {
        "state": random.normal(size=(steps + 1, 9)).astype(np.float32),
        "action": random.normal(size=(steps, 4)).astype(np.float32),
        "reward": random.random(steps).astype(np.float32),
        "picture": picture.clip(0, 255).astype(np.uint8),
    }


def decibels(left: np.ndarray, right: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two pictures on a scale of 0 to 255."""
    error = float(((left.astype(np.float64) - right.astype(np.float64)) ** 2).mean())
    return round(10 * np.log10(255**2 / error), 1)


def write(folder: Path) -> dict[str, Any]:
    """Write the episodes with our writer."""
    import torch

    from palaestra.envs.episode import Episode
    from palaestra.envs.lerobot import write as write_dataset

    def episode(i: int) -> Episode:
        arrays = {name: torch.from_numpy(values) for name, values in numbers(i).items()}
        images = {"base": arrays.pop("picture")}
        return Episode(**arrays, images=images, success=i != 1, seed=i, text=TASKS[i])

    path = write_dataset(folder / "ours", map(episode, range(len(LENGTHS))), fps=FPS, robot="panda")
    return {"written": str(path.name), "episodes": len(LENGTHS), "frames": sum(LENGTHS)}


def lerobot(folder: Path) -> dict[str, Any]:
    """Read our dataset with LeRobot, and write the same episodes with LeRobot."""
    from importlib.metadata import version

    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("palaestra/ours", root=folder / "ours", delta_timestamps={"action": [0.0, 1 / FPS]})
    difference = dict.fromkeys(("observation.state", "action", "next.reward", "timestamp"), 0.0)
    worst, row = np.inf, 0
    for i, steps in enumerate(LENGTHS):
        arrays = numbers(i)
        for t in range(steps):
            item = data[row]
            following = min(t + 1, steps - 1)
            expected = {
                "observation.state": arrays["state"][t],
                "action": arrays["action"][[t, following]],
                "next.reward": arrays["reward"][t],
                "timestamp": np.float32(t / FPS),
            }
            for name, value in expected.items():
                gap = float(np.abs(item[name].numpy() - value).max())
                difference[name] = max(difference[name], gap)
            assert item["task"] == TASKS[i]
            assert (item["episode_index"], item["frame_index"], item["index"]) == (i, t, row)
            assert bool(item["next.done"]) == (t == steps - 1)
            assert bool(item["next.success"]) == (t == steps - 1 and i != 1)
            shown = (item[CAMERA].permute(1, 2, 0) * 255).numpy()
            worst = min(worst, decibels(shown, arrays["picture"][t]))
            row += 1
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)))
    seen = np.concatenate([numbers(i)["picture"][:-1] for i in range(len(LENGTHS))])
    theirs = _write_theirs(folder / "theirs", LeRobotDataset)
    return {
        "lerobot": version("lerobot"),
        "torch": version("torch"),
        "video_backend": data.video_backend,
        "codebase_version": data.meta.info["codebase_version"],
        "episodes": data.num_episodes,
        "frames": data.num_frames,
        "rows_compared": row,
        "max_abs_difference": difference,
        "worst_picture_psnr_db": worst,
        "shuffled_batch": {name: str(list(v.shape)) for name, v in batch.items() if hasattr(v, "shape")},
        "vector_stats_max_abs_difference_to_lerobots": {
            key: max(
                float(np.abs(data.meta.stats[name][key] - theirs.meta.stats[name][key]).max())
                for name in theirs.meta.stats
                if name != CAMERA
            )
            for key in ("min", "max", "mean", "std", "count")
        },
        # LeRobot 0.4.4 squares pictures as uint8, which overflows; ours is the pixels' own.
        "picture_std": {
            "pixels": [float(np.std(seen[..., c] / 255)) for c in range(3)],
            "ours": data.meta.stats[CAMERA]["std"].ravel().tolist(),
            "lerobots": theirs.meta.stats[CAMERA]["std"].ravel().tolist(),
        },
    }


def _write_theirs(path: Path, dataset: Any) -> Any:
    """Write the episodes with LeRobot's writer and return the dataset."""
    theirs = dataset.create(
        "palaestra/theirs",
        fps=FPS,
        root=path,
        robot_type="panda",
        vcodec="h264",
        features={
            "observation.state": {"dtype": "float32", "shape": (9,), "names": None},
            "action": {"dtype": "float32", "shape": (4,), "names": None},
            "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
            "next.success": {"dtype": "bool", "shape": (1,), "names": None},
            CAMERA: {
                "dtype": "video",
                "shape": (48, 64, 3),
                "names": ["height", "width", "channels"],
            },
        },
    )
    for i, steps in enumerate(LENGTHS):
        arrays = numbers(i)
        for t in range(steps):
            theirs.add_frame(
                {
                    "observation.state": arrays["state"][t],
                    "action": arrays["action"][t],
                    "next.reward": arrays["reward"][t : t + 1],
                    "next.success": np.array([t == steps - 1 and i != 1]),
                    CAMERA: arrays["picture"][t],
                    "task": TASKS[i],
                }
            )
        theirs.save_episode()
    theirs.finalize()
    return theirs


def read(folder: Path) -> dict[str, Any]:
    """Read LeRobot's dataset with our reader."""
    from palaestra.envs.lerobot import read as read_dataset

    data = read_dataset(folder / "theirs")
    difference = dict.fromkeys(("state", "action", "reward"), 0.0)
    worst = np.inf
    for i, episode in enumerate(data):
        arrays = numbers(i)
        assert (len(episode), episode.text, episode.success) == (LENGTHS[i] - 1, TASKS[i], i != 1)
        assert episode.state is not None
        for name, found in (
            ("state", episode.state),
            ("action", episode.action),
            ("reward", episode.reward),
        ):
            gap = float(np.abs(found.numpy() - arrays[name][: len(found)]).max())
            difference[name] = max(difference[name], gap)
        worst = min(worst, decibels(episode.images["base"].numpy(), arrays["picture"][:-1]))
    return {"episodes": len(data), "max_abs_difference": difference, "worst_picture_psnr_db": worst}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "lerobot", "read"):
        sys.exit(f"usage: {sys.argv[0]} write|lerobot|read FOLDER")
    step = {"write": write, "lerobot": lerobot, "read": read}[sys.argv[1]]
    print(json.dumps(step(Path(sys.argv[2])), indent=2))
