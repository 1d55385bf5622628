"""What a `VectorEnv` says, read the one way: its autoreset mode, its verdicts and its final views.

Gymnasium's own vector environments, ManiSkill's and hand-written ones say these things differently. Where two
readings are possible, these functions refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from torch import Tensor

from palaestra.envs.core import Observation, WorldSpec
from palaestra.envs.spaces import ActionSpace, Layout, batched, leaf

VERDICTS = ("success", "is_success")
"""The keys of `info` that may hold the task's verdict, the first found one counts."""


def autoreset_mode(venv: VectorEnv[Any, Any, Any], id: str) -> AutoresetMode:
    """Return how `venv` resets ended worlds.

    Raises:
        ValueError: Where its metadata does not say.
    """
    said = venv.metadata.get("autoreset_mode")
    for mode in AutoresetMode:
        if said in (mode, mode.value, mode.name):
            return mode
    names = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
    raise ValueError(
        f"{id}: metadata['autoreset_mode'] of {type(venv).__name__} is {said!r}, so nobody can tell which view "
        f"follows an episode's end. Set it to what the class does, one of {names} (of gymnasium.vector)."
    )


def world_spec(venv: VectorEnv[Any, Any, Any], layout: Layout, id: str, chunk: int, max_steps: int | None) -> WorldSpec:
    """Return what `venv` declares; `max_steps` counts where neither its spec nor `max_episode_steps` says it.

    Raises:
        TypeError: For an action space that is neither a `Box`, a `Discrete` nor a `Text`.
        ValueError: For texts in chunks of more than one.
    """
    if not isinstance(venv.single_action_space, (spaces.Box, spaces.Discrete, spaces.Text)):
        raise TypeError(f"{id}: the action space is {venv.single_action_space}, expected a Box, a Discrete or a Text.")
    if isinstance(venv.single_action_space, spaces.Text) and chunk > 1:
        raise ValueError(f"chunk is {chunk}, but {id} takes texts, one a step: expected 1.")
    known = venv.spec
    success = ""
    if known is not None and known.reward_threshold is not None:
        success = f"return so far >= {known.reward_threshold:g} (the reward_threshold of {known.id})"
    return WorldSpec(
        id=id,
        action=cast(ActionSpace, venv.single_action_space),
        state=layout.state,
        images=layout.images,
        text=layout.text is not None,
        chunk=chunk,
        max_steps=(known and known.max_episode_steps) or getattr(venv, "max_episode_steps", None) or max_steps,
        lockstep=True,
        seeded=autoreset_mode(venv, id) is AutoresetMode.DISABLED,
        success=success,
    )


def tensor(name: str, value: Any, dtype: torch.dtype, count: int, device: torch.device) -> Tensor:
    """Return one number a world as a tensor [count].

    Raises:
        ValueError: For another shape.
    """
    numbers = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    if numbers.shape != (count,):
        raise ValueError(f"{name} has shape {list(numbers.shape)}, expected one number a world, [{count}].")
    return numbers.to(device=device, dtype=dtype)


def verdict_key(info: Mapping[str, Any]) -> str | None:
    """Return the key under which an info holds the task's verdict, None where it holds none."""
    return next((key for key in VERDICTS if info.get(key) is not None), None)


def verdict(info: Mapping[str, Any], count: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Return the task's verdict and for which worlds there is one (bool [count] both), None where there is none."""
    key = verdict_key(info)
    if key is None:
        return None
    value = info[key]
    if not isinstance(value, Tensor):
        value = np.asarray(value).astype(np.bool_)  # an object array holds None where a world said nothing
    known = info.get(f"_{key}")
    said = torch.ones(count, dtype=torch.bool, device=device)
    if known is not None:
        said = tensor(f"info['_{key}']", known, torch.bool, count, device)
    return tensor(f"info[{key!r}]", value, torch.bool, count, device), said


def step_verdict(info: Mapping[str, Any], done: Tensor, otherwise: Tensor, last: Mapping[str, Any] | None) -> Tensor:
    """Return the task's verdict on each world's view before any reset, bool [B].

    Args:
        info: What `step` returned; of reset worlds it may already speak of the next episode.
        done: Which worlds' episodes ended in this step, bool [B].
        otherwise: The verdict on worlds of which no info speaks, bool [B].
        last: `info["final_info"]`, where worlds are reset in the same step.
    """
    result, now = otherwise, verdict(info, len(done), done.device)
    final = None if last is None else verdict(last, len(done), done.device)
    if final is not None:  # ManiSkill puts all worlds' infos there, ended or not
        result = torch.where(final[1], final[0], result)
    if now is not None:
        heard = now[1] if last is None else now[1] & ~done
        result = torch.where(heard, now[0], result)
    return result


def final_views(
    info: Mapping[str, Any], rows: Tensor, layout: Layout, space: gymnasium.Space[Any], id: str
) -> Observation:
    """Return the last views of the rows that ended ([N] int64), from the info of a same-step reset.

    Raises:
        ValueError: Where the info lacks them.
    """
    value = info.get("final_obs")
    if value is None:
        value = info.get("final_observation")
    if value is None:
        raise ValueError(
            f"{id}: autoreset mode is SAME_STEP and rows {rows.tolist()} ended, but the info holds neither "
            f"'final_obs' nor 'final_observation'; it holds {sorted(map(str, info))}. Put the views before the "
            "reset there, or use AutoresetMode.DISABLED and let Palaestra reset."
        )
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        picked = [value[row] for row in rows.tolist()]
        missing = [row for row, view in zip(rows.tolist(), picked, strict=True) if view is None]
        if missing:
            raise ValueError(f"{id}: rows {missing} ended, but their entry of info['final_obs'] is None.")
        stacked = cast(Any, create_empty_array(space, len(picked)))
        return batched(layout, concatenate(space, picked, stacked))
    return batched(layout, value)[rows]


def first_leaf(observation: Any) -> Any:
    """Return the first array or tensor of a vectorised observation."""
    while isinstance(observation, Mapping):
        observation = next(iter(observation.values()))
    return observation


def observed(observation: Any, layout: Layout, count: int, id: str) -> Observation:
    """Return a copy of what B worlds show (they may go on to use their arrays).

    Raises:
        ValueError: For a shape that the observation space does not declare, or pictures that are not of uint8.
    """
    for entry in (*layout.of("state"), *layout.of("image")):
        part = leaf(observation, entry)
        declared, kind = (count, *entry.shape), entry.dtype if entry.kind == "image" else ""
        if tuple(part.shape) != declared or not str(part.dtype).endswith(kind):
            raise ValueError(
                f"{id}: observation {entry.key!r} of {count} worlds has shape {tuple(part.shape)} and dtype "
                f"{part.dtype}, but the space declares {declared} and {entry.dtype}."
            )
    return batched(layout, observation).map(torch.clone)


def finite(view: Observation) -> Tensor:
    """Return which rows' states hold finite numbers alone, [N] bool (pictures always do)."""
    if view.state is not None:
        return torch.isfinite(view.state).all(1)
    device = next((pictures.device for pictures in view.images.values()), None)
    return torch.ones(len(view), dtype=torch.bool, device=device)


def nonfinite(
    view: Observation, row: int, layout: Layout, reward: Tensor | None = None
) -> tuple[Literal["observation", "reward"], str]:
    """Return at which boundary a broken row's numbers are not finite, and the line that says so."""
    if reward is not None and not bool(torch.isfinite(reward[row])):
        return "reward", f"reward is {reward[row].item()}, expected a finite number."
    assert view.state is not None
    index = int((~torch.isfinite(view.state[row])).nonzero()[0])
    value = view.state[row, index].item()
    for entry in layout.of("state"):
        if index < entry.size:
            break
        index -= entry.size
    return "observation", f"observation {entry.key!r} holds {value} at index {index}: every value must be finite."
