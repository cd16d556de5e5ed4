"""Published networks that torchvision does not have, built from its parts where they fit.

Every builder takes ``num_classes`` and is registered in `compress.recipe.registry.NETWORKS`. It may
also take ``stem``, ``head`` and ``pretrained``; without them, `compress.models.build` replaces stem
and head of its result.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from compress.models.head import ConcatPool, find_last_layer, replace_head
from compress.models.stem import replace_stem
from compress.models.torchvision_networks import build_torchvision
from compress.recipe.model_spec import Stem

# Hidden widths of the classifier in the concat family.
CONCAT_HEAD = (256,)


def resnet(blocks: tuple[int, int, int, int], num_classes: int) -> ResNet:
    """Build a residual network of basic blocks (He et al. 2015, arXiv:1512.03385).

    Args:
        blocks: number of blocks in each stage.
    """
    return ResNet(BasicBlock, list(blocks), num_classes=num_classes, zero_init_residual=True)


def flat_resnet(widths: tuple[int, int, int, int], num_classes: int) -> ResNet:
    """Build a ResNet18 whose widths hardly grow with depth.

    A fifth of ResNet18's parameters at seven tenths of its multiply-adds: small budgets of
    parameters are better spent on resolution, where a channel costs as much in parameters and sees
    more.

    Args:
        widths: channels of each stage.
    """
    model = resnet((2, 2, 2, 2), num_classes)
    model.inplanes = widths[0]
    model.conv1 = nn.Conv2d(3, widths[0], kernel_size=7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(widths[0])
    for index, width in enumerate(widths):
        stage = model._make_layer(BasicBlock, width, 2, stride=1 if index == 0 else 2)
        setattr(model, f"layer{index + 1}", stage)
    model.fc = nn.Linear(widths[-1], num_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BasicBlock) and isinstance(module.bn2.weight, Tensor):
            # As with zero_init_residual (Goyal et al. 2017, arXiv:1706.02677).
            nn.init.zeros_(module.bn2.weight)
    return model


def concat_resnet(
    blocks: tuple[int, int, int, int],
    num_classes: int,
    stem: Stem = "imagenet",
    head: tuple[int, ...] = CONCAT_HEAD,
) -> ResNet:
    """Build a network of stagewise distillation (Kulkarni et al. 2019, arXiv:1911.06786).

    It is a ResNet with max-pooling beside average-pooling, and a perceptron as its classifier.

    Args:
        blocks: number of blocks in each stage.
        head: hidden widths of the classifier.
    """
    return _add_concat_head(resnet(blocks, num_classes), num_classes, stem, head)


def concat_torchvision_resnet(
    name: str,
    num_classes: int,
    stem: Stem = "imagenet",
    head: tuple[int, ...] = CONCAT_HEAD,
    pretrained: bool | str = False,
) -> ResNet:
    """Build a network of the same family from torchvision's ResNet `name`, fresh or pretrained."""
    return _add_concat_head(
        build_torchvision(name, num_classes, pretrained), num_classes, stem, head
    )


def _add_concat_head(model: ResNet, num_classes: int, stem: Stem, head: tuple[int, ...]) -> ResNet:
    # The stem comes first: the order of random draws decides a seed's initial weights.
    replace_stem(model, stem)
    model.avgpool = ConcatPool()
    replace_head(model, head, num_classes, inputs=2 * find_last_layer(model)[1].in_features)
    return model


def resnext29(groups: int, width: int, num_classes: int) -> ResNet:
    """Build ResNeXt-29, three stages of three blocks (Xie et al. 2016, arXiv:1611.05431).

    With stem ``small`` it is the paper's network for 32×32 images.

    Args:
        groups: cardinality, the number of groups of the 3×3 convolutions.
        width: channels of a group in the first stage.
    """
    model = ResNet(
        Bottleneck, [3, 3, 3, 1], groups=groups, width_per_group=width, zero_init_residual=True
    )
    # torchvision's class always builds four stages.
    model.layer4 = nn.Identity()
    model.fc = nn.Linear(256 * Bottleneck.expansion, num_classes)
    return model


class DenseLayer(nn.Module):
    """Dense layer that appends `growth` channels: (B, C, H, W) to (B, C + growth, H, W).

    torchvision's dense layers have a bottleneck; those of the plain DenseNet do not.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features with the new channels behind them."""
        return torch.cat([features, self.conv(F.relu(self.norm(features)))], dim=1)


def densenet40(growth: int, num_classes: int) -> nn.Sequential:
    """Build DenseNet-40 for 32×32 images (Huang et al. 2016, arXiv:1608.06993).

    It has neither bottlenecks nor compression. Its dense blocks are ``block1``, ``block2`` and
    ``block3``.

    Args:
        growth: channels that every layer appends.
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
            conv = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
            layers[f"transition{block}"] = nn.Sequential(*norm, conv, nn.AvgPool2d(2))
        else:
            layers |= {"norm": norm, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    layers["classifier"] = nn.Linear(channels, num_classes)
    for module in nn.ModuleList(layers.values()).modules():
        if isinstance(module, nn.Conv2d):
            # He et al. 2015, arXiv:1502.01852, as in the paper.
            nn.init.kaiming_normal_(module.weight)
    return nn.Sequential(OrderedDict(layers))


resnet18_flat = partial(flat_resnet, (80, 120, 144, 160))
resnet10 = partial(resnet, (1, 1, 1, 1))
resnet14 = partial(resnet, (1, 1, 2, 2))
resnet20 = partial(resnet, (2, 2, 3, 2))
resnet26 = partial(resnet, (3, 3, 3, 3))
resnext29_2x64d = partial(resnext29, 2, 64)
resnext29_8x64d = partial(resnext29, 8, 64)
resnext29_16x64d = partial(resnext29, 16, 64)
resnext29_32x8d = partial(resnext29, 32, 8)
densenet40_12 = partial(densenet40, 12)
resnet10_concat = partial(concat_resnet, (1, 1, 1, 1))
resnet14_concat = partial(concat_resnet, (1, 1, 2, 2))
resnet18_concat = partial(concat_torchvision_resnet, "resnet18")
resnet20_concat = partial(concat_resnet, (2, 2, 3, 2))
resnet26_concat = partial(concat_resnet, (3, 3, 3, 3))
resnet34_concat = partial(concat_torchvision_resnet, "resnet34")
