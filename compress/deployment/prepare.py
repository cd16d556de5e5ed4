"""Networks made ready for export: batch norms fused, normalization inside if asked for."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.deployment.description import Description
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.models.fuse_bn import fuse_conv_bn
from compress.models.grey import fold_grey
from compress.runtime.errors import UserError


class FromPixels(nn.Module):
    """A network that takes pixels as they are, uint8 (B, C, H, W), and normalizes them itself.

    Args:
        network: takes normalized images.
        mean, std: by channel, for pixels scaled to 0..1.
        repeat: how often the channel of the pixels is repeated for the network.
    """

    gain: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], repeat: int = 1
    ) -> None:
        super().__init__()
        self.network, self.repeat = network, repeat
        means, stds = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        self.register_buffer("gain", 1 / (255 * stds))
        self.register_buffer("shift", -means / stds)

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.float()
        if self.repeat > 1:
            images = images.expand(-1, self.repeat, -1, -1)
        logits: Tensor = self.network(images * self.gain + self.shift)
        return logits


def prepare_network(
    checkpoint: Checkpoint, *, uint8: bool = False, grey: bool = False
) -> tuple[nn.Module, Description]:
    """Return the network to export, on the CPU, and its description without an origin.

    Args:
        uint8: put the normalization into the network.
        grey: the data is grey: with `uint8`, take one channel.
    """
    size = checkpoint.input_size
    cost = measure_cost(checkpoint.model, size, checkpoint.sparse)
    description = Description(
        classes=checkpoint.classes,
        input_size=size,  # type: ignore[arg-type]
        mean=tuple(checkpoint.mean),
        std=tuple(checkpoint.std),
        background=checkpoint.background,
        crop_ratio=checkpoint.crop_ratio,
        temperature=checkpoint.temperature,
        labels=checkpoint.labels,
        uint8=uint8,
        data=checkpoint.data,
        network=checkpoint.network.name,
        params=cost.params,
        macs=cost.macs,
    )
    repeat = 1
    if uint8 and grey and size[0] == 3:
        description = replace(description, input_size=(1, size[1], size[2]))
        try:
            checkpoint, _ = fold_grey(checkpoint)
        except UserError:
            repeat = 3
    network = fuse_conv_bn(checkpoint.model)
    if uint8:
        network = FromPixels(network, checkpoint.mean, checkpoint.std, repeat)
    network = network.cpu().to(memory_format=torch.contiguous_format)
    return network.eval().requires_grad_(False), description
