"""How a network labels pixels, beside another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.deployment.write_masks import make_palette
from compress.models.checkpoint import Checkpoint
from compress.reporting.confusion import to_fractions
from compress.reporting.evaluation import collect_answers, iter_answers, open_split
from compress.reporting.mask_metrics import MaskEvaluation, SplitMasks, evaluate_masks
from compress.reporting.mask_tables import (
    confused_pixels_table,
    pixel_scores_table,
)
from compress.reporting.pages.page import as_element
from compress.reporting.pages.pictures import (
    EXACT_SIDE,
    Picture,
    encode_picture,
    take_test_images,
)
from compress.reporting.pages.seen_parts import PICTURES, Seen, name_split, shade
from compress.reporting.units import format_accuracy
from compress.training.task import make_plain_task

# Least share of a class, in percent, that its matrix shows.
LEAST_SHARE = 0.05


def see_masks(known: Checkpoint, data: Any, device: str) -> tuple[Seen, SplitMasks]:
    """Score a network on its test split, and show the masks that it gets most wrong.

    Returns:
        What the page shows, and the network's answers, for `compare_masks`.

    Raises:
        UserError: the data is not available.
    """
    opened = open_split(known, data, device=device)
    found = collect_answers(known, opened)
    assert isinstance(found, SplitMasks)
    evaluation = evaluate_masks(found, worst=PICTURES)
    pairs = confused_pixels_table(evaluation)
    seen = Seen(
        about=_describe(evaluation),
        names=evaluation.classes,
        matrix=_shade(evaluation),
        pairs=as_element(pairs) if pairs else None,
        classes=as_element(pixel_scores_table(evaluation)),
        worst=_make_pictures(evaluation, [known], data),
        worst_about="Each image, its mask, and the network's, by the mean IoU.",
        masks=True,
    )
    return seen, found


def compare_masks(
    seen: Seen,
    found: SplitMasks,
    known: Checkpoint,
    other: tuple[str, Checkpoint],
    data: Any,
    device: str,
) -> Seen:
    """Show another network's masks beside those of a network; arguments as `compare_classes`."""
    name, network = other
    if network.classes != known.classes:
        return replace(seen, note=f"Classes of {name} are in another order")
    others = collect_answers(network, open_split(network, data, device=device))
    assert isinstance(others, SplitMasks)
    task = make_plain_task(network.labels, len(network.classes))
    score, _ = task.score(others.counts.sum(0))
    return replace(
        seen,
        about=f"{seen.about} For {name}, the mIoU is {format_accuracy(score)} %.",
        worst=_make_pictures(evaluate_masks(found, worst=PICTURES), [known, network], data),
        worst_about=f"Each image, its mask, the network's, and that of {name}, by the mean IoU of"
        " the network.",
    )


def side_by_side(networks: Sequence[Checkpoint], rows: Sequence[int], data: Any = None) -> Tensor:
    """Return test images beside their masks and those of networks, in the colours of the classes.

    Args:
        networks: they have the same classes.
        rows: of the images in the test split.
        data: name of the data; that of the training if left out.

    Returns:
        uint8 (N, 3, S, (2 + networks) · S), S the side of the images that the first one takes.

    Raises:
        UserError: the data is not available.
    """
    colors = torch.tensor(make_palette(), dtype=torch.uint8).view(256, 3)
    panels: list[Tensor] = []
    for network in networks:
        opened = take_test_images(open_split(network, data), rows)
        task = make_plain_task(network.labels, len(network.classes))
        answers = [(task.predict(logits), masks) for logits, masks in iter_answers(network, opened)]
        predicted, truth = (torch.cat(each) for each in zip(*answers, strict=True))
        if not panels:
            pool = opened.test()
            pixels = torch.cat(list(pool.batches([torch.arange(len(rows))]))).cpu()
            panels = [pixels.expand(-1, 3, -1, -1), _paint(truth, colors)]
        panels.append(_paint(predicted, colors))
    side = panels[0].shape[-1]
    return torch.cat([_resize(panel, side) for panel in panels], dim=3)


def _paint(masks: Tensor, colors: Tensor) -> Tensor:
    return colors[masks.long()].movedim(-1, 1)


def _resize(panel: Tensor, side: int) -> Tensor:
    """Resize colours of classes, which do not mix."""
    if panel.shape[-1] == side:
        return panel
    return torch.nn.functional.interpolate(panel, (side, side), mode="nearest")


def _make_pictures(
    found: MaskEvaluation, networks: Sequence[Checkpoint], data: Any
) -> list[Picture]:
    if not found.worst:
        return []
    strips = side_by_side(networks, [image.index for image in found.worst], data)
    return [
        Picture(
            source=encode_picture(strip, 2 + len(networks)),
            exact=strip.shape[1] <= EXACT_SIDE,
            name=Path(image.path).name if image.path else f"image {image.index:,}",
            label=f"{format_accuracy(image.miou)} %",
            said=(),
        )
        for strip, image in zip(strips, found.worst, strict=True)
    ]


def _describe(found: MaskEvaluation) -> str:
    return (
        f"{name_split(found.images, found.split, found.data)}: mIoU {format_accuracy(found.miou)}"
        f" %, pixel accuracy {format_accuracy(found.pixel_accuracy)} %, balanced"
        f" {format_accuracy(found.balanced)} %; numbers are percentages of a class's pixels."
    )


def _shade(found: MaskEvaluation) -> list[list[tuple[int | str, str, bool]]]:
    fractions = to_fractions(found.confusion)
    shown = [
        [f"{100 * part:.1f}" if 100 * part >= LEAST_SHARE else "" for part in parts]
        for parts in fractions
    ]
    return shade(fractions, shown)
