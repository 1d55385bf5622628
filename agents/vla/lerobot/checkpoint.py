"""A folder that LeRobot saved as a flow policy, and back: `config.json`, `model.safetensors` and both processors.

Reading is strict: every tensor must be there, have its shape, and be known; statistics must fit. LeRobot's own reader
of π0 returns an untrained model where tensors do not fit.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.vla.adapters import merged
from palaestra.agents.vla.lerobot import pi0, smolvla
from palaestra.agents.vla.lerobot.format import (
    ACTION,
    CAMERA,
    CONFIG,
    EMPTY,
    STATE,
    WEIGHTS,
    FormatError,
    Kind,
    Settings,
    read_json,
    read_settings,
)
from palaestra.agents.vla.lerobot.network import LeRobotNetwork, Source
from palaestra.agents.vla.lerobot.processors import BEFORE, Processors, normaliser, read_processors, write_processors
from palaestra.agents.vla.lerobot.words import Words, open_tokenizer
from palaestra.envs.core import WorldSpec

SHOWN = 8
"""How many tensors of a kind an error names before it only counts them."""
OURS = ("noise.", "normaliser.")
"""Parts of a network that LeRobot's file does not hold: Flow-Noise's head, and the statistics of the processors."""
_BUILT: dict[Kind, ModuleType] = {"pi0": pi0, "pi05": pi0, "smolvla": smolvla}


@dataclass(frozen=True)
class Folder:
    """What a folder says, before its weights are read."""

    path: Path
    settings: Settings
    processors: Processors
    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors in `model.safetensors`, by LeRobot's names."""


def read_policy(
    path: Path,
    *,
    tokenizer: Path | None = None,
    masked: Collection[str] = (),
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    chunk: int | None = None,
    steps: int | None = None,
    dtype: torch.dtype = torch.float32,
    noise_bounds: tuple[float, float] = (0.08, 0.16),
    rank: int = 0,
) -> FlowPolicy:
    """Return the policy that LeRobot saved in a folder, its backbone frozen.

    Args:
        path: The folder; `pretrained_model` of one of LeRobot's runs.
        tokenizer: A folder with the tokenizer; by default `path` itself, or what the processors name.
        masked: Cameras of the policy that do not exist here.
        low: [A], the least that an action may be; by default there are no bounds.
        high: [A].
        chunk: How many actions are played; by default LeRobot's n_action_steps.
        steps: Denoising steps; by default the policy's own.
        dtype: Of backbone and expert.
        noise_bounds: Flow-Noise: smallest and largest standard deviation of a transition.
        rank: Of fresh adapters of the language model; 0 for none.

    Raises:
        FormatError: The folder holds another kind of policy, or one that does not fit; what is wrong is named.
    """
    folder = open_folder(path)
    settings, processors = folder.settings, folder.processors
    words = Words(open_tokenizer(tokenizer or path, processors.tokenizer), processors.longest)
    source = Source(settings, processors, words, _unused(folder), frozenset(masked))
    network = _network(folder, source, noise_bounds=noise_bounds)
    _load(network, folder, dtype)
    if rank:
        network.adapt(rank)
    width = settings.action
    bounds = np.full(width, -np.inf) if low is None else low, np.full(width, np.inf) if high is None else high
    scale = normaliser(processors, settings, ACTION, path)
    return FlowPolicy(network, *bounds, chunk or settings["n_action_steps"], steps or settings.steps, scale)


def policy_spec(path: Path) -> WorldSpec:
    """Return the worlds that a policy in a folder was trained for, as far as it says: its actions have no bounds.

    Raises:
        FormatError: see `read_policy`.
    """
    settings = read_settings(path)
    processors = read_processors(path, settings)
    box = spaces.Box(-np.inf, np.inf, (settings.action,), np.float32)
    cameras = {processors.shown_as(name): shape for name, shape in settings.cameras.items()}
    chunk = int(settings["n_action_steps"])
    return WorldSpec(path.name, box, state=settings.state, images=cameras, text=True, chunk=chunk)


def is_policy(path: Path) -> bool:
    """Return whether a folder holds a policy of LeRobot, of whatever type, and not a model of `transformers`."""
    return (path / CONFIG).is_file() and "type" in read_json(path / CONFIG)


def policy_for(
    spec: WorldSpec,
    path: Path,
    steps: int | None = None,
    noise_bounds: tuple[float, float] = (0.08, 0.16),
    rank: int = 0,
) -> FlowPolicy:
    """Return the policy in a folder for worlds that show what it sees, within their bounds of actions.

    Args:
        spec: The worlds.
        path: The folder.
        steps: Denoising steps; by default the policy's own.
        noise_bounds: Flow-Noise: smallest and largest standard deviation of a transition.
        rank: Of fresh adapters of the language model; 0 for none.

    Raises:
        FormatError: see `read_policy`; or the worlds show or take something else.
    """
    made = policy_spec(path)
    for what, needs, has in (
        ("sees cameras", dict(made.images), dict(spec.images)),
        ("reads proprioception of width", made.state, spec.state),
        ("acts with numbers", made.action.shape, spec.action.shape),
        ("follows instructions:", made.text, spec.text),
    ):
        if needs != has:
            raise FormatError(
                f"the policy in {path} {what} {needs}; {spec.id} has {has}. Choose options of the world that agree. A "
                f"camera of another name is given its own by rename_map in {BEFORE}.json; one that does not exist is "
                f"called {CAMERA}{EMPTY}0 in {CONFIG}, and masked."
            )
    box = spec.action
    assert isinstance(box, spaces.Box)
    return read_policy(
        path, low=box.low, high=box.high, chunk=spec.chunk, steps=steps, noise_bounds=noise_bounds, rank=rank
    )


def write_policy(policy: FlowPolicy, path: Path) -> Path:
    """Write a policy as LeRobot would, with its tokenizer beside it; the statistics are those of the policy.

    Adapters are merged into the weights. Flow-Noise's head is not written: deployed, a policy follows the ODE.

    Returns:
        `path`.

    Raises:
        ValueError: The policy is of another kind.
        FileExistsError: The folder exists and is not empty.
    """
    import tempfile

    from safetensors.torch import save_file

    network = policy.network
    if not isinstance(network, LeRobotNetwork):
        raise ValueError(f"a {type(network).__name__} has no place in LeRobot's format: π0, π0.5 and SmolVLA have.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists; choose a new folder, or remove it.")
    source = network.source
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
        made = Path(name) / "policy"
        made.mkdir()
        source.words.tokenizer.save_pretrained(made)
        tensors = {**lerobot_tensors(network), **source.unused}
        for other, kept in _BUILT[source.settings.kind].TIED.items():
            tensors[other] = tensors.pop(kept)  # as LeRobot saves it
        owned = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(owned, made / WEIGHTS, metadata={"format": "pt"})
        document = {**source.settings.document, "type": source.settings.kind}
        (made / CONFIG).write_text(json.dumps(document, indent=4))
        fitted = {
            f"{feature}.{key}": value
            for feature, part in ((STATE, network.normaliser), (ACTION, policy.scale))
            for key, value in part.state_dict().items()
        }
        write_processors(made, source.processors, fitted)
        made.replace(path)
    return path


def open_folder(path: Path) -> Folder:
    """Read all of a folder but its weights' values, and check that they fit together.

    Raises:
        FormatError: They do not.
    """
    settings = read_settings(path)
    processors = read_processors(path, settings)
    folder = Folder(path, settings, processors, _shapes(path / WEIGHTS))
    with torch.device("meta"):
        words = Words(None, processors.longest)
        network = _network(folder, Source(settings, processors, words, {}))
    expected = {name: tuple(value.shape) for name, value in lerobot_tensors(network).items()}
    if wrong := _differences(expected, _renamed(folder, folder.shapes), _BUILT[settings.kind].UNUSED):
        raise FormatError(f"{path / WEIGHTS} is no {settings.kind} that is built here:\n{wrong}{_advice(folder)}")
    return folder


def lerobot_tensors(network: LeRobotNetwork) -> dict[str, Tensor]:
    """Return the weights of a network that LeRobot's file holds, by LeRobot's names, adapters merged into them."""
    names: Mapping[str, str] = _BUILT[network.settings.kind].NAMES
    return {
        next(theirs + name.removeprefix(own) for own, theirs in names.items() if name.startswith(own)): weight
        for name, weight in merged(network)
        if not name.startswith(OURS)
    }


def _network(folder: Folder, source: Source, **options: Any) -> LeRobotNetwork:
    """Return the network that a folder's tensors are of, with fresh weights."""
    kind = folder.settings.kind
    try:
        from transformers.initialization import no_init_weights

        statistics = normaliser(folder.processors, folder.settings, STATE, folder.path)
        with no_init_weights():
            network: LeRobotNetwork = _BUILT[kind].build(_renamed(folder, folder.shapes), source, statistics, **options)
    except KeyError as error:
        name = error.args[0]
        raise FormatError(
            f"{folder.path / WEIGHTS} lacks {name}, which tells a size of a {kind}.{_advice(folder)}"
        ) from error
    return network


def _load(network: LeRobotNetwork, folder: Folder, dtype: torch.dtype) -> None:
    """Fill a network with a folder's weights."""
    from safetensors.torch import load_file

    found = _renamed(folder, load_file(folder.path / WEIGHTS))
    bad = []
    network.backbone.to(dtype)
    network.expert.to(dtype)
    with torch.no_grad():
        for name, weight in lerobot_tensors(network).items():
            weight.copy_(found[name])
            if not bool(weight.isfinite().all()):
                bad.append(name)
    if bad:
        raise FormatError(f"{folder.path / WEIGHTS} holds weights that are not finite, such as {bad[0]}.")


def _unused(folder: Folder) -> dict[str, Tensor]:
    """Return the tensors that LeRobot's file holds and no policy reads."""
    from safetensors import safe_open

    names = [name for name in _BUILT[folder.settings.kind].UNUSED if name in folder.shapes]
    with safe_open(folder.path / WEIGHTS, "pt") as file:
        return {name: file.get_tensor(name) for name in names}


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a file's tensors, by name."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FormatError(f"{path.parent} has no {path.name}: give the folder that save_pretrained wrote.")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path} cannot be read: {error}; was the file cut off?") from error


def _renamed(folder: Folder, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors (or shapes) with one name for those that have two."""
    found = dict(tensors)
    for other, kept in _BUILT[folder.settings.kind].TIED.items():
        if other in found:
            value = found.pop(other)
            if isinstance(value, Tensor) and kept in found and not torch.equal(found[kept], value):
                raise FormatError(f"{folder.path / WEIGHTS}: {other} and {kept} are one tensor in LeRobot, but differ.")
            found.setdefault(kept, value)
    return found


def _differences(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], unused: Collection[str]
) -> str:
    """Return what is missing, extra and of another shape, a line each; empty where nothing is."""
    both = expected.keys() & found.keys()
    lines = {
        "missing": [f"{name} {list(expected[name])}" for name in sorted(expected.keys() - both)],
        "extra": [f"{name} {list(found[name])}" for name in sorted(found.keys() - both - set(unused))],
        "reshaped": [
            f"{name} {list(found[name])} instead of {list(expected[name])}"
            for name in sorted(both)
            if expected[name] != found[name]
        ],
    }
    shown = [f"  {kind} {line}\n" for kind, names in lines.items() for line in names[:SHOWN]]
    more = [f"  … and {len(names) - SHOWN} more {kind}\n" for kind, names in lines.items() if len(names) > SHOWN]
    return "".join([*shown, *more])


def _advice(folder: Folder) -> str:
    """Say what to do about tensors that do not fit."""
    names = folder.shapes
    if any("lora_" in name for name in names):
        return " It holds adapters: merge them into the weights first (peft's merge_and_unload)."
    if any(name.startswith(("normalize_", "unnormalize_")) for name in names):
        return (
            " It was written before LeRobot 0.4, with its statistics among the weights: run "
            "lerobot.processor.migrate_policy_normalization on it."
        )
    if names and not any(name.startswith("model.") for name in names):
        return " Its names lack LeRobot's 'model.': openpi wrote it; save it once more with LeRobot's save_pretrained."
    return " Save it once more with LeRobot 0.4.4, or take the folder that it was trained from."
