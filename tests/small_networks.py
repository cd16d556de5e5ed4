"""Small networks of families of which torchvision has only large ones, as `small_networks:name`."""

from __future__ import annotations

import torchvision.models as zoo
from torch import nn
from torchvision.models import vgg as published


def densenet(num_classes: int) -> nn.Module:
    return zoo.DenseNet(16, (2, 3), num_init_features=32, num_classes=num_classes)


def maxvit(num_classes: int) -> nn.Module:
    return zoo.MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 8, 0.0, num_classes=num_classes)


def swin(num_classes: int) -> nn.Module:
    sizes = ([4, 4], 24, [2, 2], [2, 4], [2, 2])
    return zoo.SwinTransformer(*sizes, stochastic_depth_prob=0.0, num_classes=num_classes)


def vgg(num_classes: int) -> nn.Module:
    layers = published.make_layers([32, "M", 48, "M", 64, 64, "M"], batch_norm=True)
    model = published.VGG(nn.Sequential(), num_classes, init_weights=False)
    model.features, model.avgpool = layers, nn.AdaptiveAvgPool2d(2)
    head = (nn.Linear(64 * 4, 96), nn.ReLU(), nn.Dropout(), nn.Linear(96, num_classes))
    model.classifier = nn.Sequential(*head)
    return model


def vit(num_classes: int) -> nn.Module:
    return zoo.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=num_classes)
