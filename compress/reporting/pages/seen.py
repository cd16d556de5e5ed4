"""What a run's final network does with the test images, beside its teacher, for a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from compress.deployment.load_model import choose_builder, load_model
from compress.models.checkpoint import Checkpoint
from compress.pipeline.manifest import StageResult
from compress.pipeline.run_dir import INT8_MODEL, MODEL
from compress.reporting.evaluation import compute_logits, open_split
from compress.reporting.evaluation_tables import class_scores_table, confused_table
from compress.reporting.metrics import Evaluation, SplitLogits, evaluate_logits
from compress.reporting.pages.facts import name_network
from compress.reporting.pages.page import as_element
from compress.reporting.pages.pictures import Picture, find_different, make_pictures
from compress.runtime.errors import UserError

# Pictures in each part of a page, and the most classes whose matrix can be read.
PICTURES, MATRIX_CLASSES = 24, 30


@dataclass(frozen=True)
class Seen:
    """What a network does with the images of a split.

    Args:
        evaluation: its metrics.
        matrix: for each pair of classes, images, strength of their colour in percent, and True on
            the diagonal; empty if there are too many classes.
        pairs: the classes that are confused most, as a table; None if no image is wrong.
        classes: the metrics of each class, as a table.
        worst: the images that it gets most wrong.
        other: name of the network that it is compared with.
        count: how many images the two take for different classes, in words.
        different: the surest of these.
        note: why there is no comparison, where there could be one.
    """

    evaluation: Evaluation
    matrix: list[list[tuple[int, str, bool]]]
    pairs: Markup | None
    classes: Markup
    worst: list[Picture]
    other: str = ""
    count: str = ""
    different: tuple[Picture, ...] = ()
    note: str = ""


def see_images(
    path: Path,
    results: Sequence[StageResult],
    *,
    data: str | None = None,
    builders: Sequence[str] = (),
    device: str = "auto",
    log: Callable[[str], None] = lambda line: None,
) -> Seen:
    """Score the final network of the run in `path` on its test split, and its teacher beside it.

    A run without a teacher's file is compared with its student before the cuts, if there is one.

    Args:
        data: the data, if it has moved.
        builders: as for `compress.deployment.load_model.choose_builder`.
        log: called with a line on each network that is scored.

    Raises:
        UserError: the final network cannot be loaded, or the data is not available.
    """

    def answer(file: Path, name: str) -> tuple[Checkpoint, SplitLogits]:
        known = load_model(file, choose_builder(file, builders))
        log(f"scoring {name} on the test split")
        found = compute_logits(known, data, device=device)
        return known, replace(found, logits=found.logits / known.temperature)

    # The scores of a run that quantizes are those of its int8 file.
    final = INT8_MODEL if results[-1].kind == "quantize" else MODEL
    known, found = answer(path / final, "the final network")
    evaluation = evaluate_logits(found, worst=PICTURES)
    opened = open_split(known, data)
    worst = make_pictures(opened, [image.index for image in evaluation.worst], [found])
    pairs = confused_table(evaluation)
    seen = Seen(
        evaluation,
        _shade(evaluation),
        as_element(pairs) if pairs else None,
        as_element(class_scores_table(evaluation)),
        worst,
    )
    other = _find_other(path, results)
    if other is None:
        return seen
    try:
        _, others = answer(path / other.checkpoint, name_network(other))
    except UserError as error:
        return replace(seen, note=f"There is no comparison with {name_network(other)}: {error}")
    if others.classes != found.classes:
        return replace(seen, note=f"Classes of {name_network(other)} are in another order")
    rows = find_different(found, others, len(found.targets))
    return replace(
        seen,
        other=name_network(other),
        count=f"They take {len(rows):,} of {len(found.targets):,} images for different classes",
        different=tuple(make_pictures(opened, rows[:PICTURES], [found, others])),
    )


def _find_other(path: Path, results: Sequence[StageResult]) -> StageResult | None:
    """Return the teacher's result, or else the student's before its cuts, if its file is there."""
    kinds = ("teach", "distill") if len(results) > 1 else ()
    for kind in kinds:
        for result in results[:-1]:
            if result.kind == kind and (path / result.checkpoint).is_file():
                return result
    return None


def _shade(found: Evaluation) -> list[list[tuple[int, str, bool]]]:
    if len(found.classes) > MATRIX_CLASSES:
        return []
    rows = []
    for number, row in enumerate(found.confusion):
        images = max(sum(row), 1)
        # Few mistakes are to be seen beside many right answers.
        shares = [
            70 * count / images if other == number else 8 + 90 * math.sqrt(count / images)
            for other, count in enumerate(row)
        ]
        rows.append(
            [
                (count, f"{share:.0f}", other == number)
                for other, (count, share) in enumerate(zip(row, shares, strict=True))
            ]
        )
    return rows
