"""Read demonstrations in ManiSkill's own format: `trajectory.h5` and the JSON file of the same name beside it.

That is what ManiSkill's `RecordEpisode` wrapper, its motion planners and its published demonstrations write. The
HDF5 file has a group `traj_<id>` an episode; the JSON file says of which task, in which control mode, and from
which seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.envs.episode import Episode
from palaestra.envs.manipulation.maniskill import TASKS, two_bytes


@dataclass(frozen=True, slots=True)
class Recording:
    """The episodes of one trajectory file."""

    task: str
    """ManiSkill's id of the task."""
    control: str
    """The control mode that the actions are meant for."""
    episodes: tuple[Episode, ...]
    """In the order of the JSON file."""


def read(path: str | Path, *, only_successes: bool = False, limit: int | None = None) -> Recording:
    """Return the episodes of a trajectory file.

    Recorded with state observations, an episode has a state; with pictures, also `images` by camera, depth as
    `<camera>_depth` (see `maniskill.depth_metres`). Without recorded rewards, the reward is 1 where the recording
    says success, else 0.

    Args:
        path: The `.h5` file.
        only_successes: Leave out episodes that do not end in success.
        limit: Read at most so many episodes.

    Raises:
        FileNotFoundError: Where either file is missing.
        ValueError: Where a file is broken, a field is missing or has another length than its neighbours, with
            the file, the field and what to do.
    """
    import h5py

    path = Path(path)
    task, control, listed = _read_json(path)
    episodes: list[Episode] = []
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is cut short or no HDF5 file ({error}). Copy or record it again.") from error
    with file:
        for entry in listed:
            if limit is not None and len(episodes) >= limit:
                break
            name = f"traj_{entry['episode_id']}"
            try:
                episode = _episode(file.get(name), entry, TASKS.get(task, ""))
            except (ValueError, OSError) as error:
                raise ValueError(f"{path}, {name}: {error}") from error
            if episode.success or not only_successes:
                episodes.append(episode)
    _check_same_widths(path, episodes)
    return Recording(task, control, tuple(episodes))


def _read_json(path: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """Return task, control mode and episode entries of the JSON file beside a trajectory file."""
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.exists():
            raise FileNotFoundError(
                f"{file} does not exist. A recording is two files in one folder: {path.name} with the numbers and "
                f"{beside.name} with the task, control mode and seeds."
            )
    try:
        content = json.loads(beside.read_text())
        task = content["env_info"]["env_id"]
        entries = content["episodes"]
        modes = {entry["control_mode"] for entry in entries}
        [entry["episode_id"] for entry in entries]
    except json.JSONDecodeError as error:
        raise ValueError(f"{beside} is cut short or no JSON ({error}). Copy or record it again.") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{beside} lacks the field {error}; expected env_info.env_id, and episodes with episode_id and "
            "control_mode, as ManiSkill's RecordEpisode writes them."
        ) from error
    if not entries:
        raise ValueError(f"{beside} lists no episodes. Close the recording world, so that it writes its last one.")
    if len(modes) > 1:
        raise ValueError(
            f"{beside} mixes the control modes {', '.join(sorted(modes))}, whose actions mean different things. "
            "Convert them to one with `python -m mani_skill.trajectory.replay_trajectory -c <mode>`."
        )
    return str(task), str(modes.pop()), entries


def _episode(group: Any, entry: Mapping[str, Any], text: str) -> Episode:
    """Return one episode.

    Raises:
        ValueError: Where something is missing or does not fit.
    """
    if group is None:
        raise ValueError("the JSON file lists this episode, but the HDF5 file lacks it. Copy both files again.")
    action = _numbers(group, "actions")
    steps = len(action)
    state, images = _observations(group)
    wins = _numbers(group, "success")[:, 0] if "success" in group else None
    reward = _numbers(group, "rewards")[:, 0] if "rewards" in group else wins
    if reward is None or (wins is None and "success" not in entry):
        raise ValueError(
            "it does not say how it went: it needs 'success', or 'rewards' with 'success' in the JSON file. "
            "Record it with RecordEpisode(..., record_reward=True)."
        )
    if len(reward) != steps:
        raise ValueError(f"its rewards have {len(reward)} entries for {steps} actions. Copy or record it again.")
    for field, part in {"obs": state, **images}.items():
        if len(part) != steps + 1:
            raise ValueError(f"'{field}' has {len(part)} entries, expected one more than the {steps} actions.")
    return Episode(
        action=action,
        reward=reward,
        success=bool(wins[-1]) if wins is not None and steps else bool(entry["success"]),
        seed=int(entry.get("episode_seed", -1)),
        text=text,
        state=state,
        images=images,
    )


def _observations(group: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the states [T + 1, S] and the pictures by camera of one episode."""
    import h5py

    obs = group.get("obs")
    if obs is None or (isinstance(obs, h5py.Group) and not len(obs)):
        raise ValueError(
            "it has no observations ('obs'), as ManiSkill's published demonstrations do. Make them with "
            "`python -m mani_skill.trajectory.replay_trajectory --traj-path <file> -o state -c <control mode> "
            "--save-traj`."
        )
    if isinstance(obs, h5py.Dataset):
        return _numbers(group, "obs"), {}
    parts = [_numbers(obs, key) for key in ("state", "agent", "extra") if key in obs and _holds_numbers(obs[key])]
    if not parts:
        raise ValueError(f"'obs' has neither 'state' nor 'agent'; it has {', '.join(obs)}.")
    images = {}
    for camera, textures in obs.get("sensor_data", {}).items():
        for texture, pictures in textures.items():
            if texture == "rgb":
                images[camera] = torch.from_numpy(pictures[()])
            elif texture == "depth":
                images[f"{camera}_depth"] = two_bytes(torch.from_numpy(pictures[()].astype(np.int16)))
    return torch.cat(parts, 1), images


def _holds_numbers(node: Any) -> bool:
    return not hasattr(node, "keys") or any(_holds_numbers(node[key]) for key in node)


def _numbers(group: Any, field: str) -> Tensor:
    """Return a data set, or all of a group in its order side by side, as [N, width] float32."""
    if field not in group:
        raise ValueError(f"it lacks '{field}'; it has {', '.join(group)}. Copy or record it again.")
    node = group[field]
    if hasattr(node, "keys"):
        return torch.cat([_numbers(node, key) for key in node if _holds_numbers(node[key])], 1)
    values = torch.from_numpy(np.asarray(node[()], np.float32))
    return values[:, None] if values.dim() == 1 else values.flatten(1)


def _check_same_widths(path: Path, episodes: list[Episode]) -> None:
    widths = {(e.action.shape[1], None if e.state is None else e.state.shape[1]) for e in episodes}
    if len(widths) > 1:
        raise ValueError(f"{path} mixes episodes of different widths (action, state): {sorted(widths)}. Split it.")
