"""Cost of a model: parameters, multiply-adds and bytes. Budgets are checked here only.

Parameters are torchinfo's count. Multiply-adds are half of the floating-point operations that
torch's own FlopCounterMode sees: those of convolutions, matrix products and attention, whatever the
classes of the layers are called. torchinfo goes by names, and counts a linear layer once for all
tokens.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import torch
import torchinfo
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from compress.models.plain_module import require_module
from compress.models.summary_format import format_summary
from compress.recipe.budget import Cost
from compress.runtime.arguments import require_input_size
from compress.runtime.errors import UserError, is_out_of_memory, one_line

# torchinfo counts biases and the parameters of norms as multiply-adds, too: this much of a
# difference is no news.
NEGLIGIBLE = 0.05


@dataclass(frozen=True)
class Macs:
    """Multiply-adds for one image.

    Args:
        total: of the whole network.
        layers: by layer with parameters of its own. Those of an nn.MultiheadAttention include the
            products of queries, keys and values.
    """

    total: int
    layers: Counter[nn.Module]


def measure_cost(model: nn.Module, input_size: tuple[int, int, int], sparse: bool = False) -> Cost:
    """Count parameters, multiply-adds, and the bytes of all tensors.

    Args:
        input_size: (C, H, W) of the image for which multiply-adds are counted.
        sparse: do not count zero weights, for a model with pruned weights; their bytes do count.

    Raises:
        UserError: the model does not run on such images, or is no module.

    Example:
        >>> measure_cost(torchvision.models.resnet18(), (3, 224, 224)).params
        11689512
    """
    model, input_size = require_module(model, "model"), require_input_size(input_size)
    statistics, macs = _count(model, input_size, sparse)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    return Cost(params=statistics.total_params, macs=macs, bytes=size)


def count_macs(model: nn.Module, example: Tensor) -> Macs:
    """Count the multiply-adds of each layer of `model` on `example`, of shape (1, C, H, W)."""
    layers: Counter[nn.Module] = Counter()
    with torch.no_grad(), _counting(model, layers) as counter:
        model(example)
    return Macs(counter.get_total_flops() // 2, layers)


def describe_difference(model: nn.Module, input_size: tuple[int, int, int]) -> str | None:
    """Return a line that torchinfo and torch count different multiply-adds, or None if they agree.

    Args:
        input_size: (C, H, W) of the image for which they are counted.
    """
    return _compare(*_count(model, input_size))


def _compare(statistics: torchinfo.ModelStatistics, macs: int) -> str | None:
    theirs = int(statistics.total_mult_adds)
    if abs(theirs - macs) <= NEGLIGIBLE * macs:
        return None
    return (
        f"multiply-adds: {macs:,} by torch's count, which budgets use; torchinfo's is {theirs:,},"
        " as it goes by the names of classes and ignores products outside of layers"
    )


def summary_table(
    model: nn.Module,
    input_size: tuple[int, int, int],
    depth: int = 2,
    sparse: bool = False,
    width: int | None = None,
    cost: Cost | None = None,
) -> str:
    """Return torchinfo's table of `model` as text.

    A line below it says so where torchinfo miscounts multiply-adds.

    Args:
        input_size: (C, H, W) of the image for which multiply-adds are counted.
        depth: how many levels of nested modules to show.
        sparse: as for `measure_cost`.
        width: most characters of a line; no limit if left out. A narrow table leaves out numbers of
            layers, then the shapes of their outputs.
        cost: of the model, if it has been measured.
    """
    statistics = _summarize(_mask_zeros(model) if sparse else model, input_size, depth)
    if sparse or cost is None:
        note = describe_difference(model, input_size)
    else:
        note = _compare(statistics, cost.macs)
    return format_summary(statistics, width) + (f"\n{fill(note, width or 10_000)}" if note else "")


def prunable_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Return the layers whose single weights can be pruned: convolutions and linear layers."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _count(
    model: nn.Module, input_size: tuple[int, int, int], sparse: bool = False
) -> tuple[torchinfo.ModelStatistics, int]:
    """Return torchinfo's statistics and the multiply-adds, from one forward pass."""
    layers: Counter[nn.Module] = Counter()
    counted = _mask_zeros(model) if sparse else model
    with _counting(counted, layers) as counter:
        statistics = _summarize(counted, input_size, depth=1)
    macs = counter.get_total_flops() // 2
    if sparse:
        # A zero weight saves its part of the layer.
        for layer in prunable_layers(counted):
            zeros = int((layer.weight == 0).sum())
            macs -= layers[layer] * zeros // layer.weight.numel()
    return statistics, macs


@contextmanager
def _counting(model: nn.Module, layers: Counter[nn.Module]) -> Iterator[FlopCounterMode]:
    """Context in which torch counts operations, and those of each layer are added to `layers`."""
    counter = FlopCounterMode(display=False)
    started: dict[nn.Module, int] = {}

    def enter(module: nn.Module, _: Any) -> None:
        started[module] = counter.get_total_flops()

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        layers[module] += (counter.get_total_flops() - started[module]) // 2

    hooks = []
    for module in filter(is_layer, model.modules()):
        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        # The counter cannot follow a parameter that is passed to a module without gradients.
        parameter.requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    # The counter does not know the fused operation.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in trained:
            parameter.requires_grad_(True)
        for hook in hooks:
            hook.remove()


def is_layer(module: nn.Module) -> bool:
    """Return True for a module with parameters of its own whose forward pass calls no other."""
    alone = isinstance(module, nn.MultiheadAttention) or not any(True for _ in module.children())
    return alone and any(True for _ in module.parameters(recurse=False))


def _mask_zeros(model: nn.Module) -> nn.Module:
    """Return a copy with its zero weights masked by torch's own pruning, as torchinfo expects."""
    model = copy.deepcopy(model)
    for layer in prunable_layers(model):
        prune.custom_from_mask(layer, "weight", layer.weight != 0)  # type: ignore[no-untyped-call]
    return model


def _summarize(
    model: nn.Module, input_size: tuple[int, int, int], depth: int
) -> torchinfo.ModelStatistics:
    modes = {module: module.training for module in model.modules()}
    weight = next(model.parameters(), torch.zeros(()))
    try:
        return torchinfo.summary(
            model,
            input_data=torch.zeros(1, *input_size, device=weight.device, dtype=weight.dtype),
            depth=depth,
            col_names=("output_size", "num_params", "mult_adds"),
            row_settings=("var_names", "depth"),
            verbose=0,
        )
    except RuntimeError as error:
        # torchinfo says only that the model failed.
        cause = error.__cause__ or error
        if is_out_of_memory(cause):
            raise
        raise UserError(
            f"the model does not run on images of shape {(1, *input_size)}: {one_line(cause)}"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
