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


def find_warning(results: Sequence[StageResult], targets: Tensor) -> str | None:
    """Return a warning about the last of `results`, if it deserves one.

    Args:
        results: results of the stages so far; the last is of a stage that trains, or prunes at the
            very end.
        targets: class numbers of the validation images, int64 (N,).

    Example:
        >>> find_warning(results, data.val.targets)
        'teach: 20.1% of the 158 validation images is no better than the largest class, 20.8%'
    """
    last = results[-1]
    largest = float(targets.bincount().max()) / len(targets)
    deviation = math.sqrt(largest * (1 - largest) / len(targets))
    if last.val <= largest + SIGNIFICANT * deviation:
        # With few images, even a much higher accuracy may be chance.
        better = "no better" if last.val <= largest else "not clearly better"
        return (
            f"{last.name}: {last.val:.1%} of the {len(targets):,} validation images is {better}"
            f" than the largest class, {largest:.1%}"
        )
    cuts = [index for index, result in enumerate(results) if result.kind == "prune"]
    trained = [result for result in results[: cuts[-1]] if result.kind != "prune"] if cuts else []
    # Later stages are compared too: only the last one has the last word.
    if not trained or last.kind == "prune":
        return None
    before = trained[-1]
    if last.val - largest < RECOVERED * (before.val - largest):
        return (
            f"{last.name}: {last.val:.1%} of the validation images, {before.name} had"
            f" {before.val:.1%} before the cut to {last.params:,} parameters; train longer after"
            " it, or choose a larger budget"
        )
    return None


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
