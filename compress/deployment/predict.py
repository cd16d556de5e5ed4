"""Predictions: images in, classes and probabilities out, or masks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from compress.data.arrays import is_array, is_single_image, to_one_scale
from compress.data.batches import scored_at_once
from compress.data.decode import ImageSource, describe_no_image, read_photo, translate_errors
from compress.data.photo import Framing, fit_photo
from compress.deployment.load_model import load_model
from compress.models.checkpoint import Checkpoint
from compress.models.fuse_bn import fuse_conv_bn
from compress.models.memory_format import to_channels_last
from compress.recipe.color import invert_color, read_color
from compress.runtime.device import full_precision, pick_device
from compress.runtime.errors import UserError
from compress.training.task import make_plain_task

# Images from which fusing batch norms saves time, or as many as fill a batch: it takes as long as a
# few hundred small ones.
FUSE_FROM = 256


@dataclass(frozen=True)
class Prediction:
    """Classes of one image.

    Args:
        image: path of the image; "-" for standard input, and for an image without a name.
        top: (class, probability), most likely first; of a network that labels pixels, the classes
            with the largest parts of the image, and these parts.
        error: one line, if the image cannot be read; `top` is empty then.
        label: the image's true class, if it is known.
        mask: class number of each pixel of the square that the network sees, uint8 (S, S), of a
            network that labels pixels.
    """

    image: str
    top: tuple[tuple[str, float], ...]
    error: str | None = None
    label: str | None = None
    mask: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def correct(self) -> bool | None:
        """True if the most likely class is the label; None if one of the two is missing."""
        return None if self.label is None or not self.top else self.top[0][0] == self.label


def prepare(
    image: ImageSource,
    checkpoint: Checkpoint,
    *,
    invert: bool = False,
    background: str | None = None,
) -> Tensor:
    """Prepare an image for a network, as in training: float32 (1, C, H, W), normalized.

    It is decoded to 8-bit RGB, or grey for a grey network, turned by its EXIF orientation, laid
    over the background where it is transparent, resized with antialiasing, and cropped at the
    centre.

    Args:
        image: path ("-" is standard input), open binary file, Pillow image, or array or tensor
            (H, W), (H, W, C) or (C, H, W): uint8, uint16, or floats from 0 to 1.
        invert: swap light and dark: for dark objects on a light background, if the network was
            trained on light objects on a dark background.
        background: colour behind transparent parts, as ``white`` or ``#rrggbb``; the checkpoint's
            if left out.

    Raises:
        UserError: the image cannot be read; the message is the reason alone. Or there is no such
            colour.

    Example:
        >>> logits = checkpoint.model(prepare("shirt.png", checkpoint))
        >>> (logits / checkpoint.temperature).softmax(1)
    """
    channels, height, width = checkpoint.input_size
    # With `invert`, the colour that the network sees is meant.
    ground = read_color(checkpoint.background if background is None else background)
    photo = read_photo(
        image,
        invert_color(ground) if invert else ground,
        grey=channels == 1,
        framing=Framing(max(height, width), checkpoint.crop_ratio),
    )
    with translate_errors():
        pixels = fit_photo(photo, (height, width), checkpoint.crop_ratio).float() / 255
    mean, std = (
        torch.tensor(values).view(-1, 1, 1) for values in (checkpoint.mean, checkpoint.std)
    )
    prepared: Tensor = ((1 - pixels if invert else pixels) - mean) / std
    return prepared[None]


def predict(
    checkpoint: Checkpoint | str | Path,
    images: ImageSource | Iterable[ImageSource],
    *,
    top: int = 3,
    invert: bool = False,
    background: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
) -> Iterator[Prediction]:
    """Classify images, or their pixels, in their order, reading at most one batch ahead.

    An image that cannot be read gives a `Prediction` with an error.

    Args:
        checkpoint: weights file or exported file, or its path. The model does not change.
        images: paths ("-" is standard input), Pillow images, open binary files, arrays or tensors,
            in any mixture; or one of them. An array is (H, W), (H, W, C) or (C, H, W), C = 1, 3, or
            4 with alpha, and not normalized: uint8, uint16, or floats of 0 to 1. Where both orders
            are possible, arrays have their channels last and tensors first. A single array may hold
            many images, (N, H, W), (N, H, W, C) or (N, C, H, W). Floats in one array, list or tuple
            are on one scale: whole numbers up to 255 are taken for bytes if no image has others.
        top: number of classes per image, at most all.
        invert: swap light and dark first; see `prepare`.
        background: colour behind transparent parts; the checkpoint's if left out.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        batch_size: number of images that go through the network at once; what suits their size if
            left out.

    Raises:
        UserError: the weights file cannot be loaded, there is no such device or colour, an array
            may be one image or several, or `top` or `batch_size` is below 1. It is raised at the
            call, before any image is read.

    Example:
        >>> weights = "weights/fashion-mnist-100k.pth"
        >>> bag, coat = predict(weights, ["docs/images/bag.png", "docs/images/coat.png"], top=1)
        >>> coat.top[0][0]
        'Coat'
        >>> [dark] = predict(weights, np.zeros((28, 28), np.uint8))
        >>> len(dark.top)
        3
    """
    if top < 1 or (batch_size is not None and batch_size < 1):
        raise UserError(f"top and batch_size must be at least 1, not {top} and {batch_size}")
    if background is not None:
        background = read_color(background)
    target = pick_device(device)
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load_model(checkpoint)
    model = to_channels_last(copy.deepcopy(checkpoint.model)).to(target).eval()
    fits = scored_at_once(max(checkpoint.input_size[1:]))
    at_once, fused_from = batch_size or fits, min(FUSE_FROM, fits)

    remaining = _list_sources(images, checkpoint.input_size[0])

    def stream() -> Iterator[Prediction]:
        network, count = model, 0
        while sources := list(islice(remaining, at_once)):
            count += len(sources)
            if network is model and count >= fused_from:
                network = fuse_conv_bn(model)
            inputs = [_prepare_source(source, checkpoint, invert, background) for source in sources]
            readable = [each for each in inputs if isinstance(each, Tensor)]
            results = iter(_run(network, readable, checkpoint, top, target))
            for source, each in zip(sources, inputs, strict=True):
                if isinstance(each, Tensor):
                    classes, mask = next(results)
                    yield Prediction(_source_name(source), classes, mask=mask)
                else:
                    yield Prediction(_source_name(source), (), error=each)

    return stream()


def _list_sources(
    images: ImageSource | Iterable[ImageSource], channels: int
) -> Iterator[ImageSource]:
    """Return an iterator of single images, for a network that takes so many channels."""
    known = isinstance(images, Iterable | Image.Image) or hasattr(images, "read")
    if not known or isinstance(images, bytes | bytearray | memoryview):
        raise UserError(f"images: {describe_no_image(images)}")
    if isinstance(images, str | Path | Image.Image) or hasattr(images, "read"):
        return iter([images])  # type: ignore[list-item]
    if is_array(images):
        if is_single_image(images, channels):
            return iter([images])  # type: ignore[list-item]
        return iter(to_one_scale([images])[0])
    if isinstance(images, list | tuple):
        return iter(to_one_scale(images))
    return iter(images)


def _prepare_source(
    source: ImageSource, checkpoint: Checkpoint, invert: bool, background: str | None
) -> Tensor | str:
    """Return the preprocessed image, or the reason why it cannot be read."""
    try:
        return prepare(source, checkpoint, invert=invert, background=background)
    except UserError as error:
        return str(error)


def _source_name(source: ImageSource) -> str:
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return name if isinstance(name, str) else "-"


@torch.inference_mode()
def _run(
    model: nn.Module,
    inputs: list[Tensor],
    checkpoint: Checkpoint,
    top: int,
    device: torch.device,
) -> list[tuple[tuple[tuple[str, float], ...], Tensor | None]]:
    """Return classes with their probabilities, or their parts of the image and its mask."""
    if not inputs:
        return []
    with full_precision():
        logits = model(torch.cat(inputs).to(device)).float()
    classes = checkpoint.classes
    probabilities = (logits / checkpoint.temperature).softmax(1).cpu()
    shown, masks = make_plain_task(checkpoint.labels, len(classes)).summarize(probabilities)
    best = shown.topk(min(top, len(classes)))
    tops = [
        tuple((classes[index], value) for index, value in zip(indices, values, strict=True))
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return list(zip(tops, masks, strict=True))
