"""Silence around libraries: what they print is gone, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from code_blocks import ROOT

PROGRAM = """
import os
import sys
from contextlib import suppress
from compress.deployment.silence import silence

def say(text):
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        if stream is not None:
            print(text, file=stream, flush=True)
            with suppress(OSError):
                os.write(number, b"C")

say("before ")
with silence():
    print("library", flush=True)
    print("library", file=sys.stderr, flush=True)
    say("library")
say("after ")
"""


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        ("", "before \nCafter \nC", "before \nCafter \nC"),
        (">&-", "", "before \nCafter \nC"),
        ("2>&-", "before \nCafter \nC", ""),
        (">&- 2>&-", "", ""),
        ("<&- >&- 2>&-", "", ""),
    ],
)
def test_streams_that_are_closed_are_left_alone(closed: str, out: str, err: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)
