"""Pictures from anywhere: what is read, what it becomes, and what is refused before it costs anything."""

import base64
import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from palaestra.agents.vlm.core import AskError, Picture
from palaestra.agents.vlm.images import PictureTooLargeError, decode, encode, from_url, to_url


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A tiny PNG that claims, and holds, very many black pixels."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 3), (192, 192)])
def test_our_png_is_read_back_exactly(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    assert torch.equal(decode(encode(pixels)).pixels, pixels)
    assert torch.equal(from_url(to_url(Picture(pixels))).pixels, pixels)


def test_our_png_is_a_png_to_others() -> None:
    pixels = noise()
    image = Image.open(io.BytesIO(encode(pixels)))
    image.verify()
    assert image.format == "PNG" and image.size == (7, 5)


def test_pixels_that_are_a_view_are_written_right() -> None:
    pixels = noise(8, 8)
    assert torch.equal(decode(encode(pixels.flip(0)[:, 2:6])).pixels, pixels.flip(0)[:, 2:6])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_formats_are_read(kind: str) -> None:
    flat = Image.new("RGB", (16, 8), (200, 100, 50))
    pixels = decode(file_of(flat, kind)).pixels
    assert pixels.shape == (8, 16, 3)
    assert (pixels.int() - torch.tensor([200, 100, 50])).abs().max() <= 4


def test_a_palette_is_looked_up() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8))
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(file_of(palette, "PNG")).pixels.tolist() == [[[255, 0, 0], [0, 255, 0]]]


def test_what_is_transparent_shows_white() -> None:
    rgba = Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8), "RGBA")
    assert decode(file_of(rgba, "PNG")).pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_becomes_rgb() -> None:
    pixels = decode(file_of(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")).pixels
    assert pixels.shape == (8, 8, 3) and pixels.min() > 250


def test_grey_keeps_its_levels_at_8_and_at_16_bits() -> None:
    eight = Image.fromarray(np.array([[0, 128, 255]], np.uint8))
    sixteen = Image.fromarray(np.array([[0, 128 * 256, 65535]], np.uint16))
    for image in (eight, sixteen):
        assert decode(file_of(image, "PNG")).pixels[0, :, 0].tolist() == [0, 128, 255]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert decode(data).pixels[0, 0].tolist() == [255, 0, 0]


def test_the_camera_s_orientation_is_applied() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    assert decode(file_of(image, "PNG", exif=exif)).pixels.tolist() == [[[255, 0, 0]], [[0, 0, 255]]]


def test_a_bomb_is_refused_by_its_header() -> None:
    data = bomb(10_000, 10_000)
    assert len(data) < 20_000
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(PictureTooLargeError, match="10000x10000"):
        decode(data)
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.2 and peak < 2_000_000


@pytest.mark.parametrize("size", [(20_000, 20_000), (65_500, 65_500)])
def test_larger_bombs_are_refused_too(size: tuple[int, int]) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    with pytest.raises(PictureTooLargeError):
        decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def test_a_webp_that_claims_a_huge_canvas_is_refused() -> None:
    canvas = bytes([2, 0, 0, 0]) + (16_382).to_bytes(3, "little") * 2
    small = file_of(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    frame = bytes(6) + (7).to_bytes(3, "little") * 2 + bytes(4) + small
    chunks = [(b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"WEBP" + b"".join(k + len(d).to_bytes(4, "little") + d + b"\0" * (len(d) % 2) for k, d in chunks)
    with pytest.raises(AskError):
        decode(b"RIFF" + len(body).to_bytes(4, "little") + body)


def test_the_bound_is_the_caller_s_and_inclusive() -> None:
    data = encode(noise(5, 7))
    assert decode(data, most_pixels=35).pixels.shape == (5, 7, 3)
    with pytest.raises(PictureTooLargeError, match="at most 34"):
        decode(data, most_pixels=34)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = file_of(Image.fromarray(noise(40, 40).numpy()), kind)
    with pytest.raises(AskError, match="no whole"):
        decode(data[: int(share * len(data))])


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg></svg>", b"%PDF-1.7", bytes(100)])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(AskError, match="no whole PNG, JPEG, WEBP picture"):
        decode(data)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(AskError, match="no whole"):
        decode(file_of(Image.new("RGB", (8, 8)), kind))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/a.png", "fetches nothing"),
        ("https://127.0.0.1/a.png", "fetches nothing"),
        ("file:///etc/passwd", "opens no files"),
        ("/etc/passwd", "opens no files"),
        ("", "data URL"),
        ("data:image/png,raw", "begins with"),
        ("data:image/png;base64", "begins with"),
        ("data:" + "x" * 300 + ";base64,AAAA", "begins with"),
        ("data:image/png;base64,@@@", "not base64"),
        ("data:image/png;base64,AAA", "not base64"),
        ("data:image/png;base64,é", "not base64"),
        ("data:image/png;base64,", "no whole"),
        ("data:image/png;base64,AAAA", "no whole"),
    ],
)
def test_urls_that_hold_no_picture_are_refused(url: str, reason: str) -> None:
    with pytest.raises(AskError, match=reason):
        from_url(url)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_read_never_worse(data: st.DataObject) -> None:
    """Whatever byte is changed, the outcome is a picture or an AskError."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    file = bytearray(file_of(Image.fromarray(noise(12, 12).numpy()), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = from_url("data:;base64," + base64.b64encode(bytes(file)).decode(), most_pixels=10_000)
    except AskError:
        return
    assert picture.pixels.dtype == torch.uint8 and picture.pixels.shape[2] == 3
