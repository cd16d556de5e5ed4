"""Figures of a page: SVG by matplotlib, in the colours of the page's style sheet."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from compress.runtime.text import safe_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that no figure shows: the page puts a variable of its style sheet in place of each, so
# that a figure follows its light and its dark theme.
INK, MUTED, LINE, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010201", "#010202", "#010203", "#010204", "#010205")
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper"} | {
    color: f"series-{number}" for number, color in enumerate(SERIES, start=1)
}

STYLE = {
    # Text stays text, in the font of the page.
    "svg.fonttype": "none",
    # Equal figures have equal files.
    "svg.hashsalt": "compress",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.2,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}


def draw(
    paint: Callable[[Axes], object], label: str, width: float = 4.6, height: float = 2.7
) -> Markup:
    """Return a figure as an SVG element that is as wide as its place.

    Args:
        paint: draws on the axes, in the colours of this module.
        label: what the figure shows, for those who do not see it.
        width, height: inches, of which only the ratio matters, and the size of text relative to it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        # matplotlib's own font, by which it makes room for text, lacks many signs.
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.subplots())
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _to_element(file.getvalue(), label)


def plain(text: object) -> str:
    """Return text for a figure, from which nothing can be drawn but its characters."""
    return safe_line(str(text))[:60]


def _to_element(svg: str, label: str) -> Markup:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style .*?</style>", "", svg, flags=re.DOTALL)
    # Only those of markers and clips are referred to.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    box = svg.partition('viewBox="')[2].partition('"')[0]
    for color, name in VARIABLES.items():
        svg = svg.replace(color, f"var(--{name})")
    body = svg[svg.index(">") + 1 :]
    links = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(
        f'<svg class="plot" role="img" aria-label="{escape(label)}" viewBox="{box}" {links}>{body}'
    )
