"""Published networks that torchvision does not have, made of its parts wherever they fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck


def resnet(blocks: tuple[int, int, int, int], num_classes: int) -> ResNet:
    """A residual network of basic blocks (He et al. 2015, arXiv:1512.03385), `blocks` in each of its four stages."""
    return ResNet(BasicBlock, list(blocks), num_classes=num_classes, zero_init_residual=True)


def resnext29(groups: int, width: int, num_classes: int) -> ResNet:
    """ResNeXt-29 (Xie et al. 2016, arXiv:1611.05431): three stages of three blocks, in `groups` groups of `width`.

    With stem ``small`` it is the paper's network for 32×32 images.
    """
    model = ResNet(
        Bottleneck, [3, 3, 3, 1], groups=groups, width_per_group=width, zero_init_residual=True
    )
    model.layer4 = nn.Identity()  # torchvision's class always builds four stages
    model.fc = nn.Linear(256 * Bottleneck.expansion, num_classes)
    return model


class DenseLayer(nn.Module):
    """A layer that adds `growth` channels to those it gets: (B, C, H, W) to (B, C + growth, H, W).

    torchvision's dense layers have a bottleneck; the plain DenseNet's do not.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """The features, and what the layer makes of them behind them."""
        return torch.cat([features, self.conv(F.relu(self.norm(features)))], dim=1)


def densenet40(growth: int, num_classes: int) -> nn.Sequential:
    """DenseNet of 40 layers for 32×32 images, without bottlenecks or compression (Huang et al. 2016, arXiv:1608.06993).

    Its three dense blocks are called ``block1`` to ``block3``.
    """
    channels, depth = 16, 12
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(3, channels, kernel_size=3, padding=1, bias=False)
    }
    for block in (1, 2, 3):
        layers[f"block{block}"] = nn.Sequential(
            *(DenseLayer(channels + i * growth, growth) for i in range(depth))
        )
        channels += depth * growth
        norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        if block < 3:
            mix = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
            layers[f"transition{block}"] = nn.Sequential(*norm, mix, nn.AvgPool2d(2))
        else:
            layers |= {"norm": norm, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    layers["classifier"] = nn.Linear(channels, num_classes)
    for module in nn.ModuleList(layers.values()).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight
            )  # He et al. 2015, arXiv:1502.01852, as the paper does
    return nn.Sequential(OrderedDict(layers))


ADDITIONS: dict[str, Callable[..., nn.Module]] = {
    "resnet10": partial(resnet, (1, 1, 1, 1)),
    "resnet14": partial(resnet, (1, 1, 2, 2)),
    "resnet20": partial(resnet, (2, 2, 3, 2)),
    "resnet26": partial(resnet, (3, 3, 3, 3)),
    "resnext29_2x64d": partial(resnext29, 2, 64),
    "resnext29_8x64d": partial(resnext29, 8, 64),
    "resnext29_16x64d": partial(resnext29, 16, 64),
    "resnext29_32x8d": partial(resnext29, 32, 8),
    "densenet40_12": partial(densenet40, 12),
}

# The family of stagewise distillation (Kulkarni et al. 2019, arXiv:1911.06786): `name`, with another head.
CONCAT = "_concat"
WITH_CONCAT = tuple(f"resnet{depth}{CONCAT}" for depth in (10, 14, 18, 20, 26, 34))
CONCAT_HIDDEN = (256,)
