"""Compress an image classifier to a budget.

    compress.run("default", budget="100k", out="runs/mine")     # the whole pipeline
    compress.fit(model, train, val, budget="100k")              # a module in, a smaller one out
    compress.load("runs/mine/model.pth").model                  # a plain nn.Module
    compress.predict("runs/mine/model.pth", ["shirt.png"])      # classes and probabilities
    compress.evaluate("runs/mine/model.pth").macro_f1           # metrics on the test split
    compress.calibrate(checkpoint)                              # probabilities to believe
    compress.prepare("shirt.png", checkpoint)                   # an image as the model takes it
    compress.prune(model, example, "100k")                      # one cut, without training
    compress.analyze("runs/mine/model.pth")                     # what cuts of each layer would cost
    compress.export("runs/mine/model.pth", "onnx")              # for onnxruntime, checked
    compress.quantize("runs/mine/model.pth")                    # int8, a quarter of the size
    compress.adopt("mine.pt", "resnet50", "folder:photos")      # a network trained elsewhere
    compress.save(model, "trained.pth", classes=["cat", "dog"]) # to a weights file
    compress.track("tensorboard")                               # callbacks that log a run
    compress.report("runs/mine", "mine.html")                   # what happened, as a page
    compress.summarize(model, (3, 28, 28))                      # parameters and multiply-adds

Importing the package does not import torch; the first use of one of these functions does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from compress.runtime.errors import UserError

if TYPE_CHECKING:
    from compress.deployment.export import export
    from compress.deployment.predict import predict, prepare
    from compress.experiments.report import report
    from compress.models.checkpoint import load
    from compress.models.cost import measure_cost as summarize
    from compress.models.modules import save
    from compress.pipeline.adopt import adopt
    from compress.pipeline.fit import fit
    from compress.pipeline.run import run
    from compress.pruning.analysis import analyze
    from compress.pruning.pruner import prune
    from compress.quantization.quantize import quantize
    from compress.reporting.calibration import calibrate
    from compress.reporting.evaluation import evaluate
    from compress.reporting.loggers.tracking import track

__all__ = [
    "UserError",
    "adopt",
    "analyze",
    "calibrate",
    "evaluate",
    "export",
    "fit",
    "load",
    "predict",
    "prepare",
    "prune",
    "quantize",
    "report",
    "run",
    "save",
    "summarize",
    "track",
]

# Where each public function is defined, as "module:attribute".
_DEFINITIONS = {
    "adopt": "compress.pipeline.adopt:adopt",
    "analyze": "compress.pruning.analysis:analyze",
    "calibrate": "compress.reporting.calibration:calibrate",
    "evaluate": "compress.reporting.evaluation:evaluate",
    "export": "compress.deployment.export:export",
    "fit": "compress.pipeline.fit:fit",
    "load": "compress.models.checkpoint:load",
    "predict": "compress.deployment.predict:predict",
    "prepare": "compress.deployment.predict:prepare",
    "prune": "compress.pruning.pruner:prune",
    "quantize": "compress.quantization.quantize:quantize",
    "report": "compress.experiments.report:report",
    "run": "compress.pipeline.run:run",
    "save": "compress.models.modules:save",
    "summarize": "compress.models.cost:measure_cost",
    "track": "compress.reporting.loggers.tracking:track",
}


def __getattr__(name: str) -> Any:
    if name not in _DEFINITIONS:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    module, _, attribute = _DEFINITIONS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
