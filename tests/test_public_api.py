"""The public Python API: complete, and imported without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import compress


def test_every_public_name_resolves_to_its_definition() -> None:
    assert dir(compress) == sorted(compress.__all__)
    assert {name: getattr(compress, name).__module__ for name in compress.__all__} == {
        "UserError": "compress.runtime.errors",
        "adopt": "compress.pipeline.adopt",
        "analyze": "compress.pruning.analysis",
        "calibrate": "compress.reporting.calibration",
        "evaluate": "compress.reporting.evaluation",
        "export": "compress.deployment.export",
        "fit": "compress.pipeline.fit",
        "load": "compress.models.checkpoint",
        "predict": "compress.deployment.predict",
        "prepare": "compress.deployment.predict",
        "prune": "compress.pruning.pruner",
        "quantize": "compress.quantization.quantize",
        "report": "compress.experiments.report",
        "run": "compress.pipeline.run",
        "save": "compress.models.modules",
        "summarize": "compress.models.cost",
        "track": "compress.reporting.loggers.tracking",
    }


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        compress.nothing  # noqa: B018


def test_import_does_not_import_torch() -> None:
    code = "import compress, sys; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)
