"""Channels of the images that a network takes: three, or one for grey images."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from compress.runtime.errors import UserError

COLOR, GREY = 3, 1


def input_channels(model: nn.Module, *image_sizes: int) -> int:
    """Return the number of channels of the images that `model` takes: 3, or 1 for grey ones.

    The network is tried on one image, in evaluation mode. If it takes neither, as at a wrong image
    size, its first convolution decides.

    Args:
        image_sizes: sides of images, in pixels; the first one that the network takes decides.

    Raises:
        UserError: the network takes another number of channels.

    Example:
        >>> input_channels(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), 28)
        1
    """
    training = model.training
    try:
        for image_size in image_sizes:
            for channels in (COLOR, GREY):
                if _takes(model.eval(), channels, image_size):
                    return channels
    finally:
        model.train(training)
    _, conv = first_convolution(model)
    channels = COLOR if conv is None else conv.in_channels
    if channels not in (COLOR, GREY):
        raise UserError(
            f"the network takes images of {channels} channels; images have 3, or 1 if they are grey"
        )
    return channels


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d | None]:
    """Return path and module of the first convolution; None if there is none."""
    layers = model.named_modules()
    found = ((path, module) for path, module in layers if isinstance(module, nn.Conv2d))
    return next(found, ("", None))


def narrow_input(model: nn.Module) -> nn.Module:
    """Let a network of color images take grey ones instead, in place.

    The weights of the first convolution are summed over the channels: the network computes what it
    did of three equal channels.

    Raises:
        UserError: the first convolution does not take three channels together.
    """
    _, conv = first_convolution(model)
    if conv is None or conv.in_channels != COLOR or conv.groups != 1:
        raise UserError("the network's first convolution does not take three channels")
    conv.in_channels = GREY
    conv.weight = nn.Parameter(conv.weight.detach().sum(1, keepdim=True))
    return model


def widen_input(model: nn.Module) -> nn.Module:
    """Let a network of grey images also take them with their channel repeated, in place.

    It then computes from the first channel alone.
    """
    model.register_forward_pre_hook(_first_channel)
    return model


def _first_channel(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0][:, :1], *inputs[1:])


@torch.no_grad()
def _takes(model: nn.Module, channels: int, image_size: int) -> bool:
    parameter = next(model.parameters(), torch.zeros(()))
    images = torch.zeros(1, channels, image_size, image_size, device=parameter.device)
    # A network may raise anything.
    with suppress(Exception):
        answer = model(images)
        # An `x.view(-1, 784)` makes three images of three channels.
        return not isinstance(answer, Tensor) or answer.shape[:1] == (1,)
    return False
