"""Forward passes for training: resized, channels last, bfloat16 where it is fast."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.memory_format import images_format
from compress.runtime.device import full_precision, has_fast_bfloat16
from compress.training.cpu_kernels import CpuKernels
from compress.training.objective import Forward


def make_forward(
    model: Callable[..., Tensor], image_size: int | None = None, exact: bool = False
) -> Forward:
    """Return the forward pass of `model`: images (B, 3, H, W) to float32 logits (B, classes).

    Logits of pixels get the size of the images before they were resized.

    Args:
        image_size: side to which images are resized first, in pixels.
        exact: compute in float32, even where bfloat16 is faster.
    """

    layout = images_format(model)

    def forward(images: Tensor) -> Tensor:
        size = images.shape[2:]
        if image_size is not None:
            images = resize_images(images, image_size)
        images = images.contiguous(memory_format=layout)
        fast = not exact and has_fast_bfloat16(images.device)
        kernels = CpuKernels() if images.device.type == "cpu" else nullcontext()
        digits = full_precision() if exact else nullcontext()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=fast), kernels, digits:
            logits = model(images).float()
        if logits.dim() == 4 and logits.shape[2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear")
        return logits

    return forward


def resize_images(images: Tensor, side: int) -> Tensor:
    """Return square images (B, C, S, S) resized to `side` pixels, (B, C, side, side)."""
    before = images.shape[-1]
    if before == side:
        return images
    size = (side, side)
    return F.interpolate(images, size=size, mode="bilinear", antialias=before > side)


def make_teacher(model: nn.Module, image_size: int | None = None) -> Forward:
    """Return the forward pass of `model` as a teacher: in evaluation mode, without gradients."""
    forward = make_forward(model.eval().requires_grad_(False), image_size)

    def teach(images: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(images)

    return teach


def compile_model(model: nn.Module) -> Callable[..., Tensor]:
    """Compile `model` as if it were the first one in this process.

    Earlier compilations would make the shapes of later networks dynamic, and a resumed stage must
    compute the same.
    """
    # torch warns of a missing GPU even if none is asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch._dynamo.reset()
    return torch.compile(model, dynamic=False)


def freeze_statistics(model: nn.Module) -> None:
    """Put every module without trainable parameters into evaluation mode.

    Its running statistics stay as they are, too.
    """
    for module in model.modules():
        trained = [parameter.requires_grad for parameter in module.parameters()]
        if trained and not any(trained):
            module.eval()
