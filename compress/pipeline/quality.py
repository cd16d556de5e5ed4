"""Quality: stages that learn nothing, and cuts from which a network does not recover."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from compress.pipeline.run_dir import StageResult

# Fraction of what a network knew beyond the largest class that it must have again after a cut and
# the stage that follows.
RECOVERED = 2 / 3
# Standard errors by which an accuracy is taken for better than another.
SIGNIFICANT = 2.0


def find_warning(
    results: Sequence[StageResult], targets: Tensor, final: bool = False
) -> str | None:
    """Return a warning about the last of `results`, if it deserves one.

    Args:
        results: results of the stages so far.
        targets: class numbers of the validation images, int64 (N,).
        final: True if no stage follows; else a cut is judged with the stage that follows it.

    Example:
        >>> find_warning(results, data.val.targets)
        'teach: 20.1% of the 158 validation images is no better than the largest class, 20.8%'
    """
    last, largest = results[-1], _largest_class(targets)
    if last.kind == "prune" and not final:
        return None
    deviation = math.sqrt(largest * (1 - largest) / len(targets))
    if last.val <= largest + SIGNIFICANT * deviation:
        # With few images, even a much higher accuracy may be chance.
        better = "no better" if last.val <= largest else "not clearly better"
        return (
            f"{last.name}: {last.val:.1%} of the {len(targets):,} validation images is {better}"
            f" than the largest class, {largest:.1%}"
        )
    before = _before_last_cut(results)
    if before is None or _recovered(last, before, largest):
        return None
    return (
        f"{last.name}: {last.val:.1%} of the validation images, {before.name} had"
        f" {before.val:.1%} before the cut to {last.params:,} parameters; train longer after"
        " it, or choose a larger budget"
    )


def list_warnings(results: Sequence[StageResult], targets: Tensor) -> tuple[str, ...]:
    """Return the warnings about all stages, except for cuts that later stages made good.

    Args:
        targets: class numbers of the validation images, int64 (N,).
    """
    largest = _largest_class(targets)
    warnings = []
    for done in range(1, len(results) + 1):
        before = _before_last_cut(results[:done])
        made_good = before is not None and any(
            _recovered(later, before, largest) for later in results[done:]
        )
        warning = find_warning(results[:done], targets, final=done == len(results))
        if warning is not None and not made_good:
            warnings.append(warning)
    return tuple(warnings)


def _largest_class(targets: Tensor) -> float:
    return float(targets.bincount().max()) / len(targets)


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
    return (
        f"{last.params:,} of {before.params:,} parameters: {last.test:.2%} of the test images,"
        f" {before.test:.2%} before the cuts"
    )
