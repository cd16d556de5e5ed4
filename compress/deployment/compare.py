"""Weights files side by side: what each costs, and what it gets right."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from compress.deployment.predict import score_test
from compress.models.build import import_builder
from compress.models.checkpoint import load
from compress.models.cost import measure_cost
from compress.recipe.budget import Cost
from compress.runtime.device import pick_device


@dataclass(frozen=True)
class Side:
    """One of the files compared.

    Args:
        size: torchinfo's count. Of a network pruned weight by weight, the parameters that are left, and all of its
            multiply-adds: those with zeros are computed too.
        file_bytes: of the file.
        latency: seconds for one image, in float32, the median of many.
        test: top-1 accuracy on the test split, 0 to 1.
    """

    file: Path
    network: str
    sparse: bool
    size: Cost
    file_bytes: int
    latency: float
    test: float


def compare(
    files: Iterable[str | Path],
    data: str | None = None,
    device: str = "auto",
    own: str | None = None,
) -> list[Side]:
    """Measure `files` on this machine, and on the test split of `data`, by default each its own.

    `own` names the function that builds the files' networks, as package.module:function, if they are a person's own.

    Raises:
        UserError: a file cannot be loaded, or the data not be had.
    """
    builder = import_builder(own) if own else None
    kept = [(Path(file), load(file, builder)) for file in files]
    scores = [score_test(one, data, device) for _, one in kept]
    seconds = latencies([(one.model.to(pick_device(device)), one.input_size) for _, one in kept])
    return [
        Side(
            file=file,
            network=one.network.name,
            sparse=one.sparse,
            size=replace(
                measure_cost(one.model, one.input_size, one.sparse),
                macs=measure_cost(one.model, one.input_size).macs,
            ),
            file_bytes=file.stat().st_size,
            latency=median,
            test=int(right.sum()) / max(int(total.sum()), 1),
        )
        for (file, one), (right, total), median in zip(kept, scores, seconds, strict=True)
    ]


@torch.inference_mode()
def latencies(
    networks: Sequence[tuple[nn.Module, tuple[int, int, int]]], runs: int = 50
) -> list[float]:
    """Median seconds that each model takes for one image of its input size (C, H, W).

    They take turns, image by image: what else the machine does then slows all of them alike.
    """
    images = [
        torch.zeros(1, *size, device=next(model.parameters()).device) for model, size in networks
    ]
    spent: list[list[float]] = [[] for _ in networks]
    for _ in range(runs + 5):
        for (model, _), image, times in zip(networks, images, spent, strict=True):
            began = time.perf_counter()
            model(image).argmax().item()  # to have the answer is to have waited for it
            times.append(time.perf_counter() - began)
    return [statistics.median(times[5:]) for times in spent]
