"""A weights file, and the files exported from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compress.deployment.export import ExportResult
from compress.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class Exported:
    """A weights file, and the files exported from it."""

    weights: Path
    checkpoint: Checkpoint
    onnx: ExportResult
    pixels: ExportResult
