"""The stopwatch, in every runtime that is installed, and single layers as it times them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.deployment.layer_graph import Layer, layer_model
from compress.deployment.stopwatch import Stopwatch, open_stopwatch
from compress.pruning.clock import find_layers
from compress.recipe.registry import RUNTIMES
from compress.runtime.errors import UserError

CONV = Layer(6, 5, (3, 3), (2, 1), (1, 0), (1, 1))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
    return tmp_path


def open_or_skip(name: str) -> Stopwatch:
    try:
        return open_stopwatch(name)
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES.names())
def test_every_runtime_times_layers_and_networks_and_keeps_them(cache: Path, name: str) -> None:
    watch = open_or_skip(name)
    layers = [CONV, Layer(8, 8, (3, 3), (1, 1), (1, 1), (1, 1), groups=0), Layer(1)]
    times = [watch.layer(layer, 16, 16) for layer in layers]
    assert min(times) >= 1
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )
    turns = watch.networks([network.eval(), network], (3, 8, 8))
    assert len(turns[0]) == len(turns[1]) and min(turns[0]) > 0
    assert [open_stopwatch(name).layer(layer, 16, 16) for layer in layers] == times
    assert len(list((cache / "latency").glob(f"{name}-1-*.jsonl"))) == 1


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(UserError, match="4000 threads"):
        open_stopwatch("torch", 4000)


@pytest.mark.parametrize(
    ("layer", "outs", "ins"),
    [
        (CONV, 16, 8),
        (Layer(8, 8, (3, 3), (1, 1), (2, 2), (2, 2), groups=4), 16, 8),
        (Layer(8, 8, (5, 5), (2, 2), (2, 2), (1, 1), groups=0), 16, 16),
        (Layer(7), 5, 12),
    ],
)
@pytest.mark.parametrize("int8", [False, True])
def test_layers_that_are_timed_have_the_shapes_of_those_in_networks(
    layer: Layer, outs: int, ins: int, int8: bool
) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = layer_model(layer, outs, ins, int8=int8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    found = session.run(None, {given.name: np.ones(given.shape, np.uint8 if int8 else np.float32)})
    if layer.kernel:
        module: nn.Module = nn.Conv2d(
            ins,
            outs,
            layer.kernel,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups or outs,
        )
        images = torch.zeros(1, ins, layer.height, layer.width)
    else:
        module, images = nn.Linear(ins, outs), torch.zeros(1, layer.height, ins)
    assert found[0].shape[-2:] == module(images).shape[-2:]
    assert find_layers(nn.Sequential(module), images)[module] == [layer]


def test_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'onxx'.*onnx.*torch"):
        open_stopwatch("onxx")
