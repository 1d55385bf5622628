"""What a LeRobot policy's folder says of itself: `config.json`, as LeRobot 0.4.4 writes it, read strictly.

An entry that this version does not know, or a value that changes the network in a way that is not built here, is
refused by name: a policy that is read half right drives a robot all wrong.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["pi0", "pi05", "smolvla"]
"""LeRobot's names of the policies that are read."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"
CAMERA, STATE, ACTION = "observation.images.", "observation.state", "action"
EMPTY = "empty_camera_"
"""LeRobot's cameras that show nothing: declared to fill a policy's places, and masked."""

_BASE: dict[str, Any] = {
    "n_obs_steps": 1, "input_features": {}, "output_features": {}, "device": "cpu", "use_amp": False,
    "use_peft": False, "push_to_hub": True, "repo_id": None, "private": None, "tags": None, "license": None,
    "pretrained_path": None,
}  # fmt: skip
_TRAINING: dict[str, Any] = {
    "optimizer_betas": [0.9, 0.95], "optimizer_eps": 1e-8, "scheduler_warmup_steps": 1000,
    "scheduler_decay_steps": 30000, "scheduler_decay_lr": 2.5e-6, "rtc_config": None, "compile_model": False,
    "compile_mode": "max-autotune",
}  # fmt: skip
_FLOW: dict[str, Any] = {
    "chunk_size": 50, "n_action_steps": 50, "max_state_dim": 32, "max_action_dim": 32, "empty_cameras": 0,
    "min_period": 4e-3, "max_period": 4.0,
}  # fmt: skip
_MEAN_STD = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
_PI0: dict[str, Any] = _BASE | _FLOW | _TRAINING | {
    "paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m", "dtype": "float32",
    "num_inference_steps": 10, "time_sampling_beta_alpha": 1.5, "time_sampling_beta_beta": 1.0,
    "time_sampling_scale": 0.999, "time_sampling_offset": 0.001, "image_resolution": [224, 224],
    "normalization_mapping": _MEAN_STD, "gradient_checkpointing": False, "freeze_vision_encoder": False,
    "train_expert_only": False, "optimizer_lr": 2.5e-5, "optimizer_weight_decay": 0.01,
    "optimizer_grad_clip_norm": 1.0, "tokenizer_max_length": 48,
}  # fmt: skip
_QUANTILES = {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"}
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "pi0": _PI0,
    "pi05": _PI0 | {"normalization_mapping": _QUANTILES, "tokenizer_max_length": 200},
    "smolvla": _BASE | _FLOW | _TRAINING | {
        "normalization_mapping": _MEAN_STD, "resize_imgs_with_padding": [512, 512], "adapt_to_pi_aloha": False,
        "use_delta_joint_actions_aloha": False, "tokenizer_max_length": 48, "num_steps": 10, "use_cache": True,
        "freeze_vision_encoder": True, "train_expert_only": True, "train_state_proj": True, "optimizer_lr": 1e-4,
        "optimizer_weight_decay": 1e-10, "optimizer_grad_clip_norm": 10,
        "vlm_model_name": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "load_vlm_weights": False,
        "add_image_special_tokens": False, "attention_mode": "cross_attn", "prefix_length": -1,
        "pad_language_to": "longest", "num_expert_layers": -1, "num_vlm_layers": 16, "self_attn_every_n_layers": 2,
        "expert_width_multiplier": 0.75,
    },
}  # fmt: skip
"""Every entry that LeRobot 0.4.4 knows, by kind, with its default."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "n_obs_steps": (1,), "use_peft": (False,), "adapt_to_pi_aloha": (False,), "add_image_special_tokens": (False,),
    "attention_mode": ("cross_attn",), "prefix_length": (-1, 0), "use_delta_joint_actions_aloha": (False,),
    "time_sampling_beta_alpha": (1.5,), "time_sampling_beta_beta": (1.0,), "time_sampling_scale": (0.999,),
    "time_sampling_offset": (0.001,),
}  # fmt: skip
"""Entries of which only some values are built here."""


class FormatError(ValueError):
    """A folder is not what LeRobot writes, or holds what is not built here; says what, and what to do."""


@dataclass(frozen=True)
class Settings:
    """A policy's `config.json`: what is needed of it, and all of it for writing back."""

    kind: Kind
    document: Mapping[str, Any]
    """The file, as read, without the defaults."""

    def __getitem__(self, name: str) -> Any:
        """Return an entry, or LeRobot's default where the file has none."""
        return self.document.get(name, DEFAULTS[self.kind][name])

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Camera to height, width and channels, in the order in which the policy sees them; no empty ones."""
        shapes = {
            name.removeprefix(CAMERA): feature["shape"]
            for name, feature in self["input_features"].items()
            if feature["type"] == "VISUAL" and not name.removeprefix(CAMERA).startswith(EMPTY)
        }
        return {name: (shape[1], shape[2], shape[0]) for name, shape in shapes.items()}

    @property
    def state(self) -> int:
        """S, numbers of the proprioception."""
        return int(self["input_features"][STATE]["shape"][0])

    @property
    def action(self) -> int:
        """A, numbers of an action."""
        return int(self["output_features"][ACTION]["shape"][0])

    @property
    def steps(self) -> int:
        """K, denoising steps of a decision."""
        return int(self["num_steps" if self.kind == "smolvla" else "num_inference_steps"])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that pictures are brought to."""
        name = "resize_imgs_with_padding" if self.kind == "smolvla" else "image_resolution"
        height, width = self[name]
        return height, width


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object.

    Raises:
        FormatError: There is no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FormatError(f"{path.parent} has no {path.name}: give the folder that save_pretrained wrote.") from error
    except ValueError as error:
        raise FormatError(f"{path} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds a JSON {type(found).__name__}, no object.")
    return found


def read_settings(folder: Path) -> Settings:
    """Read a policy's `config.json`.

    Raises:
        FormatError: It is of another kind or version, or asks for what is not built here.
    """
    path = folder / CONFIG
    document = read_json(path)
    kind = document.get("type")
    for known in get_args(Kind):
        if kind == known:
            return settings(known, document, path)
    raise FormatError(f"{path} is of type {kind!r}; read are {', '.join(get_args(Kind))}.")


def settings(kind: Kind, document: Mapping[str, Any], path: Path | str) -> Settings:
    """Check a configuration.

    Raises:
        FormatError: see `read_settings`.
    """
    known = DEFAULTS[kind]
    for name in document:
        if name != "type" and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "it was written by another LeRobot than 0.4."
            raise FormatError(f"{path}: {kind} has no entry {name!r}; {hint}")
    made = Settings(kind, document)
    for name, allowed in _ONLY.items():
        if name in known and made[name] not in allowed:
            raise FormatError(f"{path}: {name} is {made[name]!r}; built here is {' or '.join(map(repr, allowed))}.")
    _check_features(made, path)
    if not 1 <= made["n_action_steps"] <= made["chunk_size"]:
        raise FormatError(
            f"{path}: n_action_steps is {made['n_action_steps']}; it is 1 to chunk_size, {made['chunk_size']}."
        )
    if kind == "smolvla" and made["num_expert_layers"] not in (-1, 0, made["num_vlm_layers"]):
        raise FormatError(
            f"{path}: num_expert_layers is {made['num_expert_layers']}; built here is an expert as deep as the "
            f"backbone, {made['num_vlm_layers']} (-1)."
        )
    return made


def _check_features(made: Settings, path: Path | str) -> None:
    """Check what a policy sees and does."""
    inputs, outputs = made["input_features"], made["output_features"]
    cameras = [name for name, feature in inputs.items() if feature.get("type") == "VISUAL"]
    if strange := [name for name in cameras if not name.startswith(CAMERA)]:
        raise FormatError(f"{path}: a camera is called {strange[0]!r}; cameras are called {CAMERA}NAME.")
    if not made.cameras:
        raise FormatError(f"{path}: input_features declares no camera, and a policy needs eyes.")
    others = inputs.keys() - cameras - {STATE}
    if others or outputs.keys() != {ACTION}:
        found = sorted([*others, *outputs.keys()])
        raise FormatError(f"{path}: the policy reads or writes {found}; built here are cameras, {STATE} and {ACTION}.")
    if STATE not in inputs:
        raise FormatError(f"{path}: input_features lacks {STATE}.")
    for name, width, most in (
        (STATE, made.state, made["max_state_dim"]),
        (ACTION, made.action, made["max_action_dim"]),
    ):
        if not 1 <= width <= most:
            raise FormatError(f"{path}: {name} is {width} wide; the policy takes 1 to {most}.")
