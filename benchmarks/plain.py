"""The plain script that `speed.py` compares with: distillation as in most research code.

It reads torchvision's own data set, one PIL image at a time through torchvision.transforms.v2 in a
DataLoader, trains in float32, and runs the teacher at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

BUILT_IN = {"fashion-mnist": (datasets.FashionMNIST, 28), "cifar10": (datasets.CIFAR10, 32)}
TEMPERATURE, ALPHA, RATE = 4.0, 0.5, 1e-4


def images(data: str, root: Path, size: int | None, crop: tuple[float, float]) -> Any:
    """Return the training images of `data`, augmented one by one.

    Args:
        data: a key of `BUILT_IN`, found under `root`, or ``folder:PATH``.
        size: side of the images, in pixels; by default their own.
        crop: smallest and largest area of a crop, as fractions.
    """
    kind, side = BUILT_IN.get(data, (None, 224))
    transform = v2.Compose(
        [
            v2.Grayscale(3) if data == "fashion-mnist" else v2.Identity(),
            v2.RandomResizedCrop(size or side, scale=crop),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.2860,) * 3, (0.3530,) * 3),
        ]
    )
    if kind is None:
        return datasets.ImageFolder(Path(data.removeprefix("folder:")) / "train", transform)
    return kind(root, transform=transform)


def load(
    images: Any, batch: int, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return shuffled batches of `images`: float32 (B, 3, S, S) and int64 (B,)."""
    pinned = device.type == "cuda"
    return DataLoader(
        images, batch, shuffle=True, drop_last=True, num_workers=workers, pin_memory=pinned
    )


def train(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, Tensor]],
    teacher: nn.Module | None,
    device: torch.device,
) -> Iterator[int]:
    """Train `model` endlessly on the labels and, with a teacher, on the teacher's logits.

    Yields:
        The number of images after each step.
    """
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    if teacher is not None:
        teacher.to(device).eval()
    for inputs, labels in epochs(loader):
        inputs, labels = inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels)
        if teacher is not None:
            with torch.no_grad():
                targets = F.softmax(teacher(inputs) / TEMPERATURE, dim=1)
            student = F.log_softmax(logits / TEMPERATURE, dim=1)
            distance = F.kl_div(student, targets, reduction="batchmean")
            loss = (1 - ALPHA) * loss + ALPHA * TEMPERATURE**2 * distance
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        yield len(inputs)


def epochs(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches endlessly, epoch after epoch."""
    for epoch in repeat(loader):
        yield from epoch
