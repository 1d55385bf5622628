"""Episodes on disk and laid out as steps."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from palaestra.agents.digirl.episodes import Episode, Steps, read_episodes, save_episode
from palaestra.envs.core import Observation


def episode(length: int, success: bool, seed: int = 0) -> Episode:
    draw = torch.Generator().manual_seed(seed)
    screen = torch.randint(0, 256, (length, 4, 6, 3), dtype=torch.uint8, generator=draw)
    return Episode(
        Observation(images={"screen": screen}, text=tuple(f'Goal: "ä", {i}' for i in range(length))),
        tuple(f"tap {i}" for i in range(length)),
        success,
        torch.randn(length, 5, generator=draw),
        torch.randn(5, generator=draw),
    )


def test_what_is_saved_is_read_back_in_order(tmp_path: Path) -> None:
    written = [episode(3, True, 0), episode(1, False, 1)]
    for number in (1, 0):
        save_episode(tmp_path, number, written[number])
    read = list(read_episodes(tmp_path))
    for before, after in zip(written, read, strict=True):
        assert (after.actions, after.success, after.observation.text) == (
            before.actions, before.success, before.observation.text,
        )
        assert torch.equal(after.observation.images["screen"], before.observation.images["screen"])
        assert torch.equal(after.features, before.features) and torch.equal(after.instruction, before.instruction)
    assert len(list(read_episodes(tmp_path, upto=1))) == 1


def test_half_written_episodes_are_not_read_and_torn_ones_are_noticed(tmp_path: Path) -> None:
    save_episode(tmp_path, 0, episode(2, True))
    (tmp_path / ".half").write_bytes(b"half of one")
    assert len(list(read_episodes(tmp_path))) == 1
    path = tmp_path / "0000001.safetensors"
    path.write_bytes((tmp_path / "0000000.safetensors").read_bytes()[:50])
    with pytest.raises(SafetensorError):
        list(read_episodes(tmp_path))


def test_layout_of_steps() -> None:
    steps = Steps.of([episode(3, True), episode(2, False)])
    assert steps.episode.tolist() == [0, 0, 0, 1, 1]
    assert steps.index.tolist() == [0, 1, 2, 0, 1]
    assert steps.left.tolist() == [2, 1, 0, 1, 0]
    assert steps.success.tolist() == [1, 1, 1, 0, 0]
    assert steps.following(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])).tolist() == pytest.approx([0.2, 0.3, 0, 0.5, 0])


def test_no_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="no episodes"):
        Steps.of([])
