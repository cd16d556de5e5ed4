"""Models from any file: weights files of this package, exported files, files of other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.source import IMAGENET_NORMALIZATION, fit_channels
from compress.deployment.description import Description, make_description
from compress.deployment.formats import Infer, fill_size, find_format, open_exported
from compress.models.build import import_builder
from compress.models.checkpoint import Checkpoint, load
from compress.models.tensor_file import read_tensors
from compress.recipe.model_spec import ModelSpec
from compress.runtime.arguments import read_normalization
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import require_file


@dataclass(frozen=True)
class Foreign:
    """What a file of another program does not say about itself.

    Args:
        classes: names of the classes, in the order of its outputs; numbers if left out.
        mean, std: by channel, for pixels scaled to 0..1; those of ImageNet if left out.
        image_size: side of its images, in pixels, if the file leaves it open.
    """

    classes: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    image_size: int | None = None


class RuntimeModel(nn.Module):
    """An exported file as a module: normalized images (B, C, H, W) to logits (B, classes).

    It computes on the CPU, and its answer is on the device of the images.

    Args:
        infer: computes logits.
        description: of the file.
        uint8: the file takes pixels; the module takes them scaled to 0..1.
    """

    def __init__(self, infer: Infer, description: Description, uint8: bool) -> None:
        super().__init__()
        self.infer, self.description, self.uint8 = infer, description, uint8
        # Callers ask for the device of a module's first parameter.
        self.nothing = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.detach()[:, : self.description.input_size[0]].float().cpu()
        if self.uint8:
            pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        logits = self.infer(pixels.contiguous().numpy())
        return torch.from_numpy(np.asarray(logits, np.float32)).to(images.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> RuntimeModel:
        # A runtime's session cannot be copied, and has no state that changes.
        return self


def load_model(
    path: str | Path,
    builder: Callable[..., nn.Module] | None = None,
    foreign: Foreign | None = None,
) -> Checkpoint:
    """Load a model from a weights file or an exported one.

    Args:
        path: file that `compress.save` or `compress.export` wrote, or an ONNX file of another
            program that takes images and gives classes.
        builder: as for `compress.load`.
        foreign: what a file of another program does not say about itself.

    Returns:
        The checkpoint; of an exported file, its model is a `RuntimeModel`.

    Raises:
        UserError: anything is wrong with the file; one line that names it.
    """
    path = require_file(path)
    if find_format(path) is None:
        return load(path, builder)
    runner = open_exported(path, torch.get_num_threads())
    try:
        known = runner.description
        if known is None:
            known = _describe_foreign(
                foreign or Foreign(), runner.input_size, runner.num_classes, runner.uint8
            )
        model = RuntimeModel(runner.infer, known, runner.uint8).eval()
        model = _check_logits(model, known)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    channels = known.input_size[0]
    return Checkpoint(
        model=model,
        network=ModelSpec(known.network or path.stem),
        classes=known.classes,
        input_size=known.input_size,
        # A file that takes pixels normalizes them itself.
        mean=(0.0,) * channels if runner.uint8 else known.mean,
        std=(1.0,) * channels if runner.uint8 else known.std,
        data=known.data,
        origin=known.origin,
        crop_ratio=known.crop_ratio,
        background=known.background,
        temperature=known.temperature,
        labels=known.labels,
    )


def choose_builder(path: str | Path, builders: Sequence[str]) -> Callable[..., nn.Module] | None:
    """Import the function that builds a file's network: of several, the one that the file names.

    Args:
        builders: ``package.module:function``, of which only one is imported.

    Raises:
        UserError: it cannot be imported, or the file cannot be read.
    """
    if not builders or find_format(path) is not None:
        return None
    name = builders[0]
    if len(builders) > 1:
        network = read_tensors(path).get("network")
        named = network.get("name") if isinstance(network, dict) else None
        name = next((each for each in builders if each == named), name)
    return import_builder(name)


def _describe_foreign(
    foreign: Foreign, size: tuple[int, int, int], num_classes: int, uint8: bool
) -> Description:
    """Describe a file of another program, as far as it tells and `foreign` adds."""
    channels, height, width = fill_size(size, foreign.image_size)
    if not num_classes and foreign.classes is None:
        raise UserError("does not say how many classes it has; name them with --classes")
    classes = foreign.classes or [str(number) for number in range(num_classes)]
    if num_classes and len(classes) != num_classes:
        raise UserError(f"has {num_classes} classes, and --classes names {len(classes)}")
    usual_mean, usual_std = IMAGENET_NORMALIZATION
    mean, std = read_normalization(
        usual_mean if foreign.mean is None else foreign.mean,
        usual_std if foreign.std is None else foreign.std,
    )
    return make_description(
        classes=tuple(classes),
        input_size=(channels, height, width),
        mean=fit_channels(mean, channels),
        std=fit_channels(std, channels),
        background="white",
        uint8=uint8,
    )


def _check_logits(model: RuntimeModel, known: Description) -> RuntimeModel:
    """Run a model once; of one that gives probabilities, make one that gives their logarithms."""
    try:
        answer = model(torch.full((2, *known.input_size), 0.5))
    except Exception as error:  # a runtime may raise anything
        raise UserError(f"does not run on images {known.input_size} ({one_line(error)})") from error
    if answer.shape != (2, *known.logits_shape) or not bool(torch.isfinite(answer).all()):
        raise UserError(
            f"gives {tuple(answer.shape)} for two images; expected {len(known.classes)} finite"
            " logits for each"
        )
    total = answer.double().sum(1)
    if bool((answer >= 0).all()) and bool(((total - 1).abs() < 1e-3).all()):
        infer = model.infer
        logs: Infer = lambda images: np.log(np.maximum(infer(images), 1e-30))  # noqa: E731
        return RuntimeModel(logs, known, model.uint8).eval()
    return model
