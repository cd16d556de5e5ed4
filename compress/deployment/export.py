"""Export: a weights file to a file of another runtime, compared before it is in place."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.deployment.formats import ExportFormat, Runner, files_of, get_format
from compress.deployment.prepare import prepare_network
from compress.deployment.samples import (
    Samples,
    normalize,
    open_own_data,
    random_samples,
    take_samples,
)
from compress.models.checkpoint import Checkpoint, load, read_seed
from compress.runtime.arguments import require_path
from compress.runtime.checksum import seal_file
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import staged_files

# Images on which a file is compared with the network; of random pixels, where there is no data.
CHECK_IMAGES, RANDOM_IMAGES = 1000, 64
# Logits that are compared at most.
CHECK_LOGITS = 2**26
# Largest difference of logits in float32; relative to the largest logit, where that is more.
TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-5
# Images that go through a network at once.
BATCH_SIZE = 50


@dataclass(frozen=True)
class ExportResult:
    """An exported file, and how its logits compare with the network's.

    Args:
        file: the file.
        format: its format.
        max_difference: largest difference of a logit.
        agreement: fraction of the images that get the same class.
        images: the images, in a few words.
    """

    file: Path
    format: str
    max_difference: float
    agreement: float
    images: str


def export(
    checkpoint: Checkpoint | str | Path,
    to: str = "onnx",
    out: str | Path | None = None,
    *,
    uint8: bool = False,
    data: str | None = None,
    builder: Callable[..., nn.Module] | None = None,
) -> ExportResult:
    """Export a network for another runtime.

    Convolutions and batch norms are fused, batches have any size, and classes, image size and
    normalization are in the file's metadata. The written file is compared with the network on
    validation images of its data, or on random images if the data is not available; if the logits
    differ, nothing is left of it.

    Args:
        checkpoint: weights file, or its path.
        to: format: ``onnx``, ``pt2``, ``openvino``, ``executorch`` or ``litert``.
        out: file to write; beside the weights file, with the format's suffix, if left out.
        uint8: let the file take pixels as they are, 0 to 255, and normalize them itself; of one
            channel if the data is grey.
        data: name of the network's data, if it has moved.
        builder: as for `compress.load`.

    Raises:
        UserError: the format is not installed or cannot express the network, or the file gives
            other logits than the network.

    Example:
        >>> compress.export("model.pth", "onnx", uint8=True).max_difference
        2.1e-06
    """
    form = get_format(to)
    out = Path(default_out(checkpoint, form.suffix) if out is None else out)
    form.require_suffix(out)
    loaded, origin = load_source(checkpoint, builder)
    samples = check_samples(loaded, data)
    network, description = prepare_network(loaded, uint8=uint8, grey=samples.grey)
    origin = origin | describe_versions(loaded, form)
    expected = network_logits(loaded, samples)
    allowed = max(TOLERANCE, RELATIVE_TOLERANCE * float(expected.abs().max()))
    with staged_files(out) as path:
        form.write(network, replace(description, origin=origin), path)
        seal_file(path, files_of(path)[1:])
        found = _run_exported(form, path, loaded, samples)
        difference = float((expected - found).abs().max())
        # A number that is no number is not within the tolerance either.
        if not difference <= allowed:
            raise UserError(
                f"{out}: its logits differ from the network's by {difference:.1e} on"
                f" {samples.source}, and {allowed:.1e} is allowed; nothing was written"
            )
    agreement = float((expected.argmax(1) == found.argmax(1)).float().mean())
    return ExportResult(out, form.name, difference, agreement, samples.source)


def _run_exported(form: ExportFormat, path: Path, known: Checkpoint, samples: Samples) -> Tensor:
    """Return the logits of a file that was just written."""
    try:
        return runner_logits(form.open(path, 0), known, samples)
    except Exception as error:  # a runtime may raise anything
        raise UserError(
            f"{form.name} cannot run the network that was written ({one_line(error)}); nothing is"
            " left of it"
        ) from error


def default_out(checkpoint: Checkpoint | str | Path, suffix: str) -> Path:
    """Return the file beside a weights file that has another suffix.

    Raises:
        UserError: the checkpoint has no file.
    """
    if isinstance(checkpoint, Checkpoint):
        raise UserError("no file to write; pass out")
    return require_path(checkpoint).with_suffix(suffix)


def load_source(
    checkpoint: Checkpoint | str | Path, builder: Callable[..., nn.Module] | None = None
) -> tuple[Checkpoint, dict[str, Any]]:
    """Return a checkpoint, and the name and SHA-256 of its file if it has one."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint, {}
    path = require_path(checkpoint)
    loaded = load(path, builder)
    return loaded, {
        "weights": path.name,
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def describe_versions(checkpoint: Checkpoint, form: ExportFormat) -> dict[str, Any]:
    """Return the versions of the packages that write a file, the data's checksum and its seed."""
    versions = {}
    for package in ("compress", "torch", *form.packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    origin: dict[str, Any] = {"versions": versions}
    if checksum := checkpoint.origin.get("data_checksum"):
        origin["data_checksum"] = checksum
    # What chose the validation images.
    if (seed := read_seed(checkpoint.origin)) is not None:
        origin["seed"] = seed
    return origin


def check_samples(checkpoint: Checkpoint, data: str | None = None) -> Samples:
    """Return validation images of a checkpoint's data; random ones if it is not available.

    Args:
        data: another name of the data set; it must be available.
    """
    try:
        # Logits of pixels are many.
        count = min(CHECK_IMAGES, max(1, CHECK_LOGITS // math.prod(checkpoint.logits_shape)))
        return take_samples(open_own_data(checkpoint, data), "val", count)
    except UserError:
        if data is not None:
            raise
        return random_samples(checkpoint, RANDOM_IMAGES)


@torch.inference_mode()
def network_logits(checkpoint: Checkpoint, samples: Samples) -> Tensor:
    """Return the logits of a checkpoint's network on `samples`: float32 (N, classes)."""
    network = copy.deepcopy(checkpoint.model).cpu().eval()
    parts = torch.split(samples.pixels, BATCH_SIZE)
    return torch.cat([network(normalize(part, checkpoint)).float() for part in parts])


def runner_logits(runner: Runner, checkpoint: Checkpoint, samples: Samples) -> Tensor:
    """Return the logits of an exported file on `samples`: float32 (N, classes).

    Args:
        checkpoint: the network that was exported.
    """
    logits = []
    for pixels in torch.split(samples.pixels, BATCH_SIZE):
        images = pixels if runner.uint8 else normalize(pixels, checkpoint)
        logits.append(np.asarray(runner.infer(images[:, : runner.input_size[0]].numpy())))
    return torch.from_numpy(np.concatenate(logits)).float()
