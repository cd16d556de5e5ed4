"""Small networks of the kinds that people bring: `NAME(num_classes)` builds one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pooled(nn.Module):
    """What these have in common: a last linear layer over pooled maps."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, num_classes)

    def classify(self, maps: Tensor) -> Tensor:
        return self.head(maps.mean((2, 3)))  # type: ignore[no-any-return]


class Viewed(nn.Module):
    """Flattens by `Tensor.view`, which does not take channels-last maps."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 12, 5), nn.Conv2d(12, 20, 5)
        self.fc1, self.fc2 = nn.Linear(20, 40), nn.Linear(40, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(F.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        return self.fc2(F.relu(self.fc1(maps.view(maps.size(0), -1))))  # type: ignore[no-any-return]


@dataclass
class Output:
    """An output as Hugging Face's libraries have it."""

    loss: Tensor | None
    logits: Tensor


class Auxiliary(Pooled):
    """Returns more than logits while it trains, as GoogLeNet does; or always."""

    def __init__(self, num_classes: int, kind: str = "tuple", always: bool = False) -> None:
        super().__init__(32, num_classes)
        self.kind, self.always = kind, always
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.side_head = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Any:
        early = F.relu(self.conv1(images))
        logits = self.classify(F.relu(self.conv2(early)))
        if not self.training and not self.always:
            return logits
        side = self.side_head(early.mean((2, 3)))
        if self.kind == "dict":
            return {"aux": side, "logits": logits, "maps": early}
        return Output(None, logits) if self.kind == "dataclass" else (logits, side)


class SplitAndJoin(Pooled):
    """Splits channels in two, works on one half, concatenates all."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(32, num_classes)
        self.stem, self.inner = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.join = nn.Conv2d(48, 32, 1)

    def forward(self, images: Tensor) -> Tensor:
        left, right = F.relu(self.stem(images)).chunk(2, 1)
        return self.classify(
            F.relu(self.join(torch.cat([left, right, F.relu(self.inner(right))], 1)))
        )


class DepthMultiplier(Pooled):
    """A depthwise convolution with two outputs for each channel."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(48, num_classes)
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 32, 3, 1, 1, groups=16)
        self.pointwise = nn.Conv2d(32, 48, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.depthwise(F.relu(self.stem(images))))
        return self.classify(F.relu(self.pointwise(maps)))


class MapNorm(Pooled):
    """A LayerNorm over (channels, height, width)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(64, num_classes)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.LayerNorm([8, 8, 8])
        self.conv, self.last = nn.Conv2d(8, 64, 1), nn.Conv2d(64, 64, 1)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 16, 16)
        maps = F.relu(self.conv(F.relu(self.norm(self.stem(images)))))
        return self.classify(F.relu(self.last(maps)))


class Tied(Pooled):
    """Two convolutions that share one weight, and others that do not."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(64, num_classes)
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.second.weight = self.first.weight
        self.middle, self.last = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 64, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.second(F.relu(self.first(F.relu(self.stem(images))))))
        return self.classify(F.relu(self.last(F.relu(self.middle(maps)))))


class Same(nn.Conv2d):
    """A convolution whose class is called otherwise."""


class Renamed(Pooled):
    """Built of `Same`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(64, num_classes)
        self.conv1, self.conv2 = Same(3, 32, 3, 2, 1), Same(32, 64, 3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(F.relu(self.conv2(F.relu(self.conv1(images)))))


class CoordinateGate(Pooled):
    """Concatenates along the height and splits there again: no channel is sliced."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(48, num_classes)
        self.stem, self.shared = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 8, 1)
        self.rows, self.columns = nn.Conv2d(8, 32, 1), nn.Conv2d(8, 32, 1)
        self.conv = nn.Conv2d(32, 48, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.stem(images))
        height, width = maps.shape[2:]
        means = [maps.mean(3, keepdim=True), maps.mean(2, keepdim=True).transpose(2, 3)]
        shared = F.relu(self.shared(torch.cat(means, 2)))
        rows, columns = torch.split(shared, [height, width], 2)
        gate = self.rows(rows).sigmoid() * self.columns(columns.transpose(2, 3)).sigmoid()
        return self.classify(F.relu(self.conv(maps * gate)))


class Lazy(nn.Module):
    """Finds the widths of its layers out from the first images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.LazyConv2d(24, 3, 2), nn.LazyBatchNorm2d()
        self.fc, self.head = nn.LazyLinear(16), nn.LazyLinear(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(F.relu(self.norm(self.conv(images))).flatten(1))))  # type: ignore[no-any-return]


class Twice(Pooled):
    """Uses one module twice, and computes with functions and bare parameters."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(64, num_classes)
        self.stem, self.again = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.scale, self.kernel = (
            nn.Parameter(torch.ones(16, 1, 1)),
            nn.Parameter(torch.ones(8, 16, 1, 1)),
        )
        self.middle, self.last = nn.Conv2d(8, 64, 1), nn.Conv2d(64, 64, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.stem(images)) * self.scale
        maps = F.conv2d(F.relu(self.again(F.relu(self.again(maps)))), self.kernel)
        return self.classify(F.relu(self.last(F.relu(self.middle(maps)))))


class Windows(Pooled):
    """Attention in windows, with a table of positions that no file holds."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(16, num_classes)
        self.stem, self.qkv = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48)
        self.out, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 96), nn.Linear(96, 16)
        self.register_buffer("positions", torch.arange(8).sub(4).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 16, 16)
        maps = self.stem(images).permute(0, 2, 3, 1)
        windows = torch.cat([maps[:, :2], maps[:, 2:]]).flatten(1, 2) + self.positions[:, None]
        query, key, value = self.qkv(windows).chunk(3, -1)
        mixed = self.out((query @ key.mT / 4).softmax(-1) @ value) + windows
        mixed = mixed + self.down(F.gelu(self.up(mixed)))
        return self.head(mixed.mean(1).unflatten(0, (2, -1)).mean(0))  # type: ignore[no-any-return]


class OneChannel(Pooled):
    """Takes grey images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(32, num_classes)
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(F.relu(self.conv2(F.relu(self.conv1(images)))))


def auxiliary_dict(num_classes: int) -> nn.Module:
    return Auxiliary(num_classes, "dict")


def always_dataclass(num_classes: int) -> nn.Module:
    return Auxiliary(num_classes, "dataclass", always=True)


NAMES = (
    *("Viewed", "Auxiliary", "auxiliary_dict", "always_dataclass", "SplitAndJoin", "Lazy", "Twice"),
    *("DepthMultiplier", "MapNorm", "Tied", "Renamed", "CoordinateGate", "Windows", "OneChannel"),
)
