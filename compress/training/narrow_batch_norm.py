"""Batch normalization of few channels, computed as if they were many."""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from compress.runtime import distributed

# torch's own is as fast from 32 channels on, and with 16, and on few pixels.
CHANNELS, PIXELS = 32, 2**14
# Neighbouring pixels whose channels are normalized side by side.
PIXELS_IN_ROW = 16


def normalize(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """Return the same as `F.batch_norm`, faster, or None where that is fast.

    On a CPU, torch normalizes maps (B, C, H, W) in channels-last memory pixel by pixel, in vectors
    of 32 bfloat16 numbers. Channels that do not fill a vector are slow: of seven, all are.
    """
    if weight is None or bias is None or running_mean is None or running_var is None:
        return None
    if training and distributed.world_size() > 1:
        return None  # `ddp.py` takes the statistics of the whole batch
    if images.dim() != 4 or images.dtype != torch.bfloat16 or weight.dtype != torch.float32:
        return None
    channels, pixels = images.shape[1], images.numel() // max(1, images.shape[1])
    if channels >= CHANNELS or channels == 16 or pixels < PIXELS:
        return None
    repeats = gcd(pixels, PIXELS_IN_ROW)
    if repeats * channels < CHANNELS or not images.permute(0, 2, 3, 1).is_contiguous():
        return None
    state = running_mean, running_var
    if training:
        made: Tensor = NarrowBatchNorm.apply(images, weight, bias, *state, momentum, eps, repeats)
        return made
    return _maps(_affine(_rows(images, repeats), weight, bias, *state, eps), images)


class NarrowBatchNorm(Function):
    """Batch normalization in training, of rows that hold the channels of several pixels.

    The statistics of a row's columns are pooled by channel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        repeats: int,
    ) -> Tensor:
        rows, channels = _rows(images, repeats), len(weight)
        pixels = rows.numel() // channels
        # Statistics have the type of the running ones: given none, that of the images.
        unused = running_mean.repeat(repeats), running_var.repeat(repeats)
        found = torch.batch_norm_update_stats(rows, *unused, 0.0)
        means, variances = (each.view(repeats, channels) for each in found)
        mean = means.mean(0)
        var = variances.mean(0) + means.var(0, unbiased=False)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (pixels / (pixels - 1)), momentum)
        ctx.save_for_backward(images, weight, mean, var)
        ctx.eps, ctx.repeats = eps, repeats
        made = torch.empty_like(images)
        _affine(rows, weight, bias, mean, var, eps, into=_rows(made, repeats))
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, var = ctx.saved_tensors
        rows, repeats, channels = _rows(images, ctx.repeats), ctx.repeats, len(weight)
        pixels = rows.numel() // channels
        slopes = _rows(gradient.contiguous(memory_format=torch.channels_last), repeats)
        direct, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            slopes,
            rows,
            weight.repeat(repeats),
            mean.repeat(repeats),
            var.repeat(repeats),
            None,
            None,
            False,
            ctx.eps,
            [True, True, True],
        )
        by_weight = by_weight.view(repeats, channels).sum(0)
        by_bias = by_bias.view(repeats, channels).sum(0)
        # What flows back through the mean and the variance of the batch.
        scale = -weight * (var + ctx.eps).rsqrt() / pixels
        direct += _affine(rows, scale * by_weight, scale * by_bias, mean, var, ctx.eps)
        return _maps(direct, images), by_weight, by_bias, None, None, None, None, None


def _affine(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    into: Tensor | None = None,
) -> Tensor:
    """Normalize `rows` by given statistics of the channels, in float32."""
    weight, bias, mean, var = (
        each.repeat(rows.shape[1] // len(each)) for each in (weight, bias, mean, var)
    )
    out = None if into is None else (into, weight.new_empty(0), weight.new_empty(0))
    return torch.native_batch_norm(rows, weight, bias, mean, var, False, 0.0, eps, out=out)[0]


def _rows(maps: Tensor, repeats: int) -> Tensor:
    """Return maps (B, C, H, W) as rows of `repeats` pixels each: a view of channels-last memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, repeats * maps.shape[1])


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows as maps of the shape of `like`."""
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
