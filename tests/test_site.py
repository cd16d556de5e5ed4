"""The documentation as a site: built strictly, with a page for each command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from code_blocks import ROOT

import compress
from compress.cli.main import main

LOADED = re.compile(r'<(?:script|img|iframe)[^>]* src="(.*?)"|<link[^>]* href="(.*?)"')


@pytest.mark.slow
def test_the_site_has_all_commands_and_functions_and_loads_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, each in main.commands.items():
        page = (tmp_path / f"commands/{name}.html").read_text(encoding="utf-8")
        for option in (word for parameter in each.params for word in parameter.opts):
            assert not option.startswith("-") or option in page, f"{name}: {option}"
    functions = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in set(compress.__all__) - {"UserError"}:
        assert f"compress.{name}" in functions
    for file in tmp_path.rglob("*.html"):
        for found in LOADED.finditer(file.read_text(encoding="utf-8")):
            assert not (found[1] or found[2]).startswith(("http:", "https:", "//")), file
