"""Pages: HTML files of one piece, made of templates that escape all that they are given."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from compress.reporting.sensitivity import format_saving
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy, format_bytes, format_duration, format_macs
from compress.runtime.device import package_versions
from compress.runtime.files import write_text
from compress.runtime.text import safe_block


def write_page(path: Path, template: str, **content: Any) -> None:
    """Write a page, completely or not at all.

    Args:
        template: its name in the folder `templates`.
        content: the template's variables.
    """
    version = package_versions()["compress"]
    page = _environment().get_template(template).render(version=version, **content)
    # Characters that reverse text, or that no file can hold, are shown as escapes.
    write_text(path, safe_block(page))


def as_element(table: Table) -> Markup:
    """Return a table as an HTML element, without its title, which a heading stands for."""
    return Markup(replace(table, title=None).as_html())


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "accuracy": format_accuracy,
        "bytes": format_bytes,
        "duration": format_duration,
        "macs": format_macs,
        "saving": format_saving,
    }
    return environment
