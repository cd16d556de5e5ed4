"""Convolutions whose output is a single pixel, computed as matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor | None:
    """Return a convolution as a matrix product if its output is a single pixel, else None.

    The convolution maps images (B, I, H, W) to (B, O, 1, 1) by a weight (O, I / groups, h, w).

    Networks end in such maps on small images: at 28 pixels, half of a ResNet50's weights are in
    such convolutions. oneDNN trains them at a quarter of the speed of its matrix products. Its
    bfloat16 convolutions also leave the gradients of taps that only see padding uninitialized; here
    they are zero.
    """
    if dilation != (1, 1) or images.dim() != 4:
        return None
    sides, kernel = images.shape[2:], weight.shape[2:]
    if any(
        not 0 <= n + 2 * p - k < s or p >= k
        for n, k, s, p in zip(sides, kernel, stride, padding, strict=True)
    ):
        return None
    (height, width), (above, left) = sides, padding
    seen = images[:, :, : kernel[0] - above, : kernel[1] - left]
    taps = weight[:, :, above : above + height, left : left + width]
    if groups == 1:
        return F.linear(_flat(seen), _flat(taps), bias)[:, :, None, None]
    parts = [_flat(part) for part in seen.chunk(groups, 1)]
    weights = [_flat(part) for part in taps.chunk(groups, 0)]
    made = torch.bmm(torch.stack(parts), torch.stack(weights).mT).transpose(0, 1).flatten(1)
    return (made if bias is None else made + bias)[:, :, None, None]


def _flat(maps: Tensor) -> Tensor:
    """Return maps (N, C, H, W) as (N, H × W × C): a view of channels-last memory."""
    return maps.permute(0, 2, 3, 1).flatten(1)
