"""Adoption: networks that were trained elsewhere become checkpoints of this package."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.data.source import IMAGENET_NORMALIZATION
from compress.models import checkpoint
from compress.models.build import builder_of
from compress.models.channels import first_convolution, input_channels
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.models.outputs import refuse_probabilities
from compress.models.tensor_file import read_training_file
from compress.pipeline.load_networks import LoadedNetwork, load_networks
from compress.pipeline.provenance import make_checkpoint
from compress.recipe.model_spec import ModelSpec
from compress.runtime.arguments import (
    read_normalization,
    require_name,
    require_path,
    require_side,
)
from compress.runtime.errors import UserError, is_out_of_memory, one_line
from compress.training.evaluate import measure_accuracy
from compress.training.task import make_task

# Sides of images that are tried if none is given, in pixels, and the held-out images that are
# scored at each.
IMAGE_SIZES = (28, 32, 64, 96, 128, 160, 224, 288)
SCORED_IMAGES = 100
# Multiply-adds, of all scored images, above which a size is not tried: half a minute on two cores.
MOST_MACS = 5e11

# Characters of a message about a file, whose names may be long.
OUR_LIMIT = 800

# Keys of averaged weights.
AVERAGED = re.compile(r"ema|averag|swa", re.IGNORECASE)


def adopt(
    tensors: str | Path | Mapping[str, Any],
    network: ModelSpec | str,
    data: str,
    *,
    image_size: int | None = None,
    mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
    std: Sequence[float] = IMAGENET_NORMALIZATION[1],
    crop_ratio: float | None = None,
    background: str | None = None,
    key: str | None = None,
    force: bool = False,
    skip_broken: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Checkpoint, float]:
    """Turn a trained network into a checkpoint, which `run` can prune or distill from.

    The tensors are found by the network's own names, under any key and with any prefix, as
    Lightning and wrappers for several GPUs and for averaged weights leave them. If there are
    several complete sets, the one that scores best on held-out images is taken.

    Args:
        tensors: ``model.state_dict()``; or the file that it was saved to, by itself or in a
            training script's checkpoint, by PyTorch or as safetensors. No code in the file is run.
        network: the network's specification or name: ``resnet50``, ``package.module:function``.
        data: the data set that it was trained on, as recipes name it; its classes are those of the
            logits, in order.
        image_size: side of the images that it takes, in pixels. If left out, the data's own, unless
            a common size clearly scores better.
        mean, std: normalization by channel, for pixels scaled to 0..1; a single value counts for
            all channels.
        crop_ratio: part of an image that it sees: the side of the centre, relative to the shorter
            side. If left out, 0.875 for photos and 1 for small images, as in recipes.
        background: colour behind transparent parts of images; white, or the data set's own, if left
            out.
        key: key of the file under which the tensors are looked for, as ``model_ema``.
        force: leave out tensors that the network does not have.
        skip_broken: leave out image files that cannot be read, instead of refusing them.
        log: called with each line worth showing.

    Returns:
        The checkpoint; and its top-1 accuracy, or the mean IoU of masks, 0 to 1, on images held out
        of the training data. The network may have seen them: the figure only shows that the tensors
        were read correctly. The test split is not read.

    Raises:
        UserError: the file cannot be read, the tensors are not the network's, or the data is
            missing.

    Example:
        >>> checkpoint, accuracy = compress.adopt("mine.pt", "resnet50", "folder:photos")
        >>> compress.save(checkpoint, "adopted.pth")
    """
    require_name(data, "data", "'folder:photos'; compress.save takes a module with its classes")
    if not isinstance(network, ModelSpec):
        network = require_name(network, "network", "'resnet50' or 'package.module:function'")
    spec = ModelSpec(network) if isinstance(network, str) else network
    where = f"{tensors}: " if isinstance(tensors, str | Path) else ""
    mean, std = read_normalization(mean, std)
    if image_size is not None:
        require_side(image_size)
    if not isinstance(tensors, Mapping):
        tensors = require_path(tensors, "tensors", "model.state_dict(), or its file")
    content = read_training_file(tensors) if isinstance(tensors, str | Path) else tensors
    data_set = open_dataset(
        data,
        image_size=image_size,
        crop_ratio=crop_ratio,
        background=background,
        verify=True,
        skip_broken=skip_broken,
        log=log,
    )
    for note in data_set.notes:
        log(f"{data_set.name}: {note}")
    data_set = data_set.normalized(mean, std)
    try:
        loaded = load_networks(content, replace(spec, pretrained=False), data_set, key, force)
        data_set = data_set.for_channels([_channels_of(loaded[0].model, spec, data_set)])
        if image_size is None:
            data_set = _find_image_size(loaded[0].model, data_set, log)
        size = (data_set.channels, data_set.image_size, data_set.image_size)
        refuse_probabilities(loaded[0].model, size, spec.name)
        adopted = [_to_checkpoint(each.model, spec, data_set) for each in loaded]
        scores = [_score(each.model, data_set) for each in adopted]
    except (UserError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        # Ours end in what to do.
        limit = OUR_LIMIT if isinstance(error, UserError) else 200
        raise UserError(f"{where}{one_line(error, limit)}") from error
    if len(loaded) > 1:
        log(_describe_candidates(loaded, scores))
    best = _best(loaded, scores)
    if scores[best] <= make_task(data_set).chance(data_set.val_labels):
        log(
            f"warning: {100 * scores[best]:.2f} % is no better than always naming the largest"
            " class: the network was trained on other images, or sees them differently"
        )
    return adopted[best], scores[best]


def _channels_of(model: nn.Module, spec: ModelSpec, data: Dataset) -> int:
    """Return the number of channels that a network takes, whatever the size of its images."""
    _, conv = first_convolution(model)
    if spec.source != "custom":
        return 3 if conv is None else int(conv.in_channels)
    return input_channels(model, data.image_size, *IMAGE_SIZES)


def _find_image_size(model: nn.Module, data: Dataset, log: Callable[[str], None]) -> Dataset:
    """Return the data at the image size at which the network scores best on held-out images.

    The data's own size stays unless another one is clearly better, or it is not taken at all.
    """
    count = min(SCORED_IMAGES, data.val_count)
    rows = torch.linspace(0, data.val_count - 1, count).round().long()
    sample, sizes = data.val_images.take(rows), sorted({data.image_size, *IMAGE_SIZES})
    scores: dict[int, float] = {}
    for size in sizes:
        # A network may raise anything about a size that it does not take.
        with suppress(Exception):
            macs = count * measure_cost(model, (data.channels, size, size)).macs
            if size == data.image_size or macs <= MOST_MACS:
                scores[size] = _score(model, replace(data, val_images=sample, image_size=size))
    if not scores:
        # The check of the checkpoint says why.
        return data
    best = max(scores, key=lambda size: scores[size])
    # The standard error of an accuracy, at most.
    margin = 0.5 / math.sqrt(count)
    if data.image_size in scores and scores[best] < scores[data.image_size] + margin:
        best = data.image_size
    tried = ", ".join(f"{size} px {100 * score:.0f} %" for size, score in scores.items())
    log(f"image size {best} px; {make_task(data).metric} on {count} held-out images: {tried}")
    return replace(data, image_size=best)


def _to_checkpoint(model: nn.Module, spec: ModelSpec, data: Dataset) -> Checkpoint:
    """Return the checkpoint as it will be loaded from a file, with everything checked."""
    adopted = make_checkpoint(model, spec, data, data.channels)
    builder = builder_of(spec)
    try:
        return checkpoint.from_dict(checkpoint.to_dict(adopted), builder)
    except RuntimeError as error:
        raise UserError(
            f"{spec.name} does not take images of {data.image_size}×{data.image_size} pixels; pass"
            f" --image-size ({one_line(error)})"
        ) from error


def _score(model: nn.Module, data: Dataset) -> float:
    batches = plain_batches(data, data.val)
    return measure_accuracy(model, batches, make_task(data))


def _best(loaded: Sequence[LoadedNetwork], scores: Sequence[float]) -> int:
    """Return the number of the network that scores best; of equal ones, averaged weights."""
    averaged = [bool(AVERAGED.search(each.prefix)) for each in loaded]
    return max(range(len(loaded)), key=lambda number: (scores[number], averaged[number]))


def _describe_candidates(loaded: Sequence[LoadedNetwork], scores: Sequence[float]) -> str:
    best = _best(loaded, scores)
    found = [
        f"{each.prefix.rstrip('.') or 'the top level'} {100 * score:.2f} %"
        for each, score in zip(loaded, scores, strict=True)
    ]
    return (
        f"several networks in the file: {', '.join(found)}; took"
        f" {loaded[best].prefix.rstrip('.') or 'the top level'}; choose by --key"
    )
