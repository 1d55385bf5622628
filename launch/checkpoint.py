"""Checkpoints: one folder each, written whole or not at all, loaded strictly or not at all.

`checkpoints/000042/` holds `state.safetensors` (every tensor) and `meta.json` (everything else, and what the
tensor file must look like). There is no pickle. A process killed at any moment leaves a run whose `latest`
checkpoint loads.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Container, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.launch.files import sync_folder, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Raised whenever the meaning of a checkpoint's files changes."""
TENSORS = "state.safetensors"
META = "meta.json"
TEMPORARY = ".tmp"
REPLACED = ".replaced"
SHOWN = 20
"""How many differences of one kind an error lists before it only counts them."""

JSON = dict[str, Any]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or is not what it says it is."""


def save(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write one checkpoint, atomically.

    Args:
        folder: `run/checkpoints/000042`; replaced as a whole where it exists.
        tensors: any shapes, dtypes and devices; tensors that share memory are written apart.
        meta: everything else, as JSON.

    Returns:
        `folder`.

    Raises:
        CheckpointError: the disk is full or the folder may not be written. Earlier checkpoints are untouched.
        TypeError: `meta` is not JSON.
    """
    from safetensors import SafetensorError

    temporary = folder.with_name(f".{folder.name}{TEMPORARY}")
    text = json.dumps(dict(meta), allow_nan=False)
    meta = json.loads(text)  # as it will be read back: string keys, lists
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) + len(text)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise CheckpointError(_no_space(folder, size, "the disk is full"))
        temporary.mkdir()
        _write_state(temporary, tensors, meta)
        _put_in_place(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(_no_space(folder, size, str(error))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load(folder: Path) -> tuple[dict[str, Tensor], JSON]:
    """Read one checkpoint, on the CPU.

    Returns:
        The tensors and the meta that `save` was given.

    Raises:
        CheckpointError: the folder is unfinished, of another format, truncated or altered.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    document = _read_meta(folder)
    path = folder / TENSORS
    size = path.stat().st_size if path.exists() else 0
    if size != document["bytes"]:
        raise CheckpointError(
            f"{path} holds {size} bytes, {META} says {document['bytes']}: the file was cut off. {_instead(folder)}"
        )
    digest = _digest(path)
    if digest != document["sha256"]:
        raise CheckpointError(
            f"{path} has SHA-256 {digest[:12]}…, {META} says {document['sha256'][:12]}…: "
            f"the file was altered after it was saved. {_instead(folder)}"
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {_instead(folder)}") from error
    if _layout(tensors) != document["tensors"]:
        raise CheckpointError(f"{path} does not hold the tensors that {META} lists. {_instead(folder)}")
    return tensors, document["meta"]


def latest(run: Path) -> Path | None:
    """Return the newest finished checkpoint of a run, or None where there is none."""
    finished = _finished(run)
    return finished[-1] if finished else None


def prune(run: Path, keep: int, spare: Container[str] = ()) -> list[Path]:
    """Delete all but the newest `keep` checkpoints and those named in `spare`, and what killed saves left behind.

    Returns:
        The checkpoints deleted.

    Raises:
        ValueError: `keep` is below one.
    """
    if keep < 1:
        raise ValueError(f"prune was told to keep {keep} checkpoints; a run must keep at least 1.")
    old = [folder for folder in _finished(run)[:-keep] if folder.name not in spare]
    for folder in old:
        # Renamed first: a kill halfway through the deletion must not leave half a checkpoint behind.
        folder.rename(folder.with_name(f".{folder.name}{TEMPORARY}"))
    for pattern in (f".*{TEMPORARY}", f".*{REPLACED}"):
        for folder in (run / "checkpoints").glob(pattern):
            shutil.rmtree(folder)
    return old


def fingerprint(value: object) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def require_same_layout(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors whose names, shapes or dtypes differ from those that are expected.

    Args:
        expected: the state of what is to be restored.
        found: what was loaded.
        source: where it was loaded from, for the message.

    Raises:
        CheckpointError: with every difference by name.
    """
    unknown = sorted(found.keys() - expected.keys())
    missing = sorted(expected.keys() - found.keys())
    changed = [
        f"{name}: {_kind(found[name])} instead of {_kind(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if _kind(expected[name]) != _kind(found[name])
    ]
    lines = _listed("missing", missing, lambda name: name)
    lines += _listed("unknown", unknown, lambda name: name + _nearest(name, missing))
    lines += _listed("different", changed, lambda line: line)
    if lines:
        raise CheckpointError(
            f"{source} does not fit what it is loaded into:\n" + "\n".join(lines) + "\n"
            "It was saved by another recipe or version: use the configuration beside it, or train anew."
        )


def _write_state(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write and sync both files of a checkpoint into an empty folder."""
    from safetensors.torch import save_file

    path = folder / TENSORS
    owned = _owned(tensors)
    save_file(owned, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    document: JSON = {
        "format": FORMAT,
        "palaestra": version("palaestra"),
        "bytes": path.stat().st_size,
        "sha256": _digest(path),
        "tensors": _layout(owned),
        "meta": meta,
    }
    document["fingerprint"] = fingerprint(document)
    write_atomically(folder / META, json.dumps(document, indent=1).encode())


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a finished checkpoint to its place. A kill between two renames is mended by `_finished`."""
    replaced = folder.with_name(f".{folder.name}{REPLACED}")
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    temporary.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU of which no two share memory."""
    owned: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        owned[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return owned


def _finished(run: Path) -> list[Path]:
    """Return a run's whole checkpoints, oldest first."""
    for replaced in (run / "checkpoints").glob(f".*{REPLACED}"):
        folder = replaced.with_name(replaced.name.removeprefix(".").removesuffix(REPLACED))
        if not folder.exists():
            replaced.rename(folder)
    found = [folder for folder in (run / "checkpoints").glob("*") if folder.name.isdigit() and _is_finished(folder)]
    return sorted(found, key=lambda folder: int(folder.name))


def _is_finished(folder: Path) -> bool:
    """Whether a folder holds both files of a checkpoint, in full length (their content is checked by `load`)."""
    try:
        document = json.loads((folder / META).read_bytes())
        return bool((folder / TENSORS).stat().st_size == document["bytes"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _read_meta(folder: Path) -> JSON:
    """Return a checkpoint's checked `meta.json`."""
    path = folder / META
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a finished checkpoint: it has no {META}. {_instead(folder)}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} was cut off or altered: {error}. {_instead(folder)}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a checkpoint's: it holds a JSON {type(document).__name__}.")
    if document.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {document.get('format')!r}, this palaestra {version('palaestra')} reads format "
            f"{FORMAT}. Load it with the version that wrote it: {document.get('palaestra', 'unknown')}."
        )
    seal = document.pop("fingerprint", None)
    if seal != fingerprint(document):
        raise CheckpointError(f"{path} was altered after it was saved. {_instead(folder)}")
    return document


def _instead(folder: Path) -> str:
    """Say which checkpoint of the same run to use instead of a broken one."""
    others = [other for other in _finished(folder.parent.parent) if other != folder]
    if not others:
        return "The run has no other checkpoint: train anew."
    return f"The newest other checkpoint of the run is {others[-1]}: delete this one to go on from there."


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _layout(tensors: Mapping[str, Tensor]) -> JSON:
    """Return each tensor's shape and dtype, as JSON."""
    return {
        name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in tensors.items()
    }


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _listed(kind: str, entries: list[str], describe: Callable[[str], str]) -> list[str]:
    """Return a line an entry, and a count of those that are too many to show."""
    lines = [f"  {kind} {describe(entry)}" for entry in entries[:SHOWN]]
    return lines + ([f"  … and {len(entries) - SHOWN} more {kind}"] if len(entries) > SHOWN else [])


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" (is it {close[0]}?)" if close else ""


def _no_space(folder: Path, size: int, why: str) -> str:
    try:
        free = f"{shutil.disk_usage(folder.parent).free:,}"
    except OSError:
        free = "an unknown number of"
    return (
        f"The checkpoint {folder} was not written: {why}. It needs {size:,} bytes and {free} bytes are free. "
        "Earlier checkpoints are untouched: free some space, or keep fewer checkpoints, then resume the run."
    )
