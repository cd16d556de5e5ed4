"""Images in, classes out."""

from __future__ import annotations

import copy
import csv
import glob
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from compress.checkpoint import Checkpoint, load
from compress.errors import UserError

if TYPE_CHECKING:
    from compress.data.batches import Batch

# What is read, and the suffixes by which a folder's images are known. Not every format Pillow has: some of
# those hand the file to another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".jp2")

# The brightest value that an integer or a float image may mean: nothing in such a file tells which.
RANGES = {"I": (255.0, 65535.0, 2.0**31 - 1), "F": (1.0, 255.0, 65535.0)}

# What shows through transparent places, not inverted and inverted: black to the network, either way.
GROUND = ("black", "white")


@dataclass(frozen=True)
class Prediction:
    """What the network makes of one image."""

    image: str  # the path as it was found; "-" for standard input, and for an image without a name
    top: tuple[tuple[str, float], ...]  # (class, probability), most likely first
    error: str | None = None  # why the image could not be read, in one line; then `top` is empty


def find_images(patterns: Iterable[str]) -> list[str]:
    """The images that `patterns` name: files, folders (all below them, sorted), globs with `**`, or "-".

    A pattern that leads to nothing stays in the list as it is, so that it is reported when its turn comes to
    be read, and the others go on. Hidden files are passed over, unless named.
    """
    found: list[str] = []
    for pattern in patterns:
        try:
            found += _matches(pattern) or [pattern]
        except OSError:  # such as a name that is too long: reading it will say so
            found.append(pattern)
    return found


def read_image(source: str | Path | BinaryIO, background: str = "black") -> Image.Image:
    """Decode an image of any mode and size to 8-bit RGB, turned as its EXIF orientation says.

    Deeper images are scaled to 8 bits, not clipped; of an animation, the first frame counts.

    Args:
        source: a path, "-" for standard input, or an open binary file.
        background: what shows through transparent places; black, as behind white-on-black training images.

    Raises:
        UserError: there is no such file, it is no image, damaged, or too large; the text is the bare reason.
    """
    with _reasons():
        if source == "-":
            return _decode(sys.stdin.buffer, background)
        if not isinstance(source, str | Path):
            return _decode(source, background)
        path = Path(source)
        if path.is_dir():
            empty = next(_images_below(path), None) is None
            raise UserError("no images in this folder" if empty else "a folder, not an image")
        with path.open("rb") as file:
            return _decode(file, background)


def prepare(image: Image.Image, checkpoint: Checkpoint, *, invert: bool = False) -> Tensor:
    """The network's view of `image`: float32 (3, H, W), sized and normalised as the weights file says.

    The image is resized, with antialiasing, until it just covers H × W; what stands over is cut off evenly.
    `invert` swaps light and dark: for dark on light, when the network learned from light on dark.

    Raises:
        UserError: the image's data turns out to be damaged; the text is the bare reason.
    """
    _, height, width = checkpoint.input_size
    with _reasons():
        image = _rgb(image, GROUND[invert])
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = pil_to_tensor(image).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
    prepared: Tensor = ((1 - pixels if invert else pixels) - mean) / std
    return prepared


def predict(
    checkpoint: Checkpoint | str | Path,
    images: Iterable[str | Path | Image.Image | BinaryIO],
    *,
    top: int = 3,
    invert: bool = False,
    device: str = "auto",
    batch: int = 256,
) -> Iterator[Prediction]:
    """Classify `images`, in their order, reading no more than one batch ahead.

    An image that cannot be read becomes a `Prediction` with an error, in its place.

    Args:
        checkpoint: a loaded weights file, or the path of one; its model is left as it is.
        images: paths ("-" is standard input), Pillow images, or open binary files.
        top: classes per image, at most as many as there are.
        invert: swap light and dark first, see `prepare`.
        device: as torch names them; "auto" is the accelerator if there is one.
        batch: images that go through the network at once.

    Raises:
        UserError: at once: the weights file cannot be loaded, no such device, `top` or `batch` below 1.
    """
    if top < 1 or batch < 1:
        raise UserError(f"top and batch must be at least 1, not {top} and {batch}")
    place = _device(device)
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    model = copy.deepcopy(checkpoint.model).to(place).eval()

    def stream() -> Iterator[Prediction]:
        waiting = iter(images)
        while sources := list(islice(waiting, batch)):
            inputs = [_input(source, checkpoint, invert) for source in sources]
            readable = [one for one in inputs if isinstance(one, Tensor)]
            answers = iter(_classify(model, readable, checkpoint.classes, top, place))
            for source, one in zip(sources, inputs, strict=True):
                if isinstance(one, Tensor):
                    yield Prediction(_name(source), next(answers))
                else:
                    yield Prediction(_name(source), (), error=one)

    return stream()


@torch.inference_mode()
def score(model: nn.Module, batches: Iterable[Batch], classes: int) -> tuple[Tensor, Tensor]:
    """How often `model`, in evaluation mode, is right, class by class.

    Returns:
        Correct answers per class and images per class, both int64 (classes,) on the CPU. An image's class is
        the largest of its targets.
    """
    place = next(model.parameters()).device
    correct, total = torch.zeros(2, classes, dtype=torch.int64, device=place)
    for batch in batches:
        truth = batch.targets.to(place).argmax(1)
        hit = model(batch.images.to(place)).argmax(1) == truth
        correct += torch.bincount(truth[hit], minlength=classes)
        total += torch.bincount(truth, minlength=classes)
    return correct.cpu(), total.cpu()


def to_json(predictions: Iterable[Prediction]) -> str:
    """A JSON list of {"image", "top": [{"class", "probability"}]}, with "error" where there was one."""
    rows = []
    for one in predictions:
        top = [{"class": name, "probability": probability} for name, probability in one.top]
        row: dict[str, Any] = {"image": one.image, "top": top}
        rows.append(row if one.error is None else row | {"error": one.error})
    return json.dumps(rows, indent=2)


def write_csv(predictions: Iterable[Prediction], path: str | Path) -> None:
    """Write image, rank (from 1), class, probability, error: a line per class, or one for an error.

    `path` gets the whole table or stays as it was.

    Raises:
        UserError: `path` cannot be written.
    """
    target = Path(path).resolve()  # a link stays one, and what it points to is replaced
    if target.exists() and not target.is_file():
        raise UserError(f"{path}: cannot be written, it is not a file")
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".predictions.")
        try:
            with os.fdopen(handle, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                table = csv.writer(file)
                table.writerow(("image", "rank", "class", "probability", "error"))
                for one in predictions:
                    table.writerows((one.image, rank, *answer, "") for rank, answer in enumerate(one.top, 1))
                    if one.error is not None:
                        table.writerow((one.image, "", "", "", one.error))
            Path(temporary).chmod(0o644)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _matches(pattern: str) -> list[str]:
    if Path(pattern).is_dir():
        return [str(path) for path in sorted(_images_below(Path(pattern)))]
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [pattern]
    return sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207


def _images_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _decode(file: BinaryIO, background: str) -> Image.Image:
    if not file.seekable():
        file = io.BytesIO(file.read())
    if file.seek(0, os.SEEK_END) == 0:
        raise UserError("an empty file")
    with Image.open(file, formats=FORMATS) as image:
        image.load()
        return _rgb(image, background)


def _rgb(image: Image.Image, background: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16- or 32-bit image in 8 bits, by the range of "I;16", or for "I" and "F" the first that fits."""
    values = pil_to_tensor(image.convert("F")).nan_to_num(0.0, 0.0, 0.0)
    brightest = float(values.max())
    ranges = (65535.0,) if image.mode.startswith("I;16") else RANGES[image.mode]
    scale = next((limit for limit in ranges if brightest <= limit), brightest)
    scaled: Image.Image = to_pil_image((values / scale * 255).round().clamp(0, 255).to(torch.uint8))
    return scaled


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever an image may bring about into a `UserError` of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UserError:
        raise
    except Exception as error:  # a damaged file raises a dozen types in Pillow
        raise UserError(_reason(error)) from error


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "no such file"
        case UnidentifiedImageError():
            return f"not an image that can be read ({', '.join(FORMATS)})"
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"too large, more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        case OSError(strerror=str(text)):
            return text.lower()
    text = str(error).strip() or type(error).__name__
    return f"damaged, or cut short ({text.splitlines()[0][:160]})"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} is not there; 'auto' takes what is") from error


def _input(source: str | Path | Image.Image | BinaryIO, checkpoint: Checkpoint, invert: bool) -> Tensor | str:
    """The prepared image, or why there is none."""
    try:
        if not isinstance(source, Image.Image):
            source = read_image(source, GROUND[invert])
        return prepare(source, checkpoint, invert=invert)
    except UserError as error:
        return str(error)


def _name(source: str | Path | Image.Image | BinaryIO) -> str:
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return name if isinstance(name, str) else "-"


@torch.inference_mode()
def _classify(
    model: nn.Module, inputs: list[Tensor], classes: tuple[str, ...], top: int, place: torch.device
) -> list[tuple[tuple[str, float], ...]]:
    if not inputs:  # not one of the batch could be read
        return []
    probabilities = model(torch.stack(inputs).to(place)).float().softmax(1).cpu()
    best = probabilities.topk(min(top, len(classes)))
    return [
        tuple((classes[index], value) for index, value in zip(indices, values, strict=True))
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
