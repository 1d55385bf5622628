"""LeRobot's processors: what it does to observations before a policy and to actions after it, read strictly.

`policy_preprocessor.json` and `policy_postprocessor.json` list steps; a step's tensors, here the normalisation
statistics, lie in a safetensors file beside them. Only the steps that LeRobot 0.4.4 writes for these policies are
taken, in its order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.vla.lerobot.format import ACTION, CAMERA, STATE, FormatError, Kind, Settings, read_json
from palaestra.agents.vla.lerobot.statistics import NAMES, Statistics

BEFORE, AFTER = "policy_preprocessor", "policy_postprocessor"
RENAME, WORDS = "rename_observations_processor", "tokenizer_processor"
NORMALISE, UNNORMALISE = "normalizer_processor", "unnormalizer_processor"
_HEAD = (RENAME, "to_batch_processor")
STEPS: dict[Kind, tuple[str, ...]] = {
    "pi0": (*_HEAD, "pi0_new_line_processor", WORDS, "device_processor", NORMALISE),
    "pi05": (*_HEAD, NORMALISE, "pi05_prepare_state_tokenizer_processor_step", WORDS, "device_processor"),
    "smolvla": (*_HEAD, "smolvla_new_line_processor", WORDS, "device_processor", NORMALISE),
}
"""What is done before a policy, in order."""
STEPS_AFTER = (UNNORMALISE, "device_processor")
_TOKENIZERS: dict[Kind, str] = {"pi0": "google/paligemma-3b-pt-224", "pi05": "google/paligemma-3b-pt-224"}


@dataclass(frozen=True)
class Processors:
    """What both files say."""

    before: Mapping[str, Any]
    """`policy_preprocessor.json`."""
    after: Mapping[str, Any]
    """`policy_postprocessor.json`."""
    statistics: Mapping[str, Tensor]
    """Every statistic of the data set, as "FEATURE.STATISTIC"; more than the policy uses."""

    def step(self, name: str) -> Mapping[str, Any]:
        """Return the configuration of a step before the policy."""
        found: Mapping[str, Any] = next(s for s in self.before["steps"] if s["registry_name"] == name).get("config", {})
        return found

    @property
    def longest(self) -> int:
        """Tokens that a prompt may have."""
        return int(self.step(WORDS)["max_length"])

    @property
    def tokenizer(self) -> str:
        """The name of the tokenizer, a repository's or a folder's."""
        return str(self.step(WORDS).get("tokenizer_name", ""))

    def shown_as(self, camera: str) -> str:
        """Return what worlds call the policy's camera."""
        names: dict[str, str] = self.step(RENAME).get("rename_map", {})
        outer = next((old for old, new in names.items() if new == CAMERA + camera), CAMERA + camera)
        return outer.removeprefix(CAMERA)


def read_processors(folder: Path, settings: Settings) -> Processors:
    """Read both files and the statistics.

    Raises:
        FormatError: A file is missing or holds other steps; statistics are missing, or of other widths than the policy.
    """
    before, after = (read_json(folder / f"{name}.json") for name in (BEFORE, AFTER))
    for document, wanted, name in ((before, STEPS[settings.kind], BEFORE), (after, STEPS_AFTER, AFTER)):
        steps = document.get("steps", [])
        found = tuple(step.get("registry_name", step.get("class", "?")) for step in steps)
        if found != wanted:
            raise FormatError(f"{folder / name}.json holds the steps {', '.join(found)}; read are {', '.join(wanted)}.")
    states = [_state(folder, document, name) for document, name in ((before, NORMALISE), (after, UNNORMALISE))]
    made = Processors(before, after, states[0])
    _check_norms(made, settings, folder)
    for name in NAMES[settings["normalization_mapping"]["ACTION"]]:
        key = f"{ACTION}.{name}"
        if key not in states[1] or not torch.equal(states[0][key], states[1][key]):
            raise FormatError(f"{folder}: {key} of the {AFTER} is not that of the {BEFORE}: actions would be wrong.")
    return made


def normaliser(made: Processors, settings: Settings, feature: str, source: Path) -> Statistics:
    """Return the statistics of the state or the action, ready to use.

    Raises:
        FormatError: They are missing, of another width or not finite.
    """
    found = unfitted(settings, feature, float(made.step(NORMALISE)["eps"]))
    prefix = f"{feature}."
    own = {name.removeprefix(prefix): value for name, value in made.statistics.items() if name.startswith(prefix)}
    try:
        found.take(own)
    except ValueError as error:
        raise FormatError(
            f"{source}: the statistics of {feature}: {error} Take those of the data set that the policy was trained on."
        ) from error
    return found


def unfitted(settings: Settings, feature: str, epsilon: float = 1e-8) -> Statistics:
    """Return statistics of the state or the action that leave it as it is."""
    kind, width = ("STATE", settings.state) if feature == STATE else ("ACTION", settings.action)
    return Statistics(settings["normalization_mapping"][kind], width, epsilon)


def _check_norms(made: Processors, settings: Settings, folder: Path) -> None:
    """Check that the processors normalise what the policy's configuration says, and as it says."""
    for step in (*made.before["steps"], *made.after["steps"]):
        if step["registry_name"] not in (NORMALISE, UNNORMALISE):
            continue
        config = step.get("config", {})
        if config.get("norm_map") != settings["normalization_mapping"]:
            raise FormatError(
                f"{folder}: the {step['registry_name']} normalises by {config.get('norm_map')}; the policy was made "
                f"with {settings['normalization_mapping']}."
            )
        if settings["normalization_mapping"].get("VISUAL", "IDENTITY") != "IDENTITY":
            raise FormatError(f"{folder}: pictures are normalised by statistics, which is not built here.")
        if "normalize_observation_keys" in config:
            raise FormatError(f"{folder}: normalize_observation_keys chooses what is normalised; not built here.")
    for feature in (STATE, ACTION):
        normaliser(made, settings, feature, folder)


def _state(folder: Path, document: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return the tensors of a step."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = next(step for step in document["steps"] if step["registry_name"] == name).get("state_file")
    if file is None:
        raise FormatError(f"{folder}: the {name} has no statistics (state_file): raw actions would reach the robot.")
    path = folder / Path(file).name
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path}, the statistics of the {name}, cannot be read: {error}.") from error


def write_processors(folder: Path, made: Processors, statistics: Mapping[str, Tensor]) -> None:
    """Write both files and the statistics into a folder.

    Args:
        folder: Exists.
        made: What was read, or `fresh_processors`.
        statistics: What replaces statistics of `made`, or comes beside them.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in {**made.statistics, **statistics}.items()}
    for name, document in ((BEFORE, made.before), (AFTER, made.after)):
        for step in document["steps"]:
            if "state_file" in step:
                save_file(tensors, folder / step["state_file"])
        (folder / f"{name}.json").write_text(json.dumps(document, indent=2))


def fresh_processors(settings: Settings, tokenizer: str = "") -> Processors:
    """Return the processors of a policy that was trained on nothing yet, without statistics.

    Args:
        settings: Of the policy.
        tokenizer: The tokenizer's name; by default the kind's own.
    """
    outputs = dict(settings["output_features"])
    norms = {"eps": 1e-8, "norm_map": dict(settings["normalization_mapping"])}
    smol = settings.kind == "smolvla"
    configs: dict[str, dict[str, Any]] = {
        RENAME: {"rename_map": {}},
        WORDS: {
            "max_length": settings["tokenizer_max_length"],
            "task_key": "task",
            "padding_side": "right",
            "padding": settings["pad_language_to"] if smol else "max_length",
            "truncation": True,
            "tokenizer_name": tokenizer or (settings["vlm_model_name"] if smol else _TOKENIZERS[settings.kind]),
        },
        "device_processor": {"device": "cpu", "float_dtype": None},
        NORMALISE: {**norms, "features": {**settings["input_features"], **outputs}},
        UNNORMALISE: {**norms, "features": outputs},
    }

    def document(title: str, names: tuple[str, ...]) -> dict[str, Any]:
        steps: list[dict[str, Any]] = []
        for index, name in enumerate(names):
            steps.append({"registry_name": name, "config": configs.get(name, {})})
            if name in (NORMALISE, UNNORMALISE):
                steps[-1]["state_file"] = f"{title}_step_{index}_{name}.safetensors"
        return {"name": title, "steps": steps}

    return Processors(document(BEFORE, STEPS[settings.kind]), document(AFTER, STEPS_AFTER), {})
