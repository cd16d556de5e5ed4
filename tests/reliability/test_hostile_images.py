"""A hostile image file takes neither gigabytes nor time without end."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import read_limited
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor

from compress.data import color, decode
from compress.data.color import convert_to_rgb
from compress.data.decode import MAX_SIDE, find_images, read_photo, read_size
from compress.data.folders import open_folder
from compress.data.photo import Framing, fit_photo
from compress.data.verify import _find_faults
from compress.runtime.errors import UserError


def to_png(width: int, height: int, depth: int, kind: int, line: int) -> bytes:
    """Return a PNG of zeros, whose lines have `line` bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(line + 1) * 1000) for _ in range(height // 1000))
    rows += packer.compress(bytes(line + 1) * (height % 1000)) + packer.flush()
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


BOMBS = {
    "a column of millions of pixels": lambda: to_png(1, 20_000_000, 8, 0, 1),
    "a row of millions of pixels": lambda: to_png(80_000_000, 1, 1, 0, 10_000_000),
    "more pixels than any camera has": lambda: to_png(60_000, 60_000, 1, 0, 0),
    "a size that a computer cannot count": lambda: to_png(2**31 - 1, 2**31 - 1, 8, 2, 0)[:1000],
}


def prepare(path: Path) -> torch.Tensor:
    return fit_photo(read_photo(path, framing=Framing(28)), (28, 28), 1.0)


@pytest.mark.slow
def test_images_are_refused_within_a_gigabyte_and_seconds(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in BOMBS]
    for path, make in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(make())
        assert path.stat().st_size < 10**6
    for read in (prepare, lambda path: _raise(_find_faults([path])[0])):
        assert all(message and "\n" not in message for message in read_limited(read, paths))


def _raise(fault: str | None) -> None:
    if fault:
        raise UserError(fault)


@pytest.mark.slow
def test_large_images_are_read_within_a_gigabyte(tmp_path: Path) -> None:
    """Of as many pixels as are accepted, in the modes of which Pillow makes the most copies."""
    paths = [tmp_path / "transparent.png", tmp_path / "deep.png", tmp_path / "transparent grey.png"]
    for path, depth, kind, size in zip(paths, (8, 16, 8), (6, 0, 4), (4, 2, 2), strict=True):
        path.write_bytes(to_png(7000, 7000, depth, kind, 7000 * size))
    assert read_limited(prepare, paths) == [None] * 3


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    pipe = tmp_path / "cat" / "pipe.png"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    assert find_images([str(pipe)]) == [str(pipe)]
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(UserError, match="pipe or a device"):
            read_photo(path)
        assert read_size(path) is None
    assert all(_find_faults([pipe]))
    with pytest.raises(UserError):
        open_folder(tmp_path)


def test_an_image_on_standard_input_is_not_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = io.TextIOWrapper(io.BytesIO(bytes(1000)))
    monkeypatch.setattr("sys.stdin", endless)
    monkeypatch.setattr(decode, "MAX_STREAM_BYTES", 100)
    with pytest.raises(UserError, match="too large"):
        read_photo("-")
    assert endless.buffer.tell() == 101


def test_a_long_side_is_refused_before_its_pixels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(to_png(1, MAX_SIDE + 1, 8, 0, 1)[:60])
    with pytest.raises(UserError, match="too large"):
        read_photo(path)


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["L", "LA", "P", "RGB", "RGBA", "I", "I;16", "F", "CMYK", "1", "PA"]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    rows=st.integers(1, 30),
    seed=st.integers(0, 999),
)
def test_bands_make_no_difference(mode: str, size: tuple[int, int], rows: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    if mode in ("I", "I;16", "F"):
        wide = draw.integers(0, draw.choice([2, 256, 65536]), (size[1], size[0]))
        kind = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
        image = Image.fromarray(wide.astype(kind))
    elif mode != "RGBA":
        image = image.convert(mode if mode != "PA" else "P")
        if mode == "P":
            image.info["transparency"] = 0
    with pytest.MonkeyPatch.context() as patch:
        whole = convert_to_rgb(image, "#123456")
        patch.setattr(color, "BAND_PIXELS", rows)
        banded = convert_to_rgb(image, "#123456")
    assert torch.equal(pil_to_tensor(whole), pil_to_tensor(banded))
    assert whole.mode == "RGB" and ImageOps.exif_transpose(whole).size == size
