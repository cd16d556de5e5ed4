"""Patches are active while a network is traced, and undone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_pruning.dependency import index_mapping
from torchvision.models import shufflenetv2

from compress.pruning.groups import trace_channel_groups
from compress.pruning.torch_pruning_patches import patch_for_tracing
from compress.runtime.errors import UserError

FLATTEN = index_mapping._FlattenIndexMapping


def patched_attributes() -> tuple[Any, ...]:
    return shufflenetv2.channel_shuffle, nn.PReLU.forward, FLATTEN.__call__


def test_patches_are_undone_after_success_and_failure() -> None:
    before = patched_attributes()
    with patch_for_tracing(nn.Linear(4, 4)):
        assert all(a is not b for a, b in zip(before, patched_attributes(), strict=True))
    assert patched_attributes() == before
    with pytest.raises(ZeroDivisionError), patch_for_tracing(nn.Linear(4, 4)):
        raise ZeroDivisionError
    assert patched_attributes() == before
    # Tracing itself fails: the images have too many channels.
    with pytest.raises(UserError, match="cannot be pruned"):
        trace_channel_groups(nn.Conv2d(3, 8, 3), torch.zeros(1, 4, 8, 8))
    assert patched_attributes() == before


def test_the_channel_shuffle_is_skipped() -> None:
    images = torch.arange(8.0).reshape(1, 8, 1, 1)
    with patch_for_tracing(nn.Linear(4, 4)):
        assert torch.equal(shufflenetv2.channel_shuffle(images, 2), images)
    assert not torch.equal(shufflenetv2.channel_shuffle(images, 2), images)


def test_only_a_shared_slope_is_traced_as_leaky_relu() -> None:
    images = torch.linspace(-1, 1, 8).reshape(1, 4, 2)
    shared, slopes = nn.PReLU(init=0.7), nn.PReLU(4, init=0.7)
    with patch_for_tracing(shared):
        assert torch.equal(shared(images), F.leaky_relu(images))
        assert torch.equal(slopes(images), F.prelu(images, slopes.weight))
    assert torch.equal(shared(images), F.prelu(images, shared.weight))


def test_flattened_channels_are_bounded_by_the_widest_layer() -> None:
    mapping = FLATTEN(stride=4)
    channels = [index_mapping._helpers._HybridIndex(i, i) for i in range(8)]
    with patch_for_tracing(nn.Linear(32, 2)):
        assert len(mapping(channels)) == 32
    with patch_for_tracing(nn.Linear(31, 2)):
        with pytest.raises(IndexError):
            mapping(channels)
        unflattened = FLATTEN(stride=4, reverse=True)(channels)
        assert {channel.idx for channel in unflattened} == {0, 1}
