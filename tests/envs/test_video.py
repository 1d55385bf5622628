import resource
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from palaestra.envs.video import VideoWriter, write_video


def frames(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Smooth frames whose brightness tells their time: 6 levels more a frame."""
    time = 6 * np.arange(count).reshape(-1, 1, 1, 1)
    slope = np.arange(height).reshape(-1, 1, 1) + np.arange(width).reshape(-1, 1) / 2
    return (10 + time + slope + 8 * np.arange(3)).clip(0, 255).astype(np.uint8)


def decoded(path: Path) -> tuple[np.ndarray, list[float], av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        return np.stack([p.to_ndarray(format="rgb24") for p in pictures]), [p.time for p in pictures], stream


def test_frames_come_back_in_order_at_their_times(tmp_path: Path) -> None:
    shown = frames(20)
    path = write_video(tmp_path / "folder" / "a.mp4", shown, fps=10)
    found, times, stream = decoded(path)
    assert found.shape == shown.shape
    assert times == pytest.approx([i / 10 for i in range(20)], abs=1e-6)
    assert np.abs(found.astype(int) - shown).max() <= 6
    assert np.abs(found.mean((1, 2, 3)) - shown.mean((1, 2, 3))).max() < 1
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


def test_a_browser_can_start_before_it_has_the_whole_file(tmp_path: Path) -> None:
    content = write_video(tmp_path / "a.mp4", frames(5), fps=10).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("size", [(31, 48), (32, 47), (31, 47)])
def test_odd_sizes_grow_by_a_repeated_edge(tmp_path: Path, size: tuple[int, int]) -> None:
    shown = frames(4, *size)
    found, _, stream = decoded(write_video(tmp_path / "a.mp4", shown, fps=10))
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert found.shape[1:3] == (32, 48)
    assert np.abs(found[:, : size[0], : size[1]].astype(int) - shown).max() <= 8
    assert np.abs(found[:, -1, -1].astype(int) - shown[:, -1, -1]).max() <= 8


def test_odd_sizes_can_be_kept(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10, pad=False) as video:
        video.add(frames(4, 31, 47))
    found, _, stream = decoded(video.path)
    assert found.shape[1:3] == (31, 47)
    assert stream.codec_context.pix_fmt == "yuv444p"


def test_an_iterable_a_tensor_and_an_array_give_the_same_file(tmp_path: Path) -> None:
    shown = frames(6)

    def stream() -> Iterator[np.ndarray]:
        yield from shown

    paths = [
        write_video(tmp_path / f"{i}.mp4", source, fps=10)
        for i, source in enumerate((shown, torch.from_numpy(shown), stream(), shown[:, :, ::-1][:, :, ::-1]))
    ]
    assert len({path.read_bytes() for path in paths}) == 1


def test_quality_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    sizes = []
    for quality in (5, 40):
        with VideoWriter(tmp_path / "a.mp4", 10, quality=quality) as video:
            video.add(noise)
        sizes.append(video.path.stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_key_frames_stand_where_they_are_asked_for(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10, keyframe_every=3) as video:
        video.add(frames(9))
    with av.open(str(video.path)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert keys == [True, False, False] * 3


def test_an_existing_video_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames(5), fps=10)
    before = path.read_bytes()

    def stream() -> Iterator[np.ndarray]:
        yield frames(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, stream(), fps=10)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write_video(path, frames(2), fps=10)
    assert len(decoded(path)[0]) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), "dtype float32"),
        (np.zeros((4, 8, 8, 4), np.uint8), r"shape \(4, 8, 8, 4\)"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no frames"),
        ([], "no frames"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], "frame 1 is 8x10, those before it are 8x8"),
    ],
)
def test_frames_that_are_none_are_refused_and_leave_nothing(tmp_path: Path, bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "a.mp4", bad, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_bad_names_and_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"named \*\.mp4, got 'a.avi'"):
        write_video(tmp_path / "a.avi", frames(1), fps=10)
    for fps in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="fps = "):
            write_video(tmp_path / "a.mp4", frames(1), fps=fps)


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"encoder stopped after \d+ frames of .*a\.mp4.*disk has room"):
            write_video(tmp_path / "a.mp4", noise, fps=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_is_killed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="exit -9"), VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.add(frames(2))
        assert video._process is not None
        video._process.kill()
        video._process.wait()
        video.add(frames(2))
    assert list(tmp_path.iterdir()) == []


def test_closing_and_aborting_twice_is_safe(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "a.mp4", 10)
    video.add(frames(2))
    video.close()
    video.close()
    assert len(decoded(video.path)[0]) == 2
    video = VideoWriter(tmp_path / "b.mp4", 10)
    video.add(frames(2))
    video.abort()
    video.abort()
    assert not video.path.exists()
