"""torchinfo's table of a network at a given width."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torchinfo
from torchinfo.enums import ColumnSettings

# Characters of a column beside the names of layers: torchinfo's default, and enough for shapes and
# for numbers.
DEFAULT, SHAPES, NUMBERS = 25, 18, 13


def format_summary(statistics: torchinfo.ModelStatistics, width: int | None = None) -> str:
    """Return the table of a summary as text, in the most detailed form that fits.

    Args:
        width: most characters of a line; no limit if left out. What no form makes room for is cut.
    """
    text = ""
    for text in _forms(statistics):
        if width is None or max(map(len, text.splitlines())) <= width:
            return text
    return "\n".join(line[:width] for line in text.splitlines())


def _forms(statistics: torchinfo.ModelStatistics) -> Iterator[str]:
    """Yield the table in its forms, widest first."""
    form = statistics.formatting
    yield _to_text(statistics)
    for columns, width in ((form.col_names, SHAPES), (form.col_names[1:], NUMBERS)):
        for form.show_depth in (True, False):
            form.col_names, form.col_width = columns, width
            form.layer_name_width = _name_width(statistics)
            yield _to_text(statistics)
    form.col_names = (ColumnSettings.NUM_PARAMS,)
    while form.max_depth > 1:
        form.max_depth -= 1
        form.layer_name_width = _name_width(statistics)
        yield _to_text(statistics)


def _name_width(statistics: torchinfo.ModelStatistics) -> int:
    form = statistics.formatting
    names = [
        form.get_start_str(layer.depth) + layer.get_layer_name(form.show_var_name, form.show_depth)
        for layer in statistics.summary_list
        if layer.depth <= form.max_depth
    ]
    return max(map(len, names), default=0) + 1


def _to_text(statistics: torchinfo.ModelStatistics) -> str:
    # torchinfo 1.8 prints "(Units.MEGABYTES)" for "(M)".
    text = re.sub(r"Units\.(\w)\w+", r"\1", str(statistics))
    longest = max(len(line) for line in text.splitlines() if line[:1] not in "=-")
    # Its rules are longer than its lines.
    return re.sub(r"^([=-])\1{9,}$", lambda rule: rule[1] * longest, text, flags=re.MULTILINE)
