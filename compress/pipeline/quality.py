"""Quality: stages that learn nothing, and cuts from which a network does not recover."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from compress.pipeline.run_dir import StageResult
from compress.training.classification import Classification
from compress.training.task import Task

# Fraction of what a network knew beyond the largest class that it must have again after a cut and
# the stage that follows.
RECOVERED = 2 / 3
# Standard errors by which an accuracy is taken for better than another.
SIGNIFICANT = 2.0
# The task of images with one class each, whatever the classes.
CLASSES: Task = Classification(2)


def find_warning(
    results: Sequence[StageResult], labels: Tensor, final: bool = False, task: Task = CLASSES
) -> str | None:
    """Return a warning about the last of `results`, if it deserves one.

    Args:
        results: results of the stages so far.
        labels: class numbers of the validation images, int64 (N,), or their masks.
        final: True if no stage follows; else a cut is judged with the stage that follows it.

    Example:
        >>> find_warning(results, data.val.targets)
        'teach: 20.1% of the 158 validation images is no better than the largest class, 20.8%'
    """
    last, largest, count = results[-1], task.chance(labels), len(labels)
    if last.kind == "prune" and not final:
        return None
    deviation = math.sqrt(largest * (1 - largest) / count)
    if last.val <= largest + SIGNIFICANT * deviation:
        # With few images, even a much higher accuracy may be chance.
        better = "no better" if last.val <= largest else "not clearly better"
        scored = task.describe(last.val, f"the {count:,} validation images")
        return f"{last.name}: {scored} is {better} than the largest class, {largest:.1%}"
    before = _before_last_cut(results)
    if before is None or _recovered(last, before, largest):
        return None
    return (
        f"{last.name}: {task.describe(last.val, 'the validation images')}, {before.name} had"
        f" {before.val:.1%} before the cut to {last.params:,} parameters; train longer after"
        " it, or choose a larger budget"
    )


def list_warnings(
    results: Sequence[StageResult], labels: Tensor, task: Task = CLASSES
) -> tuple[str, ...]:
    """Return the warnings about all stages, except for cuts that later stages made good.

    Args:
        labels: class numbers of the validation images, int64 (N,), or their masks.
    """
    largest = task.chance(labels)
    warnings = []
    for done in range(1, len(results) + 1):
        before = _before_last_cut(results[:done])
        made_good = before is not None and any(
            _recovered(later, before, largest) for later in results[done:]
        )
        warning = find_warning(results[:done], labels, done == len(results), task)
        if warning is not None and not made_good:
            warnings.append(warning)
    return tuple(warnings)


def _before_last_cut(results: Sequence[StageResult]) -> StageResult | None:
    """Return the last stage that trained before the last cut, if there is one."""
    cuts = [index for index, result in enumerate(results) if result.kind == "prune"]
    trained = [result for result in results[: cuts[-1]] if result.kind != "prune"] if cuts else []
    return trained[-1] if trained else None


def _recovered(result: StageResult, before: StageResult, largest: float) -> bool:
    return result.val - largest >= RECOVERED * (before.val - largest)


def compare_with_uncut(results: Sequence[StageResult]) -> str | None:
    """Return a line that compares the final network with the student before its cuts, if any.

    Example:
        >>> compare_with_uncut(results)
        '99,580 of 11,172,810 parameters: 94.89 % of the test images, 93.10 % before the cuts'
    """
    first = next((index for index, result in enumerate(results) if result.kind == "prune"), 0)
    if not first:
        return None
    before, last = results[first - 1], results[-1]
    if before.test is None or last.test is None:
        return None
    accurate = last.metric == CLASSES.metric
    scored = f"{last.test:.2%} of" if accurate else f"an {last.metric} of {last.test:.2%} on"
    return (
        f"{last.params:,} of {before.params:,} parameters: {scored} the test images,"
        f" {before.test:.2%} before the cuts"
    )
