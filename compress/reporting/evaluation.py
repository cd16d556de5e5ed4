"""Evaluation of weights files and exported files on labelled images: the one scorer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.batches import plain_batches, scored_at_once
from compress.data.dataset import Dataset
from compress.data.in_memory import to_scored_source
from compress.data.scoring import Split, open_scored, same_data
from compress.data.source import fit_channels
from compress.deployment.load_model import load_model
from compress.models.checkpoint import Checkpoint, read_seed
from compress.models.fuse_bn import fuse_conv_bn
from compress.models.memory_format import to_channels_last
from compress.recipe.in_memory import MEMORY, hold, holding
from compress.reporting.mask_metrics import MaskEvaluation, SplitMasks, count_masks
from compress.reporting.metrics import Evaluation, SplitLogits
from compress.runtime.device import full_precision, pick_device
from compress.runtime.errors import UserError
from compress.training.task import make_plain_task

# Logits of a batch, at most.
MOST_LOGITS = 2**26


def evaluate(
    checkpoint: Checkpoint | str | Path,
    data: Any = None,
    *,
    split: Split = "test",
    worst: int = 10,
    device: str = "auto",
    builder: Callable[..., nn.Module] | None = None,
    skip_broken: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Evaluation | MaskEvaluation:
    """Measure a network on a labelled split of a data set.

    Args:
        checkpoint: weights file or exported file, or its path.
        data: name of a data set; the one that the network was trained on if left out. Or labelled
            images in memory: whatever `compress.run` takes as data; of a single split, all are
            scored.
        split: ``test``; or ``val``, the images that its training held out.
        worst: number of wrongly classified images to name, at most.
        device: ``auto``, ``cpu`` or ``cuda``.
        builder: as for `compress.load`.
        skip_broken: leave out image files that cannot be read.
        log: called with a line on what is scored, if it is not a split of the data.

    Returns:
        Accuracies and what belongs to them; of a network that labels pixels, IoUs.

    Raises:
        UserError: the file cannot be loaded, the data is not available, or it has a class that the
            network does not have.

    Example:
        >>> found = compress.evaluate("weights/fashion-mnist-100k.pth")
        >>> found.top1, found.per_class[6].name, found.per_class[6].recall
        (0.9492, 'Shirt', 0.836)
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_model(checkpoint, builder)
    opened = open_split(
        checkpoint, data, split=split, device=device, whole=True, skip_broken=skip_broken, log=log
    )
    answers = collect_answers(checkpoint, opened, split)
    return answers.evaluate(temperature=checkpoint.temperature, worst=worst)


def collect_answers(
    checkpoint: Checkpoint, opened: Dataset, split: Split = "test"
) -> SplitLogits | SplitMasks:
    """Return what a network says to each image of a split, opened by `open_split`.

    These are its logits; of a network that labels pixels, whose logits would not fit into memory,
    the counts of pixels.
    """
    return COLLECT[checkpoint.labels](checkpoint, opened, split)


def compute_logits(
    checkpoint: Checkpoint,
    data: Any = None,
    *,
    split: Split = "test",
    device: str = "auto",
    whole: bool = False,
    skip_broken: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> SplitLogits:
    """Return the logits of a network for each image of a split; arguments as `score_test_split`."""
    opened = open_split(
        checkpoint, data, split=split, device=device, whole=whole, skip_broken=skip_broken, log=log
    )
    return _collect_logits(checkpoint, opened, split)


def _collect_logits(checkpoint: Checkpoint, opened: Dataset, split: Split) -> SplitLogits:
    logits, targets = zip(*iter_answers(checkpoint, opened), strict=True)
    return SplitLogits(
        data=opened.name,
        split=split,
        classes=checkpoint.classes,
        logits=torch.cat(logits),
        targets=torch.cat(targets),
        images=opened.test_images(),
    )


def _collect_masks(checkpoint: Checkpoint, opened: Dataset, split: Split) -> SplitMasks:
    answers = iter_answers(checkpoint, opened)
    confusion, counts, confused = count_masks(answers, checkpoint.classes)
    return SplitMasks(
        data=opened.name,
        split=split,
        classes=checkpoint.classes,
        confusion=confusion,
        counts=counts,
        confused=confused,
        images=opened.test_images(),
    )


COLLECT: dict[str, Callable[[Checkpoint, Dataset, Split], SplitLogits | SplitMasks]] = {
    "images": _collect_logits,
    "pixels": _collect_masks,
}


def iter_answers(checkpoint: Checkpoint, opened: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits of a network and the labels of a split, opened by `open_split`, by batch."""
    model = to_channels_last(fuse_conv_bn(checkpoint.model)).to(opened.device)
    fits = max(MOST_LOGITS // math.prod(checkpoint.logits_shape), 1)
    batch_size = min(scored_at_once(max(checkpoint.input_size[1:])), fits)
    for batch in plain_batches(opened, opened.test(), batch_size=batch_size):
        with torch.inference_mode(), full_precision():
            logits = model(batch.images.to(opened.device)).float().cpu()
        yield logits, batch.targets.cpu()


def measure_test_score(
    checkpoint: Checkpoint, data: Any = None, device: str = "auto", **options: Any
) -> float:
    """Return the score of a network on a test split, 0 to 1; arguments as `score_test_split`."""
    counts = score_test_split(checkpoint, data, device, **options)
    return make_plain_task(checkpoint.labels, len(checkpoint.classes)).score(counts)[0]


def name_images(checkpoint: Checkpoint, data: Any, count: int, split: Split) -> str:
    """Return the images of a split in a few words, as ``5,000 validation images``.

    They are called so only if they are those of the network's training.
    """
    own = data is None or data == "" or (isinstance(data, str) and same_data(data, checkpoint.data))
    if own and (split == "test" or read_seed(checkpoint.origin) is not None):
        return f"{count:,} {'test' if split == 'test' else 'validation'} images"
    name = data if isinstance(data, str) and data else checkpoint.data if own else "the given data"
    return f"{count:,} images of {name}"


def score_test_split(
    checkpoint: Checkpoint,
    data: Any = None,
    device: str = "auto",
    *,
    whole: bool = False,
    skip_broken: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Tensor:
    """Count correct predictions on a test split, by class.

    Args:
        data: name of a data set; the one that the model was trained on if left out.
        device: ``auto``, ``cpu`` or ``cuda``.
        whole: score all images of data without a test split that the model was not trained on;
            otherwise a part that is held out.
        skip_broken: leave out image files that cannot be read.
        log: called with a line on what is scored, if it is not a test split.

    Returns:
        Correct predictions and images, or pixels, of each class, and what else the task's score is
        made of: int64 (n, classes).

    Raises:
        UserError: the data is not available, or has a class that the weights file does not have.
    """
    opened = open_split(
        checkpoint, data, device=device, whole=whole, skip_broken=skip_broken, log=log
    )
    task = make_plain_task(checkpoint.labels, len(checkpoint.classes))
    counts = [task.count(*answers) for answers in iter_answers(checkpoint, opened)]
    return torch.stack(counts).sum(0)


def open_split(
    checkpoint: Checkpoint,
    data: Any = None,
    *,
    split: Split = "test",
    device: str = "auto",
    whole: bool = False,
    skip_broken: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Dataset:
    """Open the images of a split as a network takes them; they are the data set's test images.

    Arguments and errors are those of `score_test_split`.
    """
    target = pick_device(device)
    recipe = checkpoint.origin.get("recipe")
    skipped = isinstance(recipe, dict) and bool(recipe.get("skip_broken"))
    with holding():
        opened = open_scored(
            _name_data(checkpoint, data),
            checkpoint.classes,
            checkpoint.input_size[-1],
            trained_on=checkpoint.data,
            labels=checkpoint.labels,
            split=split,
            seed=read_seed(checkpoint.origin),
            whole=whole,
            # As in training; also, which images were held out depends on those that could be read.
            skip_broken=skip_broken or (skipped and (split == "val" or data is None)),
            run_size=_find_run_size(recipe),
            log=log,
        )
    opened = opened.normalized(checkpoint.mean, checkpoint.std).to(target)
    opened = opened.framed(checkpoint.crop_ratio, checkpoint.background)
    return opened.for_channels([checkpoint.input_size[0]])


def _find_run_size(recipe: Any) -> int | None:
    """Return the side of a run's images if some of its stages scale them; 0 is the data's own."""
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    tables = [each for each in stages if isinstance(each, dict)] if isinstance(stages, list) else []
    if all(each.get("scale", 1) == 1 for each in tables):
        return None
    size = recipe.get("image_size")
    return size if type(size) is int else 0


def _name_data(checkpoint: Checkpoint, data: Any) -> str:
    """Return the name of the data to score on; of an object, one under which it is held."""
    if data is None or (isinstance(data, str) and not data):
        if not checkpoint.data:
            raise UserError("the file does not say which data it was trained on; pass --data")
        return checkpoint.data
    if isinstance(data, str):
        return data
    if isinstance(data, Path):
        raise UserError(f"data: a folder of images is named 'folder:{data}'")
    source = to_scored_source(
        data,
        image_size=checkpoint.input_size[-1],
        background=checkpoint.background,
        classes=checkpoint.classes,
        normalization=(fit_channels(checkpoint.mean, 3), fit_channels(checkpoint.std, 3)),
    )
    name = f"{MEMORY}{source.name}"
    return hold(name, replace(source, name=name))
