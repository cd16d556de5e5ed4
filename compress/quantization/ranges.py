"""Ranges of activations, measured on images by onnxruntime. Does not import torch.

An activation is quantized between a lowest and a highest value; what lies outside is clipped. The
extremes clip nothing, but a single large value makes all steps coarse. Which ranges are best
depends on the network, so several kinds are measured in one pass.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

# Name of an activation to its lowest and highest value.
Ranges = dict[str, tuple[float, float]]

# Images whose extremes are averaged together; also the most that are computed at once.
GROUP = 16
# Values of activations that are held at once.
HELD_VALUES = 2**25
# Values of each activation from which percentiles are found.
SAMPLED_VALUES = 2**17
# Percentiles between which nearly all values lie, in percent.
PERCENTILES = (99.99, 99.999)


def measure_ranges(model: onnx.ModelProto, images: NDArray[Any]) -> dict[str, Ranges]:
    """Return ranges of all activations of a float32 model, by the way in which they are found.

    Args:
        model: takes images (B, C, H, W), with a free batch size.
        images: calibration images, as the model takes them.

    Returns:
        ``extremes``; ``average``, the mean over groups of 16 images of their extremes; and ranges
        of nearly all values, such as ``99.99 %``. All of them contain 0.

    Example:
        >>> measure_ranges(model, images)["extremes"]["relu"]
        (0.0, 5.13)
    """
    lows: dict[str, list[NDArray[Any]]] = defaultdict(list)
    highs: dict[str, list[NDArray[Any]]] = defaultdict(list)
    samples: dict[str, list[NDArray[Any]]] = defaultdict(list)
    random = np.random.default_rng(0)
    share = max(1, SAMPLED_VALUES // len(images))
    for activations, count in _activations(model, images):
        for name, values in activations.items():
            rows = values.reshape(len(values) if len(values) == count else 1, -1)
            lows[name].append(np.broadcast_to(rows.min(1), count))
            highs[name].append(np.broadcast_to(rows.max(1), count))
            flat = rows.ravel()
            if flat.size > share * count:
                flat = flat[random.integers(0, flat.size, share * count)]
            samples[name].append(flat)
    low, high, sample = (
        {name: np.concatenate(parts) for name, parts in each.items()}
        for each in (lows, highs, samples)
    )
    found = {
        "extremes": {name: (low[name].min(), high[name].max()) for name in low},
        "average": {
            name: (_group_mean(low[name], np.min), _group_mean(high[name], np.max)) for name in low
        },
    }
    for percent in PERCENTILES:
        found[f"{percent:g} %"] = {
            name: tuple(np.percentile(sample[name], (100 - percent, percent))) for name in low
        }
    return {kind: {k: _with_zero(*v) for k, v in each.items()} for kind, each in found.items()}


def _with_zero(low: float, high: float) -> tuple[float, float]:
    return min(float(low), 0.0), max(float(high), 0.0)


def _group_mean(values: NDArray[Any], extreme: Any) -> float:
    groups = np.array_split(values, max(1, len(values) // GROUP))
    return float(np.mean([extreme(group) for group in groups]))


def _activations(
    model: onnx.ModelProto, images: NDArray[Any]
) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
    """Yield all float32 activations of a few images at a time, by name, and how many images."""
    import onnx
    import onnxruntime

    model = copy.deepcopy(model)
    graph, given = model.graph, model.graph.input[0].name
    known = {value.name for value in graph.output}
    names = [name for node in graph.node for name in node.output if name and name not in known]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    start, size = 0, 1
    while start < len(images):
        batch = images[start : start + size]
        computed = {given: batch} | dict(
            zip(names, session.run(names, {given: batch}), strict=True)
        )
        floats = {k: v for k, v in computed.items() if v.dtype == np.float32 and v.size}
        yield floats, len(batch)
        start += size
        values = sum(each.size for each in floats.values()) // len(batch)
        size = min(GROUP, max(1, HELD_VALUES // max(values, 1)))
