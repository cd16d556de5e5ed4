"""Batch norms fuse_conv_bn into the convolutions before them: a network that only answers then does without them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

from torch import nn
from torch.fx import Node, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fuse_conv_bn(model: nn.Module) -> nn.Module:
    """A copy of `model`, in evaluation mode, that gives the same answers with fewer batch norms; one that cannot be
    copied comes back itself.

    Those stay that do not follow a convolution at once (DenseNet has them before it), or one that others listen to as
    well; and all of them where torch.fx cannot follow the network.
    """
    try:
        model = copy.deepcopy(model).eval()
    except Exception:  # one that keeps what it computed cannot be copied
        return model.eval()
    instead: dict[nn.Module, nn.Module] = {}
    for conv, norm in _pairs(model):
        instead |= {conv: fuse_conv_bn_eval(conv, norm), norm: nn.Identity()}
    for parent in list(model.modules()):  # a module may have several names
        for name, child in parent._modules.items():
            parent._modules[name] = child and instead.get(child, child)
    return model.eval()


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions, each with the batch norm that alone gets what it gives."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return
    tracer = Tracer()
    tracer.proxy_buffer_attributes = (
        True  # or running statistics that are looked at would not be in the graph
    )
    try:
        graph = tracer.trace(model)
    except Exception:  # a person's own network may do anything on its way
        return
    met = Counter(
        str(node.target).rpartition(".")[0] if node.op == "get_attr" else node.target
        for node in graph.nodes
    )
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if (
            not isinstance(before, Node)
            or {before.op, node.op} != {"call_module"}
            or len(before.users) > 1
        ):
            continue
        conv, norm = (model.get_submodule(str(step.target)) for step in (before, node))
        hooks = [
            h
            for module in (conv, norm)
            for h in (*module._forward_hooks, *module._forward_pre_hooks)
        ]
        if hooks or not met[before.target] == met[node.target] == 1:
            continue
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            yield conv, norm
