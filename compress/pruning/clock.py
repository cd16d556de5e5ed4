"""A clock: how long a network takes for one image, predicted from its layers, and measured."""

from __future__ import annotations

import bisect
import hashlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from compress.deployment.layer_graph import Layer
from compress.deployment.measurements import Measurements
from compress.pruning.layer_cost import get_in_channels, mixes_channels
from compress.recipe.budget import Amount

# Processors compute channels in blocks: multiples of this are fast, all other widths are slow.
BLOCK = 8
# Widths at which layers are timed; in between, and beyond, their time is interpolated.
GRID = [
    *range(8, 64, 8),
    *(base * step // 4 for base in (64, 128, 256, 512, 1024, 2048) for step in (4, 5, 6, 7)),
    4096,
]
# Widths that are no multiples of `BLOCK` are interpolated between these.
ODD_GRID = [1, 3, *(width - 1 for width in GRID)]


class Timer(Protocol):
    """Measures times, as `compress.deployment.stopwatch.Stopwatch` does."""

    def layer(self, layer: Layer, outs: int, ins: int) -> float:
        """Return the nanoseconds of a layer."""

    def networks(
        self, networks: Sequence[nn.Module], input_size: tuple[int, int, int]
    ) -> list[list[float]]:
        """Return the seconds that each network takes for one image, in each of its turns."""

    def keep(self, key: str, measure: Callable[[], float]) -> float:
        """Return the number that was measured for `key`, now or earlier."""


@dataclass(frozen=True)
class Clock:
    """The time that a network takes for one image, and a budget on it.

    The prediction is the sum of its layers' times, stretched so that it is right for the uncut
    network and for the smallest one.

    Args:
        timer: measures times.
        budget: in nanoseconds, as a fraction of the uncut network's time, or both.
        uncut: the network before its first cut.
        input_size: (C, H, W) of the image.
        full, least: measured nanoseconds of the uncut and of the smallest network.
        scale, base: nanoseconds that stand for one of a layer's, and those of all the rest.
        kept: measurements of cut networks.
    """

    timer: Timer
    budget: Amount
    uncut: nn.Module
    input_size: tuple[int, int, int]
    full: float
    least: float
    scale: float
    base: float
    kept: Measurements = field(default_factory=Measurements)

    @property
    def limit(self) -> int:
        """The budget in nanoseconds."""
        return self.budget.resolve(round(self.full))

    def predict(self, model: nn.Module) -> int:
        """Return the predicted nanoseconds of a network."""
        return round(self.base + self.scale * sum_layers(self.timer, model, self.input_size))

    def layer_time(self, layers: Sequence[Layer], outs: int, ins: int) -> int:
        """Return the part of the prediction that is a layer's, at these widths.

        Args:
            layers: the layer at each image size that it sees.
        """
        return round(self.scale * sum(interpolate(self.timer, each, outs, ins) for each in layers))

    def measure(self, model: nn.Module) -> tuple[float, float]:
        """Measure a network in turns with the uncut one.

        Returns:
            Median nanoseconds for one image, and the fraction of the budget that it uses: above 1
            is over the budget. A part of the uncut network's time is the median of the ratios of
            both networks' turns, which other load on the machine leaves as it is.
        """
        key = network_key(model, self.input_size)
        found: list[float] = []

        def measure(index: int) -> Callable[[], float]:
            def once() -> float:
                if not found:
                    found.extend(self._compare(model))
                return found[index]

            return once

        time, ratio = (self.kept.get(f"{key} {i}", measure(i)) for i in range(2))
        usages = [time / self.budget.number] if self.budget.number else []
        if self.budget.fraction:
            usages.append(ratio / float(self.budget.fraction))
        return time, max(usages)

    def _compare(self, model: nn.Module) -> tuple[float, float]:
        uncut, times = self.timer.networks([self.uncut, model], self.input_size)
        ratios = [time / other for time, other in zip(times, uncut, strict=True)]
        return 1e9 * statistics.median(times), statistics.median(ratios)


def network_key(model: nn.Module, input_size: tuple[int, int, int]) -> str:
    """Return a key of a network's layers and widths; the values of its weights do not matter."""
    about = f"{input_size} {type(model).__qualname__} {model!r}"
    return f"network {hashlib.sha256(about.encode()).hexdigest()[:24]}"


def sum_layers(timer: Timer, model: nn.Module, input_size: tuple[int, int, int]) -> float:
    """Return the nanoseconds of all convolutions and linear layers of a network."""
    weight = next(model.parameters())
    example = torch.zeros(1, *input_size, device=weight.device, dtype=weight.dtype)
    return sum(
        interpolate(timer, layer, *list_widths(module))
        for module, layers in find_layers(model, example).items()
        for layer in layers
    )


@torch.no_grad()
def find_layers(model: nn.Module, example: Tensor) -> dict[nn.Module, list[Layer]]:
    """Return the convolutions and linear layers that `example` passes through.

    Args:
        example: one batch of input, (B, C, H, W).
    """
    found: dict[nn.Module, list[Layer]] = {}

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.setdefault(module, []).append(_describe(module, given[0]))

    hooks = [
        module.register_forward_pre_hook(note)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    training = model.training
    try:
        model.eval()(example[:1])
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found


def list_widths(module: nn.Module) -> tuple[int, int]:
    """Return the output and input channels of a layer; a depthwise one has 1 input channel."""
    assert isinstance(module, nn.Conv2d | nn.Linear)
    outs = module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
    return outs, get_in_channels(module) if mixes_channels(module) else 1


def _describe(module: nn.Module, images: Tensor) -> Layer:
    if isinstance(module, nn.Linear):
        return Layer(max(images.numel() // images.shape[-1], 1))
    assert isinstance(module, nn.Conv2d)
    padding = module.padding
    if isinstance(padding, str):
        reach = zip(module.kernel_size, module.dilation, strict=True)
        padding = tuple((k - 1) * d // 2 if padding == "same" else 0 for k, d in reach)
    return Layer(
        images.shape[-2],
        images.shape[-1],
        tuple(module.kernel_size),
        tuple(module.stride),
        tuple(padding),
        tuple(module.dilation),
        module.groups if mixes_channels(module) else 0,
    )


def interpolate(timer: Timer, layer: Layer, outs: int, ins: int) -> float:
    """Return a layer's time at any widths, from times at the widths of the grids."""
    if not layer.groups:
        return sum(part * timer.layer(layer, width, width) for width, part in _neighbours(outs))
    return sum(
        out_part * in_part * timer.layer(layer, out_width, in_width)
        for out_width, out_part in _neighbours(outs, layer.groups)
        for in_width, in_part in _neighbours(ins, layer.groups)
    )


def _neighbours(width: int, groups: int = 1) -> Iterator[tuple[int, float]]:
    """Yield the widths at which a layer is timed for its time at `width`, with their parts."""
    grid = ODD_GRID if width % BLOCK else GRID
    above = min(max(bisect.bisect_left(grid, width), 1), len(grid) - 1)
    if width in grid:
        yield _round_up(width, groups), 1.0
        return
    low, high = grid[above - 1], grid[above]
    part = (width - low) / (high - low)
    yield _round_up(low, groups), 1 - part
    yield _round_up(high, groups), part


def _round_up(width: int, groups: int) -> int:
    return -(-width // groups) * groups
