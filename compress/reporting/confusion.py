"""Classes that a network confuses."""

from __future__ import annotations

from collections.abc import Sequence

# Pairs of classes that are shown, at most.
MAX_PAIRS = 10


def most_confused(confusion: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return the pairs of classes that are confused most often, at most `MAX_PAIRS`.

    Args:
        confusion: counts, by class in rows and by predicted class in columns.

    Returns:
        Count, class and predicted class of each pair.

    Example:
        >>> most_confused([[5, 1], [3, 4]])
        [(3, 1, 0), (1, 0, 1)]
    """
    pairs = [
        (count, label, predicted)
        for label, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and label != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[0])[:MAX_PAIRS]


def to_fractions(confusion: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the fraction of each class that is taken for each class, in rows.

    Example:
        >>> to_fractions([[3, 1], [0, 0]])
        [[0.75, 0.25], [0.0, 0.0]]
    """
    return [[count / max(sum(row), 1) for count in row] for row in confusion]
