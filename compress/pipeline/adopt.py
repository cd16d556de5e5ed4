"""A network that was trained elsewhere, as a checkpoint of this program's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.data.batches import plain_batches
from compress.data.dataset import open_dataset
from compress.models import checkpoint
from compress.models.build import build, import_builder
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError, one_line
from compress.training.trainer import accuracy

IMAGENET = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # mean and deviation, as torchvision's networks see images
INSIDE = (
    "state_dict",
    "model_state_dict",
    "model",
)  # where training scripts keep the tensors, beside other things
PREFIXES = ("module.", "_orig_mod.", "model.")  # what wrappers put before every name


def adopt(
    tensors: str | Path | Mapping[str, Any],
    network: ModelSpec | str,
    data: str,
    *,
    image_size: int | None = None,
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
) -> tuple[Checkpoint, float]:
    """A checkpoint of a trained network, and its accuracy on validation images: for `run` to prune or to learn from.

    Args:
        tensors: what ``model.state_dict()`` gave, or the file that it was saved to, by itself or in a training
            script's checkpoint. No code in a file is run.
        network: what it was built from: a name that recipes know, or ``package.module:function``.
        data: the data set that it learned from, as recipes name it; its classes are those of the logits, in order.
        image_size: the side of the images that it takes, in pixels; the data's own if left out.
        mean, std: how its images were normalized, by channel, for pixels scaled to 0..1. One value is for all three.

    Returns:
        The checkpoint; and top-1 accuracy, 0 to 1, on images cut from the training data, which it may well have seen:
        to find out whether it has been understood. The test split is not read.

    Raises:
        UserError: the file cannot be read, the tensors are not the network's, or the data cannot be had.
    """
    network = ModelSpec(network) if isinstance(network, str) else network
    named = f"{tensors}: " if isinstance(tensors, str | Path) else ""
    mean, std = _three(mean, "mean"), _three(std, "std")
    laid = _unwrapped(
        checkpoint.read_tensors(tensors) if isinstance(tensors, str | Path) else tensors, named
    )
    opened = open_dataset(data, size=image_size)
    opened = replace(opened, mean=mean, std=std)
    model = build(replace(network, pretrained=False), len(opened.classes))
    due = model.state_dict()
    counters = {
        key: due[key] for key in due if key.endswith("num_batches_tracked")
    }  # old files have none
    try:
        model.load_state_dict(counters | laid)
        known = Checkpoint(
            model, network, opened.classes, (3, opened.size, opened.size), mean, std, opened.name
        )
        known = checkpoint.from_dict(
            checkpoint.to_dict(known),
            import_builder(network.name) if network.source == "custom" else None,
        )
    except (RuntimeError, UserError) as error:  # torch's own tells which tensors, over many lines
        raise UserError(
            f"{named}not a {network.name} of {len(opened.classes)} classes: {one_line(error)}"
        ) from error
    return known, accuracy(known.model, plain_batches(opened, opened.val, batch=500))


def _unwrapped(kept: Any, named: str) -> dict[str, Tensor]:
    """The tensors by the names that the network itself has for them."""
    while isinstance(kept, Mapping) and (
        inside := next((key for key in INSIDE if key in kept), None)
    ):
        kept = kept[inside]
    if (
        not isinstance(kept, Mapping)
        or not kept
        or not all(isinstance(one, Tensor) for one in kept.values())
    ):
        raise UserError(f"{named}holds no tensors by name; save what model.state_dict() gives")
    while prefix := next(
        (each for each in PREFIXES if all(key.startswith(each) for key in kept)), None
    ):
        kept = {key.removeprefix(prefix): one for key, one in kept.items()}
    return dict(kept)


def _three(values: Sequence[float], what: str) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise UserError(f"{what} {', '.join(map(str, values))}: one value is due, or three")
    return tuple(float(value) for value in values) * (3 // len(values))
