"""Show the examples in docstrings as code: griffe knows them under another heading (mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

import griffe


class DocstringExamples(griffe.Extension):
    """Read ``Example:`` as ``Examples:``."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        if func.docstring:
            text = func.docstring.value
            func.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
