"""Networks of three channels, folded to one channel for grey images, with the same logits.

A grey image has three equal channels, each normalized by its own mean and standard deviation. The
first convolution therefore computes the same from one channel, with its weights summed over the
channels: each divided by its channel's standard deviation. What differs between the means is a
constant, which a bias takes, but not where zeros are padded: there the constant is missing.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.models.channels import first_convolution
from compress.models.checkpoint import Checkpoint
from compress.runtime.errors import UserError

# Grey images on which both networks must agree, and by how much, relative to the largest logit.
IMAGES, TOLERANCE = 8, 1e-4


def fold_grey(checkpoint: Checkpoint) -> tuple[Checkpoint, float]:
    """Fold the first convolution of a network to one channel: exact for grey images.

    Returns:
        The checkpoint, whose network takes (B, 1, H, W) and is on the CPU; and the largest
        difference between the logits of both networks on random grey images, relative to the
        largest logit.

    Raises:
        UserError: the network has one channel already, the fold would not be exact, or the input
            reaches other layers than the first convolution.

    Example:
        >>> grey, difference = fold_grey(compress.load("weights/fashion-mnist-100k.pth"))
        >>> grey.model(torch.zeros(1, 1, 28, 28)).shape
        torch.Size([1, 10])
    """
    if checkpoint.input_size[0] == 1:
        raise UserError("the network takes grey images already")
    checkpoint = replace(checkpoint, model=copy.deepcopy(checkpoint.model).cpu().eval())
    model = copy.deepcopy(checkpoint.model)
    conv = _first_layer(model)
    mean, std = (torch.tensor(values).double() for values in (checkpoint.mean, checkpoint.std))
    weight = conv.weight.detach().double()
    # By channel, the factor and the shift from one normalization to the other.
    factor, shift = std.mean() / std, (mean.mean() - mean) / std
    constant = (weight * shift.view(3, 1, 1)).sum((1, 2, 3))
    if shift.abs().max() > 1e-6:
        _check_constant(conv, checkpoint)
        assert conv.bias is not None
        conv.bias = nn.Parameter((conv.bias.detach() + constant).to(conv.bias.dtype))
    conv.in_channels = 1
    folded = (weight * factor.view(3, 1, 1)).sum(1, keepdim=True)
    conv.weight = nn.Parameter(folded.to(conv.weight.dtype))
    grey = replace(
        checkpoint,
        model=model,
        input_size=(1, *checkpoint.input_size[1:]),
        mean=(float(mean.mean()),),
        std=(float(std.mean()),),
        origin={**checkpoint.origin, "folded": "grey"},
    )
    difference = _largest_difference(checkpoint, grey)
    if difference > TOLERANCE:
        raise UserError(
            "the network cannot be folded to one channel: its first convolution is not all that"
            f" sees the image (the logits differ by {difference:.1e})"
        )
    return grey, difference


def _first_layer(model: nn.Module) -> nn.Conv2d:
    path, conv = first_convolution(model)
    if conv is None or conv.in_channels != 3 or conv.groups != 1:
        layer = path or "the first layer"
        raise UserError(
            f"the network cannot be folded to one channel: {layer} is no convolution of three"
            " channels together"
        )
    return conv


def _check_constant(conv: nn.Conv2d, checkpoint: Checkpoint) -> None:
    """Check that a bias can take what the means of the channels differ by."""
    means = ", ".join(f"{value:.4g}" for value in checkpoint.mean)
    remedy = "finetune it on data with one mean for all channels first"
    padded = conv.padding != "valid" and any(
        size > 1 if isinstance(conv.padding, str) else pad > 0
        for size, pad in zip(conv.kernel_size, _pair(conv.padding), strict=True)
    )
    if padded and conv.padding_mode == "zeros":
        raise UserError(
            f"the channels have different means ({means}), so zeros that are padded differ too, and"
            f" the network cannot be folded exactly; {remedy}"
        )
    if conv.bias is None:
        raise UserError(
            f"the channels have different means ({means}), and the first convolution has no bias"
            f" to take the difference; {remedy}"
        )


def _pair(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    return (0, 0) if isinstance(padding, str) else padding


@torch.no_grad()
def _largest_difference(color: Checkpoint, grey: Checkpoint) -> float:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, 1, *color.input_size[1:], generator=generator)
    # Bright up to the edges, where padding matters.
    logits = [
        each.model(_normalize(images.expand(-1, each.input_size[0], -1, -1), each)).double()
        for each in (color, grey)
    ]
    return float((logits[0] - logits[1]).abs().max() / logits[0].abs().max().clamp(min=1e-12))


def _normalize(images: Tensor, checkpoint: Checkpoint) -> Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (checkpoint.mean, checkpoint.std))
    return (images - mean) / std
