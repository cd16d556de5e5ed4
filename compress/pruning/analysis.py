"""Analysis: each channel group is cut alone, by several fractions, and the network is scored.

Every cut is made as `compress.prune` makes it, verified, and taken back. So what is measured is the
network that such a cut gives.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.data.batches import Batch, plain_batches
from compress.data.dataset import Dataset
from compress.deployment.samples import open_own_data
from compress.models.checkpoint import Checkpoint, load, read_seed
from compress.models.cost import measure_cost
from compress.models.memory_format import to_channels_last
from compress.pruning.importance import Loss, score_units
from compress.pruning.pruner import start_clock
from compress.pruning.sensitivity import CutEffect, GroupSensitivity, Sensitivity
from compress.pruning.snapshot import take_snapshot
from compress.pruning.structure import Structure, UnresolvedGroupError
from compress.recipe.budget import parse_amount
from compress.recipe.registry import IMPORTANCES, RUNTIMES
from compress.runtime.device import pick_device
from compress.runtime.errors import UserError
from compress.training.evaluate import measure_accuracy
from compress.training.events import Events
from compress.training.task import Task, make_task

FRACTIONS = (0.1, 0.25, 0.5, 0.75)
# Validation images: fewer for networks whose cuts would take more multiply-adds than these in all.
MOST_IMAGES, LEAST_IMAGES, AFFORDABLE_MACS = 1000, 128, 2e13
# Training images on which importances are measured that need data.
SCORING_IMAGES = 1024

# Maps a network to its accuracy, 0 to 1.
Score = Callable[[nn.Module], float]


def analyze(
    weights: str | Path | Checkpoint,
    data: str | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    images: int | None = None,
    importance: str = "taylor",
    runtime: str | None = None,
    threads: int = 1,
    builder: Callable[..., nn.Module] | None = None,
    device: str = "auto",
    events: Events | None = None,
) -> Sensitivity:
    """Measure what it costs to cut each channel group of a network alone, and what it saves.

    Cuts are not followed by training. The network does not change.

    Args:
        weights: a weights file, or a checkpoint.
        data: the data that it was trained on, if that has moved.
        fractions: of each group's units to remove, above 0 and below 1; at least one unit is
            removed, and one is kept.
        images: most validation images, spread evenly over the split; if left out, 1,000, or
            fewer, at least 128, for a network that takes long.
        importance: score that ranks the units of a group, as in `compress.prune`.
        runtime: where to time layers on this machine's CPU, as ``onnx``, to predict the time that
            each cut saves; no time is measured if left out.
        threads: number of threads of that runtime.
        builder: as for `compress.load`.
        device: ``auto``, ``cpu`` or ``cuda``.
        events: receive progress.

    Raises:
        UserError: the file cannot be loaded, its data is not available, or its network cannot be
            pruned.

    Example:
        >>> found = compress.analyze("weights/fashion-mnist-100k.pth")
        >>> min(found.groups, key=lambda group: group.cuts[-1].accuracy).name
        'conv1'
    """
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise UserError(f"fractions {tuple(fractions)}: must be above 0 and below 1")
    if images is not None and images < 1:
        raise UserError(f"images {images}: at least one is needed")
    IMPORTANCES.check_name(importance)
    if runtime is not None:
        RUNTIMES.check_name(runtime)
    known = weights if isinstance(weights, Checkpoint) else load(weights, builder)
    if known.sparse:
        raise UserError("this network is pruned weight by weight; channels cannot be analysed")
    target = pick_device(device)
    opened = open_own_data(known, data).normalized(known.mean, known.std).to(target)
    model = to_channels_last(copy.deepcopy(known.model)).to(target)
    clock = None
    if runtime is not None:
        # The limit does not matter.
        any_time = parse_amount("50%", "latency")
        clock = start_clock(known.model, known.input_size, any_time, runtime, threads)
    example = torch.zeros(1, *known.input_size, device=target)
    structure = Structure(model, example, clock=clock)
    cost = measure_cost(known.model, known.input_size)
    if images is None:
        every_cut = cost.macs * len(structure.groups) * len(fractions)
        images = min(MOST_IMAGES, max(LEAST_IMAGES, round(AFFORDABLE_MACS / max(every_cut, 1))))
    task = make_task(opened)
    batches = _take_batches(opened, images)
    score = partial(measure_accuracy, batches=batches, task=task)
    groups, failed = analyze_groups(
        structure,
        score,
        fractions,
        importance,
        _make_losses(opened, task, IMPORTANCES.load(importance).batch_size),
        events or Events(),
    )
    count = sum(len(batch.targets) for batch in batches)
    return Sensitivity(
        model="" if isinstance(weights, Checkpoint) else str(weights),
        network=known.network.name,
        images=_name_images(known, opened, count),
        importance=importance,
        accuracy=score(structure.model),
        params=cost.params,
        macs=cost.macs,
        fractions=tuple(fractions),
        groups=tuple(groups),
        uncut_layers=(*structure.uncut_layers, *failed),
        nanoseconds=None if clock is None else round(clock.full),
        runtime=f"{runtime}, threads: {threads}" if runtime else "",
        metric=task.metric,
    )


def _name_images(checkpoint: Checkpoint, data: Dataset, count: int) -> str:
    if read_seed(checkpoint.origin) is None:
        return f"{count:,} images of {data.name}, some of which it may have been trained on"
    return f"{count:,} validation images of {data.name}"


def analyze_groups(
    structure: Structure,
    score: Score,
    fractions: Sequence[float] = FRACTIONS,
    importance: str = "magnitude",
    losses: Iterable[Loss] | None = None,
    events: Events | None = None,
) -> tuple[list[GroupSensitivity], list[str]]:
    """Cut each group of a structure alone, by each fraction, and score the network.

    The model of the structure is as before afterwards.

    Args:
        score: the accuracy of a network, 0 to 1.
        losses: as for `compress.pruning.importance.score_units`.

    Returns:
        The groups, and the names of those that turned out to be wrong when they were cut.
    """
    scores = score_units(importance, structure, losses)
    structure.model.zero_grad(set_to_none=True)
    restore = take_snapshot(structure.model, structure.graph)
    names = structure.model.named_modules(remove_duplicate=False)
    places = {name: place for place, (name, _) in enumerate(names)}
    found: list[GroupSensitivity] = []
    failed: list[str] = []
    numbers = range(len(structure.groups))
    for number in (events or Events()).progress(numbers, len(numbers), "channel groups"):
        group = structure.groups[number]
        best = scores[number].argsort(descending=True, stable=True)
        try:
            cuts = [_cut(structure, number, best, each, score, restore) for each in fractions]
        except UnresolvedGroupError:
            failed.append(group.name)
            continue
        finally:
            restore()
        layers = sorted(group.output_layers, key=places.__getitem__)
        weighted = [name for name in layers if _has_matrix(structure.model, name)]
        found.append(GroupSensitivity(group.name, tuple(weighted), len(group), tuple(cuts)))
    return sorted(found, key=lambda group: places[group.layers[0]]), failed


def _cut(
    structure: Structure,
    number: int,
    best: Tensor,
    fraction: float,
    score: Score,
    restore: Callable[[], None],
) -> CutEffect:
    """Remove a fraction of the units of a group, score the network, and take the cut back."""
    units = len(best)
    removed = count_removed(units, fraction)
    kept = [torch.arange(count) for count in structure.unit_counts()]
    kept[number] = best[: units - removed]
    saved = structure.predict_cost(structure.unit_counts()) - structure.predict_cost(
        [len(each) for each in kept]
    )
    if removed:
        structure.prune(kept)
    accuracy = score(structure.model)
    restore()
    nanoseconds = saved.latency if structure.timed else None
    return CutEffect(fraction, removed, accuracy, saved.params, saved.macs, nanoseconds)


def count_removed(units: int, fraction: float) -> int:
    """Return how many of so many units a fraction of them is: at least one; one is kept.

    Example:
        >>> count_removed(16, 0.1), count_removed(3, 0.1), count_removed(1, 0.5)
        (2, 1, 0)
    """
    return min(max(1, round(fraction * units)), units - 1)


def _has_matrix(model: nn.Module, name: str) -> bool:
    """Return True for a layer of weights, and False for a norm or a slope for each channel."""
    weight = getattr(model.get_submodule(name), "weight", None)
    return not isinstance(weight, Tensor) or weight.dim() > 1


def _take_batches(data: Dataset, images: int) -> list[Batch]:
    """Return validation images, spread evenly over the split, in memory."""
    every = max(1, math.ceil(data.val_count / images))
    return list(plain_batches(data, data.val, every=every))


def _make_losses(data: Dataset, task: Task, batch_size: int | None) -> Iterator[Loss]:
    """Yield the loss on the labels of batches of training images, for importances that need it."""
    every = max(1, data.train_count // SCORING_IMAGES)
    for batch in plain_batches(data, data.train, batch_size=batch_size or 256, every=every):

        def loss(model: nn.Module, batch: Batch = batch) -> Tensor:
            return task.label_loss(model(batch.images), batch.targets)

        yield loss
