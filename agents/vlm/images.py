"""Pictures as bytes: strangers' bytes read within bounds, and our own written quickly."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from palaestra.agents.vlm.core import AskError, Picture

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
"""What is read."""
MOST_PIXELS = 4096 * 4096
"""How large a picture may be unless told otherwise."""

_SCHEME = "data:"


class PictureTooLargeError(AskError):
    """The picture has more pixels than are read. Raised before any of them is decoded."""


def decode(data: bytes, most_pixels: int = MOST_PIXELS) -> Picture:
    """Decode a PNG, JPEG or WebP file.

    Its size is read from its header, before anything of that size is made. Of an animation the first frame is taken,
    transparent parts show white, and the camera's orientation (EXIF) is applied.

    Raises:
        AskError: It is no picture, is cut short, or has more than `most_pixels`.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > most_pixels:
                raise PictureTooLargeError(
                    f"the picture has {width}x{height} pixels; at most {most_pixels:,} are read. Send a smaller one."
                )
            image.load()
            pixels = np.array(_opaque(ImageOps.exif_transpose(image)))
    except AskError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureTooLargeError(f"the picture is far too large: {error}") from error
    except Exception as error:  # a decoder may raise anything at all when fed hostile bytes
        start = data[:8].hex(" ")
        raise AskError(
            f"{len(data)} bytes that begin with {start or 'nothing'} are no whole {', '.join(FORMATS)} picture: {error}"
        ) from error
    return Picture(torch.from_numpy(pixels))


def _opaque(image: Image.Image) -> Image.Image:
    """Return an image in RGB, on white where it is transparent."""
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits of grey, which PIL would clip
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def from_url(url: str, most_pixels: int = MOST_PIXELS) -> Picture:
    """Decode the picture in a data URL: `data:image/png;base64,…`.

    Raises:
        AskError: It is not a data URL (nothing is ever fetched), not base64, or not a picture that is read.
    """
    head, comma, text = url[:256].partition(",")
    if not head[: len(_SCHEME)].lower() == _SCHEME:
        raise AskError(
            f"a picture is given as a data URL (data:image/png;base64,…), not as {url[:40]!r}: this server fetches "
            "nothing for others and opens no files for them. Send the bytes."
        )
    if not comma or not head.lower().endswith(";base64"):
        raise AskError(f"a picture's data URL begins with data:image/png;base64, but this one with {head[:40]!r}.")
    try:
        data = binascii.a2b_base64(url[len(head) + 1 :], strict_mode=True) if text else b""
    except ValueError as error:
        raise AskError(f"the picture's data URL is not base64: {error}.") from error
    return decode(data, most_pixels)


def encode(pixels: Tensor) -> bytes:
    """Return pixels, [H, W, 3] uint8, as an uncompressed PNG.

    On one machine bytes are cheap and compressing is not: zlib's fastest level takes twenty times as long.
    """
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 0  # each row says that it is not filtered
    rows[:, 1:] = pixels.detach().cpu().numpy().reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))]
    return b"".join(parts)


def to_url(picture: Picture) -> str:
    """Return a picture as a data URL that any OpenAI-compatible server reads."""
    return "data:image/png;base64," + base64.b64encode(encode(picture.pixels)).decode()
