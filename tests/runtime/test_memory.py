"""Freed memory stays for the next step."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource
from contextlib import nullcontext
from compress.runtime.memory import kept_memory

with {context}:
    for step in range(21):
        held = [b"x" * 2**24 for _ in range(8)]
        del held
        if step == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told to keep memory")
def test_steps_use_the_memory_of_the_step_before() -> None:
    """Twenty steps take 655,360 pages of 4 KiB."""

    def count_faults(context: str) -> int:
        script = [sys.executable, "-c", STEPS.format(context=context)]
        return int(subprocess.run(script, capture_output=True, text=True, check=True).stdout)

    assert count_faults("kept_memory()") < 20_000
    assert count_faults("nullcontext()") > 100_000
