"""torch-pruning's dependency graph, with the operations that it cannot follow as borders.

torch-pruning takes dimension 1 for the channels of every tensor. Where a network slices or splits
tokens, or maps whose channels come last, it would follow positions as if they were channels, or
never return. Here such an operation becomes opaque: channel groups that reach it are left alone,
all others are pruned.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.dependency.node import Node

from compress.models.outputs import keep_logits, list_tensors, run_unreduced
from compress.runtime.errors import UserError, one_line


def build_graph(model: nn.Module, example: Tensor) -> tuple[Any, set[Any]]:
    """Trace `model` on `example`, of shape (B, C, H, W).

    Returns:
        The graph, and the modules that stand for its opaque operations.

    Raises:
        UserError: the forward pass fails.
        Exception: of any other type, where torch-pruning fails.
    """
    graph = tp.DependencyGraph()
    opaque: list[Any] = []
    trace = graph._trace

    def trace_with_borders(*args: Any, **kwargs: Any) -> Any:
        module2node = trace(*args, **kwargs)
        for node in list(module2node.values()):
            if node.type not in (tp.ops.OPTYPE.SPLIT, tp.ops.OPTYPE.SLICE):
                continue
            parts = None
            if _is_opaque(node):
                opaque.append(node)
            elif node.type == tp.ops.OPTYPE.SPLIT and _read_dim(node)[0] == 1:
                if parts := _separate_parts(node):
                    module2node |= {part.module: part for part in parts}
                    continue
                opaque.append(node)
            # torch-pruning then maps each channel to itself.
            node.type = tp.ops.OPTYPE.ELEMENTWISE
        return module2node

    graph._trace = trace_with_borders
    with torch.no_grad():
        classes = keep_logits(model, run_unreduced(model, example)).shape[1]
    run_forward = partial(_run_forward, classes=classes)
    graph.build_dependency(model, example, run_forward, verbose=False)
    for node in opaque:
        node.dependencies.clear()
    return graph, {node.module for node in opaque}


def _run_forward(model: nn.Module, images: Tensor, classes: int) -> Any:
    """Run `model` for torch-pruning. If it raises, name the last layer that was reached."""
    names = {module: name for name, module in model.named_modules() if not any(module.children())}
    reached = ["?"]
    hooks = [
        module.register_forward_pre_hook(lambda module, _: reached.append(names[module]))
        for module in names
    ]
    try:
        return _run_auxiliary(model, images, classes) or keep_logits(
            model, run_unreduced(model, images)
        )
    except Exception as error:
        raise UserError(
            f"this network cannot be pruned: tracing fails in or after layer {reached[-1]!r}"
            f" ({one_line(error)})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _run_auxiliary(model: nn.Module, images: Tensor, classes: int) -> list[Tensor]:
    """Return the logits of all heads of a network that has more of them in training, else nothing.

    Layers are in evaluation mode: a batch norm would refuse single images.
    """
    containers = [module for module in model.modules() if any(True for _ in module.children())]
    try:
        for module in containers:
            module.training = True
        output = run_unreduced(model, images)
    # Whether it can be trained is not a question of tracing.
    except Exception:
        return []
    finally:
        for module in containers:
            module.training = False
    if isinstance(output, Tensor):
        return []
    return [each for each in list_tensors(output) if each.dim() == 2 and each.shape[1] == classes]


def _read_dim(node: Any) -> tuple[int, tuple[int, ...]]:
    """Return the dimension along which a split or slice divides a tensor, and the tensor's shape.

    autograd saves dimensions unsigned: -1 is 2**64 - 1.
    """
    dim, shape = node.grad_fn._saved_dim, tuple(node.grad_fn._saved_self_sym_sizes)
    return (dim - 2**64 if dim >= 2**63 else dim) % len(shape), shape


def _separate_parts(split: Any) -> list[Any]:
    """Put a node of its own behind each part of a split, in order, and return these nodes.

    torch-pruning takes the operations that use a split for its parts, in the order of its search;
    but several may use the same part. Nothing is done if a part is not used at all.
    """
    channels, saved = _read_dim(split)[1][1], split.grad_fn
    sizes = getattr(saved, "_saved_split_sizes", None)
    if sizes is None:
        step = saved._saved_split_size
        sizes = [min(step, channels - start) for start in range(0, channels, step)]
    users = list(dict.fromkeys(split.outputs))
    uses = {user: [n for f, n in user.grad_fn.next_functions if f is saved] for user in users}
    if {number for numbers in uses.values() for number in numbers} != set(range(len(sizes))):
        return []
    parts = [
        Node(tp.ops._ElementWiseOp(f"{split.module.id}.{number}", "part"), saved)
        for number in range(len(sizes))
    ]
    for user, numbers in uses.items():
        places = [i for i, source in enumerate(user.inputs) if source is split]
        for place, number in zip(places, numbers, strict=True):
            user.inputs[place] = parts[number]
            parts[number].add_output(user)
    split.outputs = parts
    for part in parts:
        part.add_input(split)
    split.module.split_sizes = list(sizes)
    split.module.offsets = [0, *itertools.accumulate(sizes)]
    return parts


def _is_opaque(node: Any) -> bool:
    """Return True for a split or slice at which torch-pruning loses track of channels."""
    dim, shape = _read_dim(node)
    width = _find_width(node)
    # Maps (B, C, H, W) are followed: sliced along all dimensions but the channels, or split.
    if len(shape) == 4 and (width is None or shape[1] == width or dim == 0):
        return node.type == tp.ops.OPTYPE.SLICE and dim == 1
    # Tokens (B, N, C) are chosen without touching their channels, as the class token is.
    if len(shape) == 3 and shape[2] == width and dim == 1:
        return False
    return not (node.type == tp.ops.OPTYPE.SPLIT and len(shape) == 2 and dim == 1)


def _find_width(node: Any) -> int | None:
    """Return the number of output channels of the closest layer before `node`."""
    seen, queue = {node}, [node]
    while queue:
        node = queue.pop(0)
        module: Any = node.module
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            return int(module.weight.shape[0])
        sources = [source for source in node.inputs if source not in seen]
        seen.update(sources)
        queue += sources
    return None
