"""Frames into an H.264 file that browsers play, one frame at a time, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

Frame = np.ndarray[Any, np.dtype[np.uint8]] | Tensor


class VideoWriter:
    """Encode frames as they come; a context manager.

    The file appears under its name when the block ends without an error, and not at all otherwise.
    """

    def __init__(
        self, path: str | Path, fps: float, *, quality: int = 20, keyframe_every: int = 30, pad: bool = True
    ) -> None:
        """Name the file; the encoder starts at the first frame.

        Args:
            path: Where the file will be, `*.mp4`. An existing file is replaced at the end.
            fps: Frames a second.
            quality: x264's constant rate factor: 0 is lossless, 18 looks so, 51 is worst.
            keyframe_every: Frames from one key frame to the next: fewer seek faster, more pack tighter.
            pad: Whether odd heights and widths grow by one row or column, repeated from the edge, as H.264's
                4:2:0 pixels need; otherwise such frames keep their size and are stored as 4:4:4, which not
                every browser plays.

        Raises:
            ValueError: `path` does not end in .mp4, or `fps` is not a positive number.
        """
        self.path = Path(path)
        if self.path.suffix != ".mp4":
            raise ValueError(f"A video is named *.mp4, got {self.path.name!r}.")
        if not 0 < fps < 1000:
            raise ValueError(f"fps = {fps} for {self.path.name}; expected more than 0 and less than 1000.")
        self.fps = fps
        self.count = 0
        self._options = ["-crf", str(quality), "-g", str(keyframe_every), "-bf", "0"]
        self._pad = pad
        self._size: tuple[int, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial.mp4")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def add(self, frames: Frame) -> None:
        """Encode frames, [H, W, 3] or [T, H, W, 3] uint8, all of one size.

        Raises:
            ValueError: Another shape, dtype or size.
            OSError: The encoder stopped (a full disk, most often), with its own words.
        """
        pictures = np.asarray(frames.cpu() if isinstance(frames, Tensor) else frames)
        if pictures.ndim == 3:
            pictures = pictures[None]
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
            raise ValueError(
                f"{self.path.name}: frames have shape {tuple(np.shape(frames))} and dtype {pictures.dtype}; "
                "expected [H, W, 3] or [T, H, W, 3] uint8."
            )
        if not pictures.size:
            return
        height, width = pictures.shape[1:3]
        if self._size is None:
            self._size = (height, width)
        elif self._size != (height, width):
            raise ValueError(
                f"{self.path.name}: frame {self.count} is {height}x{width}, those before it are "
                f"{self._size[0]}x{self._size[1]}. A video has one size."
            )
        if self._pad and (height % 2 or width % 2):
            pictures = np.pad(pictures, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        process = self._process or self._start(*pictures.shape[1:3])
        assert process.stdin is not None
        try:
            process.stdin.write(np.ascontiguousarray(pictures).data)
        except OSError as error:
            raise self._failure() from error
        self.count += pictures.shape[0]

    def close(self) -> None:
        """Finish the file and move it to its name. Safe to call twice.

        Raises:
            ValueError: No frame was added.
            OSError: The encoder failed, with its own words.
        """
        process = self._process
        if process is None:
            if self.count == 0:
                raise ValueError(f"{self.path.name}: no frames were added, so there is no video.")
            return
        process.communicate()
        if process.returncode != 0:
            raise self._failure()
        self._process = None
        self._log.close()
        with open(self._partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self._partial, self.path)

    def abort(self) -> None:
        """Stop and leave no file behind. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
            self._log.close()
        self._partial.unlink(missing_ok=True)

    def size(self) -> int:
        """Return the bytes on disk so far (the encoder holds some frames back)."""
        return self._partial.stat().st_size if self._partial.exists() else 0

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        """Start the encoder for frames of a size."""
        from imageio_ffmpeg import get_ffmpeg_exe

        self.path.parent.mkdir(parents=True, exist_ok=True)
        pixels = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        command = [get_ffmpeg_exe(), "-y", "-loglevel", "error"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self.fps:g}"]
        command += ["-i", "-", "-an", "-c:v", "libx264", "-pix_fmt", pixels, *self._options]
        # The mean of 2 x 2 pixels, rounded: against the default, +4 dB on blocks of colour and half the bias.
        command += ["-sws_flags", "area+accurate_rnd+full_chroma_int+full_chroma_inp"]
        command += ["-movflags", "+faststart", str(self._partial)]
        # A file and not a pipe: nobody reads while frames are written, and a full pipe would hang both.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        # A session of its own: Ctrl-C is ours to handle, not the encoder's.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, start_new_session=True
        )
        return self._process

    def _failure(self) -> OSError:
        """Return the error for an encoder that stopped, and clear up after it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip() or "it said nothing"
        code = self._process.returncode
        self.abort()
        return OSError(
            f"The video encoder stopped after {self.count} frames of {self.path} (exit {code}): {words}. "
            "Check that the disk has room and that the folder can be written."
        )


def write_video(path: str | Path, frames: Frame | Iterable[Frame], fps: float) -> Path:
    """Write frames as one H.264 file and return its path.

    Args:
        path: Where, `*.mp4`; written beside it first, then moved.
        frames: [T, H, W, 3] uint8, or an iterable of [H, W, 3] (so that a long video need not fit in memory).
        fps: Frames a second.

    Raises:
        ValueError: No frames, or frames of a wrong shape, dtype or size.
        OSError: The encoder failed, with its own words.
    """
    with VideoWriter(path, fps) as video:
        if isinstance(frames, (np.ndarray, Tensor)):
            video.add(frames)
        else:
            for frame in frames:
                video.add(frame)
    return video.path
