"""Image files of all kinds decode to the image they show, as toy classifiers find."""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.io import decode_jpeg
from toy_classifiers import (
    CORNER,
    CORNERS,
    SHADE,
    SHADES,
    Corner,
    Shade,
    best,
    checkpoint,
    corner_image,
    stored,
)

from compress.data.arrays import images_to_pixels
from compress.data.decode import find_images, read_photo
from compress.deployment.predict import predict, prepare
from compress.runtime.errors import UserError

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "HSV",
    "I",
    "F",
    "I;16",
    "I;16B",
)
ORIENTATION = 0x0112

# Trained on white objects on black.
ON_BLACK = replace(CORNER, background="black")


@pytest.mark.parametrize("level", [0, 64, 128, 191, 255])
def test_images_of_8_16_and_32_bits_have_the_same_brightness(tmp_path: Path, level: int) -> None:
    def flat(mode: str, value: float) -> Image.Image:
        image = Image.new(mode, (9, 7), value)
        # The brightest value shows the range.
        image.putpixel((0, 0), {"I": 65535, "F": 1.0}.get(mode, value))
        return image

    flat("L", level).save(tmp_path / "8.png")
    Image.new("RGB", (5, 5), (level,) * 3).save(tmp_path / "rgb.bmp")
    Image.new("CMYK", (5, 5), (0, 0, 0, 255 - level)).save(tmp_path / "cmyk.tif")
    Image.new("CMYK", (16, 16), (0, 0, 0, 255 - level)).save(tmp_path / "cmyk.jpg")
    flat("I;16", level * 257).save(tmp_path / "16.png")
    flat("I;16", level * 257).save(tmp_path / "16.tif")
    flat("I", level * 257).save(tmp_path / "16.pgm")
    Image.new("I", (5, 5), level * (2**31 - 1) // 255).save(tmp_path / "32.tif")
    flat("F", level / 255).save(tmp_path / "float.tif")
    for path in sorted(tmp_path.iterdir()):
        if path.name != "32.tif" or level:
            assert abs(int(read_photo(path).pixels[0, 3, 3]) - level) <= 1, path.name
    shade = SHADES[round(level / 255 * 4)]
    assert (
        best(SHADE, *(path for path in tmp_path.iterdir() if path.stem in ("8", "rgb", "cmyk")))
        == [shade] * 4
    )


@pytest.mark.parametrize(("brightest", "white"), [(300, 4095), (4095, 4095), (4096, 65535)])
def test_12_bits_in_16_keep_their_levels(tmp_path: Path, brightest: int, white: int) -> None:
    """Training and predictions see the same, of files and of arrays."""
    values = np.linspace(0, brightest, 63).round().astype(np.uint16).reshape(7, 9)
    expected = torch.from_numpy((values * (255 / white)).round()).to(torch.uint8)
    image = Image.fromarray(values)
    image.save(tmp_path / "12.png")
    image.save(tmp_path / "12.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "12.pgm")
    for source in (*tmp_path.iterdir(), image, values, np.repeat(values[..., None], 3, 2)):
        assert torch.equal(read_photo(source).pixels[0], expected), source
    bright = np.full_like(values, 60_000)
    assert torch.equal(images_to_pixels(np.stack([values, bright]))[0, 0], expected)


def test_alpha_and_colours_of_an_array_are_on_one_scale() -> None:
    values = np.full((6, 6, 4), 4000, np.uint16)
    values[..., 3] = 65535
    assert read_photo(values).pixels[:, 0, 0].tolist() == [16] * 3
    floats = np.ones((6, 6, 4), np.float32)
    floats[..., 3] = 255
    assert read_photo(floats).pixels[:, 0, 0].tolist() == [1] * 3


def test_alpha_is_the_last_channel_in_either_order() -> None:
    values = np.full((5, 6, 4), 200, np.uint8)
    values[..., 3] = 0
    first = np.moveaxis(values, -1, 0)
    for each in (values, first, torch.from_numpy(values), torch.from_numpy(first.copy())):
        assert read_photo(each, "black").pixels.shape == (3, 5, 6)
        assert int(read_photo(each, "black").pixels.max()) == 0
    narrow = torch.full((3, 6, 4), 200, dtype=torch.uint8)
    assert read_photo(narrow).pixels.shape == (3, 6, 4)


def test_not_a_number_is_black() -> None:
    image = Image.new("F", (4, 4), float("nan"))
    image.putpixel((1, 1), 255.0)
    pixels = prepare(image, checkpoint(Shade(), SHADES, (3, 4, 4), centre=0))
    assert pixels[0, 0].flatten().tolist() == [float(place == 5) for place in range(16)]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_parts_get_the_background_that_the_network_sees(kind: str) -> None:
    glass = Image.new("RGBA", (20, 20), (255, 255, 255, 0))
    glass.paste((255, 255, 255, 255), (10, 0, 20, 10))
    file = partial(stored, glass, kind, lossless=True)
    assert best(ON_BLACK, file()) == ["top right"]
    assert best(CORNER, file(), background="black") == ["top right"]
    assert best(ON_BLACK, file(), background="#ffffff") == best(CORNER, file()) != ["top right"]
    drawing = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (10, 0, 20, 10))
    assert (
        best(ON_BLACK, stored(drawing, kind, lossless=True), drawing, invert=True)
        == ["top right"] * 2
    )


def test_transparency_of_grey_and_palette_images(tmp_path: Path) -> None:
    grey = Image.new("LA", (20, 20), (255, 0))
    grey.paste((255, 255), (0, 10, 10, 20))
    grey.save(tmp_path / "la.png")
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([255, 255, 255, 250, 250, 250])
    palette.paste(1, (0, 10, 10, 20))
    palette.save(tmp_path / "p.png", transparency=0)
    palette.save(tmp_path / "p.gif", transparency=0)
    palette.save(tmp_path / "bytes.png", transparency=b"\x00\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert best(ON_BLACK, *sorted(tmp_path.iterdir())) == ["bottom left"] * 4


def test_threads_leave_standard_error_and_warnings_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, left = threading.Semaphore(0), {str(each): threading.Event() for each in range(3)}

    def decode_slowly(data: torch.Tensor) -> torch.Tensor:
        entered.release()
        left[threading.current_thread().name].wait(20)
        return decode_jpeg(data)

    monkeypatch.setattr("compress.data.decode.decode_jpeg", decode_slowly)
    before, filters = os.fstat(2), [*warnings.filters]
    files = [stored(corner_image(), "JPEG") for _ in left]
    threads = [
        threading.Thread(target=read_photo, args=[file], name=name)
        for file, name in zip(files, left, strict=True)
    ]
    for each in threads:
        each.start()
        assert entered.acquire(timeout=20)
    # The first one to come is the first one to go.
    for each in threads:
        left[each.name].set()
        each.join()
    assert os.path.samestat(os.fstat(2), before) and [*warnings.filters] == filters


def test_the_exif_orientation_is_applied_once() -> None:
    exif = Image.Exif()
    # A quarter turn clockwise.
    exif[ORIENTATION] = 6
    file = stored(corner_image(), "JPEG", exif=exif)
    turned = read_photo(file).pixels
    assert best(CORNER, file, turned, Image.open(file)) == ["top right"] * 3
    wide = read_photo(stored(corner_image((40, 20)), "JPEG", exif=exif))
    assert wide.size == (40, 20) == wide.pixels.shape[1:]


def test_images_are_inverted_and_normalized() -> None:
    image = corner_image()
    assert best(CORNER, image) == ["top left"]
    assert best(SHADE, Image.new("L", (9, 9), 0), invert=True) == ["white"]
    assert prepare(Image.new("L", (9, 9), 255), SHADE).unique().tolist() == [1.0]
    assert prepare(Image.new("L", (9, 9), 255), SHADE, invert=True).unique().tolist() == [-1.0]


def test_the_longer_side_is_cropped_evenly() -> None:
    wide = corner_image((300, 100), box=(0, 0, 99, 100))
    wide.paste(255, (201, 0, 300, 100))
    assert best(SHADE, wide, wide.rotate(90, expand=True)) == ["black"] * 2
    tall = checkpoint(Corner(), CORNERS, (3, 20, 10), centre=0)
    assert prepare(wide, tall).shape == (1, 3, 20, 10)


def test_an_image_of_the_right_size_is_not_changed() -> None:
    pixels = torch.randint(0, 256, (28, 28), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    assert torch.equal(prepare(image, CORNER), (pixels / 255).expand(1, 3, 28, 28))


def test_the_first_frame_of_an_animation_is_decoded() -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (255, 0)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        assert best(SHADE, stored(frames[0], kind, save_all=True, append_images=frames[1:])) == [
            "white"
        ], kind


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODES), st.integers(1, 300), st.integers(1, 300), st.booleans(), st.data())
def test_any_mode_and_size_can_be_prepared(
    mode: str, width: int, height: int, invert: bool, data: Any
) -> None:
    image = Image.new(mode, (width, height), data.draw(st.sampled_from([0, 1])))
    size = data.draw(st.sampled_from([(3, 28, 28), (3, 32, 8), (3, 1, 5)]))
    pixels = prepare(image, checkpoint(Shade(), SHADES, size), invert=invert)
    assert (
        pixels.shape == (1, *size)
        and pixels.dtype == torch.float32
        and bool(pixels.isfinite().all())
    )
    assert pixels.min() >= -1 and pixels.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 1), (2, 3)])
def test_extreme_sizes_are_decoded(size: tuple[int, int]) -> None:
    assert best(SHADE, stored(Image.new("L", size, 255), "PNG")) == ["white"]


def test_errors_take_the_places_of_their_images_and_are_one_line(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 80)
    (tmp_path / "cut.jpg").write_bytes(stored(noise, "JPEG").getvalue()[:900])
    (tmp_path / "cut.png").write_bytes(stored(noise, "PNG").getvalue()[:900])
    (tmp_path / "text.png").write_text("not an image\n")
    (tmp_path / "nothing.png").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "program.eps").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )
    (tmp_path / "bomb.pgm").write_bytes(b"P5 60000 60000 255\n")
    (tmp_path / "large.pgm").write_bytes(b"P5 10000 10000 255\n")
    wrong = {
        "cut.jpg": "cut short",
        "cut.png": "cut short",
        "text.png": "not an image",
        "nothing.png": "an empty file",
        "folder": "no images in this folder",
        "program.eps": "not an image",
        "bomb.pgm": "too large",
        "large.pgm": "too large",
        "missing.png": "no such file",
        "n" * 300 + ".png": "file name too long",
    }
    corner_image().save(tmp_path / "good.png")
    order = [name for bad in wrong for name in (bad, "good.png")]
    found = find_images(str(tmp_path / name) for name in order)
    assert found == [str(tmp_path / name) for name in order]
    for batch in (1, 3, 256):
        predictions = list(predict(CORNER, found, batch_size=batch))
        assert [one.image for one in predictions] == found
        for name, one in zip(order, predictions, strict=True):
            if name == "good.png":
                assert one.error is None and one.top[0][0] == "top left"
            else:
                assert (
                    one.top == ()
                    and one.error
                    and wrong[name] in one.error
                    and "\n" not in one.error
                )
    with pytest.raises(UserError, match=r"^no such file$"):
        read_photo(tmp_path / "missing.png")
    with pytest.raises(UserError, match="a folder, not an image"):
        read_photo(tmp_path)


def test_find_images_expands_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b/2.PNG",
        "b/1.jpeg",
        "b/deep/er/3.webp",
        "b/notes.txt",
        "b/.hidden/4.png",
        "a[1].png",
        "a1.png",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert find_images(["b"]) == ["b/1.jpeg", "b/2.PNG", "b/deep/er/3.webp"]
    assert find_images(["-", "a[1].png", "a?.png", "b/**/*.webp"]) == [
        "-",
        "a[1].png",
        "a1.png",
        "b/deep/er/3.webp",
    ]
    assert find_images([str(tmp_path / "*.png")]) == [
        str(tmp_path / "a1.png"),
        str(tmp_path / "a[1].png"),
    ]
    assert find_images(["none.png", "*.none", "b/notes.txt"]) == [
        "none.png",
        "*.none",
        "b/notes.txt",
    ]
    assert find_images([]) == []


def test_standard_input_may_be_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = os.pipe()

    def feed() -> None:
        with os.fdopen(here, "wb") as pipe:
            pipe.write(stored(corner_image(), "PNG").getvalue())

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(there, "rb") as pipe:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=pipe))
        (one,) = predict(CORNER, ["-"])
    feeder.join()
    assert one.image == "-" and one.top[0][0] == "top left"
    assert next(predict(CORNER, [stored(corner_image(), "PNG")])).image == "-"
