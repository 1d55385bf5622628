"""Folders as LeRobot saved them, made from the reference's formulas; and the policies in them."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.envs.core import Observation

HERE = Path(__file__).parent
KINDS = ("smolvla", "pi0", "pi05")


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The script that made the numbers."""
    spec = importlib.util.spec_from_file_location("reference", HERE / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def made(reference: ModuleType) -> Callable[[str, Path], dict[str, Any]]:
    """Write what LeRobot saved of a kind into a new folder; return all that was recorded."""

    def write(kind: str, path: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        recorded: dict[str, Any] = json.loads((HERE / f"{kind}.json").read_text())
        path.mkdir()
        for name, document in recorded["documents"].items():
            (path / name).write_text(json.dumps(document))
        weights = {name: reference.weight(name, tuple(shape)) for name, shape in recorded["tensors"].items()}
        save_file(weights, path / "model.safetensors")
        for file, tensors in recorded["statistics"].items():
            save_file({name: np.array(value, np.float32) for name, value in tensors.items()}, path / file)
        reference.tokenizer(kind != "smolvla").save_pretrained(path)
        return recorded

    return write


@pytest.fixture(scope="session")
def folders(made: Callable[[str, Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind, which no test changes."""
    whole = tmp_path_factory.mktemp("lerobot")
    for kind in KINDS:
        made(kind, whole / kind)
    return {kind: whole / kind for kind in KINDS}


@pytest.fixture(scope="session")
def policies(folders: dict[str, Path]) -> dict[str, FlowPolicy]:
    """The policy of each, which no test changes."""
    from palaestra.agents.vla.lerobot.checkpoint import read_policy

    return {kind: read_policy(path) for kind, path in folders.items()}


@pytest.fixture(scope="session")
def view(reference: ModuleType) -> Observation:
    """What the reference's policies saw."""
    images = {name: torch.from_numpy(reference.pictures(name)) for name in reference.CAMERAS}
    return Observation(images, torch.from_numpy(reference.state()), reference.TASKS)
