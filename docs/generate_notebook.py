"""Write docs/tutorial.ipynb, the tutorial as a notebook, from docs/tutorial.md.

python docs/generate_notebook.py            # rewrite the notebook
python docs/generate_notebook.py --check    # exit with 1 if it is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from code_blocks import read_blocks

PAGE = Path(__file__).with_name("tutorial.md")
# The tutorial's paths start from the repository, and Jupyter in the notebook's folder.
GO_UP = """\
import os
from pathlib import Path

if not Path("pyproject.toml").exists():
    os.chdir("..")"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    arguments = parser.parse_args()
    notebook = PAGE.with_suffix(".ipynb")
    new = write_notebook(PAGE)
    if not notebook.is_file() or notebook.read_text(encoding="utf-8") != new:
        if arguments.check:
            sys.exit(f"{notebook}: stale; run python docs/generate_notebook.py")
        notebook.write_text(new, encoding="utf-8")


def write_notebook(page: Path) -> str:
    """Return a notebook as JSON: the page's text as Markdown, its commands as cells of code."""
    cells = [make_cell(number, *cell) for number, cell in enumerate(split_page(page))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def split_page(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the kind of each cell, ``markdown`` or ``code``, and its text."""
    lines = page.read_text(encoding="utf-8").splitlines()
    done = 0
    for number, block in enumerate(read_blocks(page)):
        yield "markdown", "\n".join(lines[done : block.line - 1]).strip()
        if number == 0:
            yield "code", GO_UP
        commands = block.text.splitlines()
        yield "code", "\n".join(f"!{command}" for command in commands)
        done = block.line - 1 + len(commands)
    yield "markdown", "\n".join(lines[done:]).strip()


def make_cell(number: int, kind: str, text: str) -> dict[str, Any]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    source = text.splitlines(keepends=True)
    return {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, **code, "source": source}


if __name__ == "__main__":
    main()
