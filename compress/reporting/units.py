"""Numbers as text: durations, counts, sizes and accuracies."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def format_duration(seconds: float) -> str:
    """Format seconds.

    Example:
        >>> format_duration(42), format_duration(185), format_duration(3723)
        ('42 s', '3:05 min', '1:02:03 h')
    """
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60}:{total % 60:02d} min"
    return f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d} h"


def format_macs(macs: float) -> str:
    """Format multiply-adds in millions, as ``13.15 M``."""
    return f"{macs / 1e6:,.2f} M"


def format_bytes(size: int) -> str:
    """Format a file's size, as ``447 KB``."""
    return f"{size / 1e3:,.0f} KB"


def name_score(split: str, metric: str = "accuracy") -> str:
    """Return what a score is called in tables.

    Example:
        >>> name_score("val"), name_score("val", "mIoU")
        ('val', 'val mIoU')
    """
    return split if metric == "accuracy" else f"{split} {metric}"


def format_accuracy(accuracy: float | None) -> str:
    """Format an accuracy, 0 to 1, in percent without the sign; None is a dash."""
    return "-" if accuracy is None else f"{100 * accuracy:.2f}"


def format_mean(accuracies: Sequence[float | None]) -> str:
    """Format the mean of accuracies, 0 to 1, and their sample deviation (n - 1) in percent.

    It is a dash if one of them is None.

    Example:
        >>> format_mean([0.90, 0.92]), format_mean([0.90])
        ('91.00 ± 1.41', '90.00')
    """
    percent = [100 * accuracy for accuracy in accuracies if accuracy is not None]
    if len(percent) < len(accuracies):
        return "-"
    mean = f"{statistics.mean(percent):.2f}"
    return f"{mean} ± {statistics.stdev(percent):.2f}" if len(percent) > 1 else mean
