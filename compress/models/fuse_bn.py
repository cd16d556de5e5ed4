"""Batch norms fused into the convolutions before them, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

from torch import nn
from torch.fx import Graph, Node, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fuse_conv_bn(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in evaluation mode, with the same outputs and fewer batch norms.

    A batch norm stays if it does not follow a convolution directly (DenseNet's precede theirs), or
    if the output or the parameters of either layer are also used elsewhere. All of them stay if
    torch.fx cannot trace the network. A model that cannot be copied is returned itself.
    """
    try:
        model = copy.deepcopy(model).eval()
    except Exception:  # a model that keeps non-leaf tensors cannot be copied
        return model.eval()
    replacements: dict[nn.Module, nn.Module] = {}
    for conv, norm in _fusible_pairs(model):
        replacements |= {conv: fuse_conv_bn_eval(conv, norm), norm: nn.Identity()}
    # A module may have several names, so every parent is searched.
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = child and replacements.get(child, child)
    return model.eval()


def _fusible_pairs(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield convolutions with the batch norm that is the only user of their output."""
    graph = _trace(model)
    if graph is None:
        return
    uses = Counter(
        str(node.target).rpartition(".")[0] if node.op == "get_attr" else node.target
        for node in graph.nodes
    )
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if (
            not isinstance(source, Node)
            or {source.op, node.op} != {"call_module"}
            or len(source.users) > 1
        ):
            continue
        conv, norm = (model.get_submodule(str(each.target)) for each in (source, node))
        hooks = [
            hook
            for module in (conv, norm)
            for hook in (*module._forward_hooks, *module._forward_pre_hooks)
        ]
        if hooks or not uses[source.target] == uses[node.target] == 1:
            continue
        # Not subclasses, which may compute something else.
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            yield conv, norm


def _trace(model: nn.Module) -> Graph | None:
    """Return the graph of `model`; None if it has no batch norm or cannot be traced."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return None
    tracer = Tracer()
    # Without this, reads of running statistics would not be in the graph.
    tracer.proxy_buffer_attributes = True
    try:
        return tracer.trace(model)
    except Exception:  # a custom network may do anything in its forward pass
        return None
