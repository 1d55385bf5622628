"""`palaestra doctor checkpoint PATH`: what a folder holds, whether it loads, and what to do where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palaestra.launch.doctor import Finding

Load = Callable[[], list[Finding]]
Told = tuple[str, Load | None]
"""What a folder holds, and what loads it; None where nothing here does."""
NOTHING = "give the folder that a run, LeRobot, open_clip or save_pretrained wrote"


def inspect(path: Path) -> list[Finding]:
    """Look at a folder and load what it holds, on the CPU.

    Returns:
        First what it is, then whether it loads; `missing` where it does not, with the reason and what to do.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder; {NOTHING}.")
    what, load = _kind(path)
    first = Finding("folder", "ok" if load else "missing", f"{path} holds {what}", "" if load else NOTHING)
    return [first, *_loaded(load)] if load else [first]


def _kind(path: Path) -> Told:
    """Tell a folder by the files in it."""
    found: dict[str, Callable[[], Told]] = {
        "checkpoints": lambda: ("a run of palaestra", lambda: _run(path, None)),
        "meta.json": lambda: ("a checkpoint of a run", lambda: _saved(path)),
        "adapter_config.json": lambda: ("an adapter of peft", lambda: _adapter(path)),
        "open_clip_config.json": lambda: ("a contrastive model of open_clip", lambda: _clip(path)),
        "pretrained_model": lambda: ("a checkpoint of LeRobot's training", lambda: inspect(path / "pretrained_model")),
        "meta/info.json": lambda: ("a LeRobotDataset, which is no checkpoint: demonstrations.source takes it", None),
        "config.json": lambda: _configured(path),
    }
    for name, told in found.items():
        if (path / name).exists():
            return told()
    names = sorted(entry.name for entry in path.iterdir())[:8]
    return f"nothing that is read here: {', '.join(names) or 'it is empty'}", None


def _configured(path: Path) -> Told:
    """Tell a folder with a `config.json`: LeRobot's has a type, one of transformers a model_type."""
    from palaestra.agents.vla.lerobot.format import DEFAULTS, read_json

    document = read_json(path / "config.json")
    kind, model = document.get("type"), document.get("model_type")
    if kind in DEFAULTS:
        return f"a policy of LeRobot, {kind}", lambda: _lerobot(path)
    if kind is not None:
        return f"a policy of LeRobot of type {kind!r}; read are {', '.join(DEFAULTS)}", None
    if model is not None:
        return f"a model of transformers, {model}", lambda: _transformers(path)
    return f"a config.json of neither LeRobot nor transformers, with {', '.join(sorted(document)[:6])}", None


def _loaded(load: Load) -> list[Finding]:
    """Return what loading finds; what it raises is a finding, too."""
    try:
        return load()
    except (ValueError, LookupError, OSError, RuntimeError, ImportError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        return [Finding("loads", "missing", text, "see above for what to do")]


def _lerobot(path: Path) -> list[Finding]:
    from palaestra.agents.vla.lerobot.checkpoint import open_folder, read_policy
    from palaestra.agents.vla.lerobot.format import FormatError

    folder = open_folder(path)
    said = folder.settings
    cameras = ", ".join(f"{name} {height}×{width}" for name, (height, width, _) in said.cameras.items())
    modes = said["normalization_mapping"]
    findings = [
        Finding("sees", "ok", f"{cameras}; {said.state} numbers of proprioception, by {modes['STATE']}"),
        Finding("does", "ok", f"{said.action} numbers, by {modes['ACTION']}, {said['n_action_steps']} of "
                f"{said['chunk_size']} played, {said.steps} denoising steps"),
    ]  # fmt: skip
    try:
        policy = read_policy(path)
    except FormatError as error:
        return [*findings, Finding("loads", "missing", str(error), "see above for what to do")]
    return [*findings, _weights(policy)]


def _run(path: Path, name: str | None) -> list[Finding]:
    from palaestra.launch.config import from_json
    from palaestra.launch.train import load_policy, make_worlds

    recipe = from_json(path / "config.json")
    worlds = make_worlds(recipe, 1)
    try:
        policy = load_policy(path, recipe, worlds.spec, name)
    finally:
        worlds.close()
    return [Finding("trained on", "ok", f"{recipe.world.id}, recipe {recipe.name}"), _weights(policy)]


def _saved(path: Path) -> list[Finding]:
    from palaestra.launch.checkpoint import load

    run = path.parent.parent
    if (run / "config.json").is_file():
        return _run(run, path.name)
    tensors, _ = load(path)
    lone = "there is no run around it: its recipe, which says what it is for, lies beside the folder 'checkpoints'"
    return [Finding("loads", "warn", f"{len(tensors)} tensors, whole and unaltered", lone)]


def _adapter(path: Path) -> list[Finding]:
    base = json.loads((path / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
    found = f"it changes {base}, and is nothing without it"
    return [Finding("loads", "warn", found, f"palaestra serve --model 'name=transformers:BASE?adapter={path}'")]


def _clip(path: Path) -> list[Finding]:
    from palaestra.agents.vlm.engines.clip import ClipEngine

    return [_weights(ClipEngine(path).model)]


def _transformers(path: Path) -> list[Finding]:
    from palaestra.agents.vlm.checkpoint import has_tokenizer, read_checkpoint

    if not has_tokenizer(path):
        fix = "copy tokenizer.json and tokenizer_config.json of the model that it was trained from"
        return [Finding("tokenizer", "missing", "there is none in the folder", fix)]
    found = read_checkpoint(path, processor=path, adapter=None, device="cpu", dtype="auto")
    eyes = "it sees pictures" if found.takes_pictures else "it reads text alone"
    return [Finding("reads", "ok", f"{eyes}; {len(found.tokenizer)} words"), _weights(found.model)]


def _weights(model: Any) -> Finding:
    """Return that a model loads, and how large it is."""
    count = sum(weight.numel() for weight in model.parameters()) if hasattr(model, "parameters") else 0
    return Finding("loads", "ok", f"{count:,} parameters, all of them there" if count else "it does")
