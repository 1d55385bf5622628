"""The version of weights names their content."""

import os
from pathlib import Path

import pytest

from palaestra.agents.vlm import checkpoint
from palaestra.agents.vlm.core import WeightsError


def weights(folder: Path, content: bytes, when: int = 10**9) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    file = folder / "model.safetensors"
    file.write_bytes(content)
    os.utime(file, (when, when))
    return folder


def test_version_is_of_the_content_not_of_place_or_time(tmp_path: Path) -> None:
    version = checkpoint.version_of(weights(tmp_path / "a", b"one"))
    assert version == checkpoint.version_of(weights(tmp_path / "b", b"one", when=2 * 10**9))
    assert version != checkpoint.version_of(weights(tmp_path / "a", b"two"))
    assert version != checkpoint.version_of(tmp_path / "b", tmp_path / "b")


def test_large_files_are_known_by_their_ends_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "WHOLE", 1000)
    mebibyte = bytes(2**20)
    large = mebibyte + b"middle" + mebibyte
    version = checkpoint.version_of(weights(tmp_path / "a", large))
    assert version == checkpoint.version_of(weights(tmp_path / "b", large))
    others = [b"!" + large[1:], large[:-1] + b"!", large + b"!"]
    assert version not in [checkpoint.version_of(weights(tmp_path / "c", other)) for other in others]
    assert version != checkpoint.version_of(weights(tmp_path / "c", large, when=2 * 10**9))


def test_a_large_file_is_one_of_more_than_a_mebibyte() -> None:
    """What is read from its end must be there."""
    assert checkpoint.WHOLE >= 2**20


def test_folder_without_weights_has_no_version(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no \.safetensors"):
        checkpoint.version_of(tmp_path)
