"""How a network classifies images, beside another one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.data.dataset import Dataset
from compress.models.checkpoint import Checkpoint
from compress.reporting.confusion import to_fractions
from compress.reporting.evaluation import collect_answers, open_split
from compress.reporting.evaluation_tables import class_scores_table, confused_table
from compress.reporting.metrics import Evaluation, SplitLogits, evaluate_logits
from compress.reporting.pages.page import as_element
from compress.reporting.pages.pictures import find_different, make_pictures
from compress.reporting.pages.seen_parts import PICTURES, Seen, name_split, shade
from compress.reporting.units import format_accuracy


def see_classes(known: Checkpoint, data: Any, device: str) -> tuple[Seen, SplitLogits]:
    """Score a network on its test split, and show what it gets wrong.

    Returns:
        What the page shows, and the network's answers, for `compare_classes`.

    Raises:
        UserError: the data is not available.
    """
    opened = open_split(known, data, device=device)
    found = _answer(known, opened)
    evaluation = evaluate_logits(found, worst=PICTURES)
    pairs = confused_table(evaluation)
    seen = Seen(
        about=_describe(evaluation),
        names=evaluation.classes,
        matrix=_shade(evaluation),
        pairs=as_element(pairs) if pairs else None,
        classes=as_element(class_scores_table(evaluation)),
        worst=make_pictures(opened, [image.index for image in evaluation.worst], [found]),
        worst_about="Images whose own class, in bold, the network finds least likely, with what it"
        " takes them for.",
    )
    return seen, found


def compare_classes(
    seen: Seen,
    found: SplitLogits,
    known: Checkpoint,
    other: tuple[str, Checkpoint],
    data: Any,
    device: str,
) -> Seen:
    """Show on which images a network and another one differ.

    Args:
        seen, found: what `see_classes` returned.
        known: the network.
        other: the other network and its name.

    Raises:
        UserError: its data is not available.
    """
    name, network = other
    others = _answer(network, open_split(network, data, device=device))
    if others.classes != found.classes:
        return replace(seen, note=f"Classes of {name} are in another order")
    rows = find_different(found, others, len(found.targets))
    different = make_pictures(open_split(known, data), rows[:PICTURES], [found, others])
    return replace(
        seen,
        other=name,
        count=f"They take {len(rows):,} of {len(found.targets):,} images for different classes",
        different=tuple(different),
    )


def _answer(known: Checkpoint, opened: Dataset) -> SplitLogits:
    found = collect_answers(known, opened)
    assert isinstance(found, SplitLogits)
    return replace(found, logits=found.logits / known.temperature)


def _describe(found: Evaluation) -> str:
    top5 = "" if found.top5 is None else f" top-5 {format_accuracy(found.top5)} %,"
    return (
        f"{name_split(found.images, found.split, found.data)}: top-1 {format_accuracy(found.top1)}"
        f" %,{top5} balanced {format_accuracy(found.balanced)} %, macro F1"
        f" {format_accuracy(found.macro_f1)} %, calibration error {found.calibration_error:.3f}."
    )


def _shade(found: Evaluation) -> list[list[tuple[int | str, str, bool]]]:
    return shade(to_fractions(found.confusion), found.confusion)
