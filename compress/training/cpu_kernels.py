"""Operations that torch trains slowly on a CPU, computed otherwise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from compress.training import narrow_batch_norm, single_pixel_conv

# Of stride, padding, dilation and groups, as nn.Conv2d passes them.
CONVOLUTION_TYPES = [tuple, tuple, tuple, int]


class CpuKernels(TorchFunctionMode):
    """Context in which convolutions and batch normalization are fast on a CPU, whatever the shape.

    See `single_pixel_conv` and `narrow_batch_norm`.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, made = kwargs or {}, None
        if func is torch.conv2d and not kwargs:
            if [type(arg) for arg in args[3:]] == CONVOLUTION_TYPES:
                made = single_pixel_conv.convolve(*args)
        elif func is F.batch_norm and not torch.compiler.is_compiling():
            made = narrow_batch_norm.normalize(*args, **kwargs)
        return func(*args, **kwargs) if made is None else made
