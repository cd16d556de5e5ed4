"""Freed memory stays for the next step."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from compress.runtime.memory import kept_memory


def faults() -> int:
    """Return the pages that 20 steps of eight tensors of 16 MiB get from the system."""
    before = 0
    for step in range(21):
        held = [torch.ones(2**22) for _ in range(8)]
        del held
        if step == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told to keep memory")
def test_steps_use_the_memory_of_the_step_before() -> None:
    with kept_memory():
        assert faults() < 20_000
    assert faults() > 100_000
