"""Networks that round as int8 does while they compute in float32, so that they can be trained.

Gradients pass through the rounding as if it were not there, and not where a value is clipped (the
straight-through estimator of Bengio et al. 2013, arXiv:1308.3432; Jacob et al. 2018,
arXiv:1712.05877). The rounding is inserted into the traced graph, where onnxruntime will quantize:
at the weights of convolutions and linear layers, and behind every operator, but not between an
operator and the ReLU behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compress.deployment.description import Description
from compress.deployment.tracing import trace

ATEN = torch.ops.aten
LAYERS = {ATEN.conv2d.default, ATEN.conv2d.padding, ATEN.linear.default}

# Operators whose outputs are among their inputs' values: rounded before, they need no rounding.
MOVING = {
    *("flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "clone"),
    *("contiguous", "dropout", "max_pool2d", "slice", "select", "split", "chunk", "expand"),
}
# Operators that onnxruntime merges into the rounding of what comes before them.
MERGED = {"relu", "relu6", "hardtanh", "clamp"}


class RoundActivation(nn.Module):
    """Rounds to 256 steps between two values, which it measures first.

    They are the means of the extremes of all batches: single large values are clipped.

    Args:
        measuring: True while it lets values pass, and measures their extremes.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.measuring, self.batches = True, 0
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        if self.measuring:
            self.batches += 1
            self.low += (values.detach().amin().clamp_max(0) - self.low) / self.batches
            self.high += (values.detach().amax().clamp_min(0) - self.high) / self.batches
            return values
        step = ((self.high - self.low) / 255).clamp_min(1e-12)
        zero = (-self.low / step).round().int()
        return torch.fake_quantize_per_tensor_affine(values, step, zero, 0, 255)


class RoundWeight(nn.Module):
    """Rounds a weight to whole steps, as large as its largest value in each channel demands.

    Args:
        largest: the number of steps up to the largest value.
    """

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, weight: Tensor) -> Tensor:
        step = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / self.largest
        zero = torch.zeros_like(step, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, step, zero, 0, -self.largest, self.largest
        )


def fake_quantize(network: nn.Module, description: Description, largest: int) -> GraphModule:
    """Return the traced graph of `network` with the rounding of int8; they share parameters.

    Args:
        network: takes normalized images, float32.
        largest: largest number in the weights, 127 or 64.

    Raises:
        UserError: the network cannot be traced.
    """
    traced = trace(network, description).module()
    assert isinstance(traced, GraphModule)
    for number, node in enumerate(list(traced.graph.nodes)):
        if node.target in LAYERS:
            rounding = RoundWeight(largest)
            weight = node.args[1]
            node.update_arg(1, _insert(traced, f"round_weight_{number}", rounding, weight, node))
        if _is_rounded(node):
            users = list(node.users)
            rounded = _insert(traced, f"round_{number}", RoundActivation(), node, node.next)
            for user in users:
                user.replace_input_with(node, rounded)
    traced.recompile()
    return traced


def set_measuring(traced: nn.Module, measuring: bool) -> None:
    """Let all activations of a `fake_quantize` network be measured, or rounded."""
    for module in traced.modules():
        if isinstance(module, RoundActivation):
            module.measuring = measuring


def _insert(traced: GraphModule, name: str, module: nn.Module, value: Node, before: Node) -> Node:
    traced.add_module(name, module)
    with traced.graph.inserting_before(before):
        return traced.graph.call_module(name, (value,))


def _is_rounded(node: Node) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    if node.op != "placeholder" and (_operator(node) or "dropout") in MOVING:
        return False
    return not (len(node.users) == 1 and _operator(next(iter(node.users))) in MERGED)


def _operator(node: Node) -> str:
    """Return the name of a node's operator, in place or not; empty for other nodes."""
    name = str(node.target)
    return name.split(".")[1].rstrip("_") if name.startswith("aten.") else ""
