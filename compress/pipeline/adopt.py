"""Adoption: networks that were trained elsewhere become checkpoints of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.data.batches import plain_batches
from compress.data.dataset import open_dataset
from compress.data.source import IMAGENET_NORMALIZATION
from compress.models import checkpoint
from compress.models.build import build, import_builder
from compress.models.checkpoint import Checkpoint
from compress.models.tensor_file import read_tensors
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError, one_line
from compress.training.evaluate import measure_accuracy
from compress.training.task import Classification

# Keys under which training scripts keep the tensors, beside other things.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
# Prefixes that wrappers put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")


def adopt(
    tensors: str | Path | Mapping[str, Any],
    network: ModelSpec | str,
    data: str,
    *,
    image_size: int | None = None,
    mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
    std: Sequence[float] = IMAGENET_NORMALIZATION[1],
) -> tuple[Checkpoint, float]:
    """Turn a trained network into a checkpoint, which `run` can prune or distill from.

    Args:
        tensors: ``model.state_dict()``, or the file that it was saved to, by itself or in a
            training script's checkpoint. No code in the file is run.
        network: the network's specification or name: ``resnet50``, ``package.module:function``.
        data: the data set that it was trained on, as recipes name it; its classes are those of the
            logits, in order.
        image_size: side of the images that it takes, in pixels; the data's own if left out.
        mean, std: normalization by channel, for pixels scaled to 0..1; a single value counts for
            all three.

    Returns:
        The checkpoint; and its top-1 accuracy, 0 to 1, on images held out of the training data. The
        network may have seen them: the figure only shows that the tensors were read correctly. The
        test split is not read.

    Raises:
        UserError: the file cannot be read, the tensors are not the network's, or the data is
            missing.

    Example:
        >>> checkpoint, accuracy = compress.adopt("mine.pt", "resnet50", "folder:photos")
        >>> compress.save(checkpoint, "adopted.pth")
    """
    spec = ModelSpec(network) if isinstance(network, str) else network
    where = f"{tensors}: " if isinstance(tensors, str | Path) else ""
    mean, std = _three_values(mean, "mean"), _three_values(std, "std")
    kept = read_tensors(tensors) if isinstance(tensors, str | Path) else tensors
    state_dict = _find_state_dict(kept, where)
    opened = open_dataset(data, image_size=image_size).normalized(mean, std)
    classes, size = opened.classes, (3, opened.image_size, opened.image_size)
    model = build(replace(spec, pretrained=False), len(classes))
    own = model.state_dict()
    # Old files have no batch counters.
    counters = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    try:
        model.load_state_dict(counters | state_dict)
        adopted = Checkpoint(model, spec, classes, size, mean, std, opened.name)
        builder = import_builder(spec.name) if spec.source == "custom" else None
        adopted = checkpoint.from_dict(checkpoint.to_dict(adopted), builder)
    except (RuntimeError, UserError) as error:
        # torch lists the tensors, on many lines.
        raise UserError(
            f"{where}not a {spec.name} of {len(classes)} classes: {one_line(error)}"
        ) from error
    batches = plain_batches(opened, opened.val, batch_size=500)
    return adopted, measure_accuracy(adopted.model, batches, Classification(len(classes)))


def _find_state_dict(kept: Any, where: str) -> dict[str, Tensor]:
    """Return the tensors under the network's own names."""
    while isinstance(kept, Mapping):
        inside = next((key for key in STATE_DICT_KEYS if key in kept), None)
        if inside is None:
            break
        kept = kept[inside]
    tensors = isinstance(kept, Mapping) and all(isinstance(each, Tensor) for each in kept.values())
    if not kept or not tensors:
        raise UserError(f"{where}holds no tensors by name; save what model.state_dict() returns")
    while prefix := next((p for p in WRAPPER_PREFIXES if all(k.startswith(p) for k in kept)), None):
        kept = {key.removeprefix(prefix): tensor for key, tensor in kept.items()}
    return dict(kept)


def _three_values(values: Sequence[float], name: str) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise UserError(f"{name} {', '.join(map(str, values))}: give one value, or three")
    return tuple(float(value) for value in values) * (3 // len(values))
