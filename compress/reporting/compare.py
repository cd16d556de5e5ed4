"""Weights files and exported files side by side: size, latency and accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from compress.deployment.formats import count_bytes
from compress.deployment.latency import measure_latencies
from compress.deployment.load_model import Foreign, RuntimeModel, load_model
from compress.models.build import import_builder
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.models.memory_format import to_channels_last
from compress.recipe.budget import Cost
from compress.reporting.evaluation import measure_test_score
from compress.runtime.device import pick_device


@dataclass(frozen=True)
class ModelReport:
    """Measurements of one file.

    Args:
        cost: by torchinfo. With pruned weights, zeros are left out of the parameters, but not
            of the multiply-adds: they are computed too.
        file_bytes: size of the file.
        latency: median seconds for one image; of a weights file in float32.
        test: the task's score on the test split, 0 to 1.
    """

    file: Path
    network: str
    sparse: bool
    cost: Cost
    file_bytes: int
    latency: float
    test: float


def compare_models(
    files: Iterable[str | Path],
    data: str | None = None,
    device: str = "auto",
    builder: str | None = None,
    foreign: Foreign | None = None,
) -> list[ModelReport]:
    """Measure weights files and exported files on this machine.

    Args:
        data: data set whose test split is scored; that of each file's training if left out.
        device: ``auto``, ``cpu`` or ``cuda``.
        builder: ``package.module:function`` that builds the networks of files with ``custom`` ones.
        foreign: what files of other programs do not say about themselves.

    Raises:
        UserError: a file cannot be loaded, or the data is not available.
    """
    function = import_builder(builder) if builder else None
    paths = [Path(file) for file in files]
    checkpoints = [load_model(path, function, foreign) for path in paths]
    scores = [measure_test_score(checkpoint, data, device) for checkpoint in checkpoints]
    latencies = measure_latencies(
        [
            (to_channels_last(each.model).to(pick_device(device)), each.input_size)
            for each in checkpoints
        ]
    )
    return [
        ModelReport(
            file=path,
            network=checkpoint.network.name,
            sparse=checkpoint.sparse,
            cost=_measure_model_cost(checkpoint),
            file_bytes=count_bytes(path),
            latency=latency,
            test=score,
        )
        for path, checkpoint, score, latency in zip(
            paths, checkpoints, scores, latencies, strict=True
        )
    ]


def _measure_model_cost(checkpoint: Checkpoint) -> Cost:
    if isinstance(checkpoint.model, RuntimeModel):
        known = checkpoint.model.description
        return Cost(known.params, known.macs, 0)
    dense = measure_cost(checkpoint.model, checkpoint.input_size)
    counted = measure_cost(checkpoint.model, checkpoint.input_size, checkpoint.sparse)
    return replace(counted, macs=dense.macs)
