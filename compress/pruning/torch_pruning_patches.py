"""Patches to classes of torch-pruning and torchvision that are active while a network is traced.

torch-pruning 1.6 cannot follow channels through some operations. Each patch below replaces one
attribute, states why it is needed, and is undone when tracing ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch_pruning.dependency import index_mapping, shape_infer
from torchvision.models import shufflenetv2


@contextmanager
def patch_for_tracing(model: nn.Module) -> Iterator[None]:
    """Apply every patch while `model` is traced.

    The patches are global: do not trace in two threads at once.
    """
    max_channels = max(side for parameter in model.parameters() for side in parameter.shape)
    with (
        _skip_channel_shuffle(),
        _trace_shared_slopes(),
        _bound_flattened_channels(max_channels),
        _keep_split_sizes(),
    ):
        yield


@contextmanager
def _replace_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def _skip_channel_shuffle() -> Iterator[None]:
    """Leave out the channel shuffle of torchvision's ShuffleNet, which torch-pruning cannot follow.

    Groups inside a branch are then found correctly. Groups that span a shuffle are wrong:
    `Structure.prune` detects them when it verifies a cut, and they are excluded.
    """
    with _replace_attribute(shufflenetv2, "channel_shuffle", lambda images, groups: images):
        yield


@contextmanager
def _trace_shared_slopes() -> Iterator[None]:
    """Trace a PReLU that has one slope for all channels as a LeakyReLU.

    torch-pruning takes a PReLU's slopes for one per channel, and a shared slope for a layer of
    unknown width.
    """

    def forward(module: nn.PReLU, images: Tensor) -> Tensor:
        if module.num_parameters == 1:
            return F.leaky_relu(images)
        return F.prelu(images, module.weight)

    with _replace_attribute(nn.PReLU, "forward", forward):
        yield


@contextmanager
def _bound_flattened_channels(max_channels: int) -> Iterator[None]:
    """Raise IndexError when flattening gives more than `max_channels` channels.

    torch-pruning multiplies channels at every flatten it meets. Behind a product of two feature
    maps it does so without end. `trace_channel_groups` catches the error and reports the layer as
    unresolved.
    """
    mapping_class = index_mapping._FlattenIndexMapping
    map_channels = mapping_class.__call__

    def map_bounded(mapping: Any, channels: Any) -> Any:
        if not mapping.reverse and len(channels) * mapping._stride > max_channels:
            raise IndexError("more flattened channels than any layer takes")
        return map_channels(mapping, channels)

    with _replace_attribute(mapping_class, "__call__", map_bounded):
        yield


@contextmanager
def _keep_split_sizes() -> Iterator[None]:
    """Keep the sizes of the parts of a split, which `compress.pruning.graph` reads from autograd.

    torch-pruning infers those of `chunk` from the layers that follow, and guesses wrong.
    """
    with _replace_attribute(shape_infer, "init_shape_information", lambda graph: None):
        yield
