"""`result.json`: what was measured, by what, and how to measure it again."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.launch.evaluate import Evaluation, evaluate
from palaestra.launch.files import write_atomically

if TYPE_CHECKING:
    from palaestra.agents.core import Policy
    from palaestra.envs.core import Worlds

FORMAT = 1
"""Raised whenever the meaning of a key of `result.json` changes."""
KEYS = ("recipe", "world", "command", "commit", "versions", "seed", "machine", "evaluations")
PACKAGES = (
    "palaestra",
    "torch",
    "numpy",
    "gymnasium",
    "safetensors",
    "mani_skill",
    "sapien",
    "stable_baselines3",
    "transformers",
    "peft",
)
"""Packages on which a number can depend."""
TOLERANCE = 1e-5
"""Relative difference of two returns that is put down to rounding."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A recorded evaluation, and what playing it again gave."""

    recorded: Mapping[str, Any]
    """Its entry in `result.json`."""
    again: Evaluation
    """The same evaluation, now."""
    differences: tuple[str, ...]
    """A line each; empty where every episode came out the same."""


def provenance() -> dict[str, Any]:
    """Return what a number depends on besides its recipe: command, commit, versions and machine.

    It names no host, no user and no folder outside the current one.
    """
    return {
        "command": shlex.join(_portable(argument) for argument in _command()),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | _versions(),
        "machine": _machine(),
    }


def write_result(
    path: Path, recipe: str, world: str, seed: int, evaluations: Sequence[tuple[Evaluation, Mapping[str, Any]]]
) -> Path:
    """Write `result.json`, whole or not at all.

    Args:
        path: of the file.
        recipe: the recipe's name.
        world: the worlds' id.
        seed: the run's.
        evaluations: each with further keys that replaying it needs, such as the checkpoint's name in the run.

    Returns:
        `path`.
    """
    document = {
        "format": FORMAT,
        "recipe": recipe,
        "world": world,
        "seed": seed,
        **provenance(),
        "evaluations": [evaluation.to_json() | dict(further) for evaluation, further in evaluations],
    }
    return write_atomically(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def read_result(path: Path) -> dict[str, Any]:
    """Return a `result.json`, checked for its format and keys.

    Raises:
        ValueError: naming the file, what was found and what was expected.
    """
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): the file was cut off or altered.") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}; this palaestra {version('palaestra')} reads format {FORMAT}.")
    missing = [key for key in KEYS if key not in document]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it was altered, or is no result of palaestra.")
    return dict(document)


def replay(
    path: Path,
    make_worlds: Callable[[Mapping[str, Any]], Worlds],
    load_policy: Callable[[Mapping[str, Any]], Policy],
    progress: Callable[[int], object] | None = None,
) -> list[Replay]:
    """Play every evaluation of a `result.json` again, and compare episode by episode.

    Args:
        path: of the `result.json`.
        make_worlds: given an evaluation's entry, makes its worlds; "count" is the rows it was played in.
        load_policy: given an evaluation's entry, loads its policy.
        progress: see `evaluate`.
    """
    replays = []
    for entry in read_result(path)["evaluations"]:
        policy = load_policy(entry)
        worlds = make_worlds(entry)
        try:
            again = evaluate(worlds, policy, entry["quota"], entry["seed"], entry["name"], progress)
        finally:
            worlds.close()
        replays.append(Replay(entry, again, tuple(_differences(entry, again.to_json()))))
    return replays


def _differences(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing in which two entries differ."""
    lines = [
        f"{key}: {recorded[key]!r} was recorded, now {again[key]!r}"
        for key in ("success_definition", "count", "episodes", "faults")
        if recorded[key] != again[key]
    ]
    before = {episode["seed"]: episode for episode in recorded["episode_list"]}
    now = {episode["seed"]: episode for episode in again["episode_list"]}
    lines += [f"episode of seed {seed} was recorded, but not played now" for seed in before if seed not in now]
    lines += [f"episode of seed {seed} was played now, but not recorded" for seed in now if seed not in before]
    for seed in before:
        for key in ("success_once", "success_at_end", "length", "return"):
            if seed in now and not _same(before[seed][key], now[seed][key]):
                lines.append(
                    f"episode of seed {seed}: {key} {before[seed][key]!r} was recorded, now {now[seed][key]!r}"
                )
    return lines


def _same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= TOLERANCE * max(1.0, abs(left), abs(right))
    return left == right


def _command() -> list[str]:
    return [Path(sys.argv[0]).name or "python", *sys.argv[1:]]


def _portable(argument: str) -> str:
    """Return an argument without the folders that lead to it on this machine."""
    flag, equals, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    here = Path.cwd()
    return f"{flag}{equals}{path.relative_to(here) if path.is_relative_to(here) else path.name}"


def _commit() -> str | None:
    """Return the commit of the checkout that this code runs from, marked where files differ from it."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit}, with changes" if _git(root, "status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    import torch

    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
