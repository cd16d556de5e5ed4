"""The public Python API: complete, and imported without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

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


def test_what_a_function_does_not_take_is_refused_in_one_line(tmp_path: Path) -> None:
    net, images = nn.Conv2d(3, 2, 8), np.zeros((6, 8, 8, 3), np.uint8)
    file = tmp_path / "net.pth"
    torch.save(net.state_dict(), file)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("compress.save", lambda: compress.analyze(net)),
        ("compress.save", lambda: compress.calibrate(net, (images, [0, 1] * 3))),
        ("compress.save", lambda: compress.evaluate(net, (images, [0, 1] * 3))),
        ("compress.save", lambda: compress.export(net, "onnx")),
        ("compress.save", lambda: compress.load(net)),
        ("compress.save", lambda: compress.predict(net, images)),
        ("compress.save", lambda: compress.quantize(net)),
        ("images: ", lambda: compress.predict("weights/fashion-mnist-100k.pth", None)),
        ("network: .*Conv2d", lambda: compress.adopt(file, net, "mnist")),
        ("data: .*tuple", lambda: compress.adopt(file, "resnet18", (images, [0, 1] * 3))),
        ("tensors: .*Conv2d", lambda: compress.adopt(net, "resnet18", "mnist")),
        ("mean = ", lambda: compress.adopt(file, "resnet18", "mnist", mean="a")),
        ("std = 0", lambda: compress.adopt(file, "resnet18", "mnist", std=0)),
        ("image_size", lambda: compress.adopt(file, "resnet18", "mnist", image_size=(8, 8))),
        ("image_size", lambda: compress.save(net, file, classes=2, image_size=(8, 8))),
        ("mean = ", lambda: compress.save(net, file, classes=2, image_size=8, mean=None)),
        ("path: ", lambda: compress.save(net, None, classes=2, image_size=8)),
        ("network: ", lambda: compress.save(net, file, classes=2, image_size=8, network=print)),
        (r"\(C, H, W\)", lambda: compress.summarize(net, (1, 3, 8, 8))),
        (r"\(1, 1, 8, 8\)", lambda: compress.summarize(net, (1, 8, 8))),
        ("model: ", lambda: compress.summarize("net.pth", (3, 8, 8))),
        ("mean = ", lambda: compress.run(student=net, data=(images, [0] * 6), mean="a", std="a")),
        ("image_size", lambda: compress.run(student=net, image_size=(8, 8))),
    ]
    for word, call in calls:
        with pytest.raises(compress.UserError, match=word) as refused:
            call()
        assert len(str(refused.value).splitlines()) == 1
