"""Weights files side by side: what each costs, and what it gets right."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compress.budget import Count
from compress.checkpoint import load
from compress.inference import score_test
from compress.machine import pick_device
from compress.models.build import own_builder
from compress.summary import count


@dataclass(frozen=True)
class Side:
    """One of the files compared.

    Args:
        size: torchinfo's count; of a network pruned weight by weight, what is left of it.
        file_bytes: of the file.
        latency: seconds for one image, in float32, the median of many.
        test: top-1 accuracy on the test split, 0 to 1.
    """

    file: Path
    network: str
    sparse: bool
    size: Count
    file_bytes: int
    latency: float
    test: float


def compare(
    files: Iterable[str | Path], data: str | None = None, device: str = "auto", own: str | None = None
) -> list[Side]:
    """Measure `files` one after the other on the same machine and the test split of `data`, by default each its own.

    `own` names the function that builds the files' networks, as package.module:function, if they are a person's own.

    Raises:
        UserError: a file cannot be loaded, or the data not be had.
    """
    builder = own_builder(own) if own else None
    kept = [(Path(file), load(file, builder)) for file in files]
    sides = []
    for file, one in kept:
        right, total = score_test(one, data, device)
        sides.append(
            Side(
                file=file,
                network=one.network.name,
                sparse=one.sparse,
                size=count(one.model, one.input_size, one.sparse),
                file_bytes=file.stat().st_size,
                latency=latency(one.model.to(pick_device(device)), one.input_size),
                test=int(right.sum()) / max(int(total.sum()), 1),
            )
        )
    return sides


@torch.inference_mode()
def latency(model: nn.Module, input_size: tuple[int, int, int], runs: int = 50) -> float:
    """Median seconds that `model` takes for one image of `input_size` (C, H, W)."""
    device = next(model.parameters()).device
    image, spent = torch.zeros(1, *input_size, device=device), []
    for _ in range(runs + 5):
        began = time.perf_counter()
        model(image).argmax().item()  # to have the answer is to have waited for it
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[5:])
