"""Images in, classes out."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from compress.data.batches import Batch, plain_batches
from compress.data.dataset import open_dataset
from compress.data.decode import one_line_reasons, read_image, to_rgb
from compress.models.checkpoint import Checkpoint, load
from compress.models.fuse_bn import fuse_conv_bn
from compress.runtime.device import full_precision, pick_device
from compress.runtime.errors import UserError
from compress.runtime.files import atomic_write

# What shows through transparent places, not inverted and inverted: black to the network, either way.
GROUND = ("black", "white")
FOLDING = 256  # images from which on folding batch norms pays: it takes as long as some hundred


@dataclass(frozen=True)
class Prediction:
    """What the network makes of one image."""

    image: str  # the path as it was found; "-" for standard input, and for an image without a name
    top: tuple[tuple[str, float], ...]  # (class, probability), most likely first
    error: str | None = None  # why the image could not be read, in one line; then `top` is empty


def prepare(image: Image.Image, checkpoint: Checkpoint, *, invert: bool = False) -> Tensor:
    """The network's view of `image`: float32 (3, H, W), sized and normalised as the weights file says.

    The image is resized, with antialiasing, until it just covers H × W; what stands over is cut off evenly.
    `invert` swaps light and dark: for dark on light, when the network learned from light on dark.

    Raises:
        UserError: the image's data turns out to be damaged; the text is the bare reason.
    """
    _, height, width = checkpoint.input_size
    with one_line_reasons():
        image = to_rgb(image, GROUND[invert])
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
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        batch: images that go through the network at once.

    Raises:
        UserError: at once: the weights file cannot be loaded, no such device, `top` or `batch` below 1.
    """
    if top < 1 or batch < 1:
        raise UserError(f"top and batch must be at least 1, not {top} and {batch}")
    place = pick_device(device)
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    model = copy.deepcopy(checkpoint.model).to(place).eval()

    def stream() -> Iterator[Prediction]:
        waiting, network, seen = iter(images), model, 0
        while sources := list(islice(waiting, batch)):
            seen += len(sources)
            if network is model and seen >= FOLDING:
                network = fuse_conv_bn(model)
            inputs = [_input(source, checkpoint, invert) for source in sources]
            readable = [one for one in inputs if isinstance(one, Tensor)]
            answers = iter(_classify(network, readable, checkpoint.classes, top, place))
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


def score_test(
    checkpoint: Checkpoint, data: str | None = None, device: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`score` of a weights file on the test split of `data`, by default the data set it was trained on.

    Raises:
        UserError: the data cannot be had, or its classes are not the file's.
    """
    place = pick_device(device)
    opened = open_dataset(data or checkpoint.data, size=checkpoint.input_size[-1])
    if opened.classes != checkpoint.classes:
        raise UserError(
            f"{opened.name} has other classes than the weights file, which knows {checkpoint.data}'s"
        )
    opened = replace(opened, mean=checkpoint.mean, std=checkpoint.std)
    pool = opened.test().to(place)
    model = fuse_conv_bn(checkpoint.model).to(place)
    return score(model, plain_batches(opened, pool, batch=500), len(checkpoint.classes))


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
    if not target.parent.is_dir() or (target.exists() and not target.is_file()):
        raise UserError(f"{path}: cannot be written, it is not a file in a folder that is there")
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("image", "rank", "class", "probability", "error"))
    for one in predictions:
        table.writerows((one.image, rank, *answer, "") for rank, answer in enumerate(one.top, 1))
        if one.error is not None:
            table.writerow((one.image, "", "", "", one.error))
    try:
        with atomic_write(target) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _input(
    source: str | Path | Image.Image | BinaryIO, checkpoint: Checkpoint, invert: bool
) -> Tensor | str:
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
    with full_precision():
        probabilities = model(torch.stack(inputs).to(place)).float().softmax(1).cpu()
    best = probabilities.topk(min(top, len(classes)))
    return [
        tuple((classes[index], value) for index, value in zip(indices, values, strict=True))
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
