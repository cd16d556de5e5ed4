"""Images of the data that a checkpoint was trained on, as pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from compress.data.dataset import Dataset
from compress.data.masks import resize_labels
from compress.data.open_dataset import open_dataset
from compress.models.checkpoint import Checkpoint
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class Samples:
    """Pixels with their class numbers, or masks.

    Args:
        pixels: uint8 (N, C, H, W), C that of the network.
        targets: int64 (N,), or (N, H, W) of data with masks.
        grey: True if the channels of all pixels are equal.
        source: what they are, in a few words.
    """

    pixels: Tensor
    targets: Tensor
    grey: bool
    source: str

    def __len__(self) -> int:
        return len(self.targets)


def open_own_data(checkpoint: Checkpoint, data: str | None = None) -> Dataset:
    """Open the data set of a checkpoint, split as in its training.

    Args:
        data: another name of the data set, as of a folder that was moved.

    Raises:
        UserError: it is not available, or has other classes than the checkpoint.
    """
    recipe: Any = checkpoint.origin.get("recipe")
    recipe = recipe if isinstance(recipe, dict) else {}
    # All that decides which images its training held out.
    decisive = ("seed", "max_images", "data_fraction", "skip_broken")
    keys = {key: recipe[key] for key in decisive if key in recipe}
    size = checkpoint.input_size[-1]
    opened = open_dataset(
        data or checkpoint.data, image_size=size, classes=checkpoint.classes, **keys
    )
    if opened.classes != checkpoint.classes:
        raise UserError(
            f"{opened.name}: its classes are not those of the weights file, trained on"
            f" {checkpoint.data}"
        )
    opened = opened.framed(checkpoint.crop_ratio, checkpoint.background)
    return opened.for_channels([checkpoint.input_size[0]])


def take_samples(
    dataset: Dataset,
    split: Literal["train", "val"],
    count: int,
    input_size: tuple[int, int, int] | None = None,
) -> Samples:
    """Take images of a split, spread evenly over it, or all if there are fewer.

    Args:
        input_size: (C, H, W) of the images; those of the data set's batches if left out.

    Raises:
        UserError: an image file cannot be read.
    """
    pool = dataset.train if split == "train" else dataset.val
    rows = torch.linspace(0, len(pool) - 1, min(len(pool), count)).long()
    pixels = torch.cat(list(pool.batches(torch.split(rows, 256)))).cpu()
    channels, side = dataset.channels, pixels.shape[-1]
    if input_size is not None:
        channels, side = input_size[0], input_size[-1]
    pixels = resize(pixels, [side, side], antialias=True)
    targets = resize_labels(pool.labels(rows).cpu(), side)
    grey = pixels.shape[1] == 1 or bool((pixels == pixels[:, :1]).all())
    name = {"train": "training", "val": "validation"}[split]
    return Samples(
        pixels.expand(-1, channels, -1, -1).contiguous(),
        targets,
        grey,
        f"{len(rows):,} {name} images of {dataset.name}",
    )


def random_samples(checkpoint: Checkpoint, count: int) -> Samples:
    """Draw images of random pixels, for a network whose data is not available."""
    generator = torch.Generator().manual_seed(0)
    size = (count, *checkpoint.input_size)
    pixels = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    return Samples(pixels, torch.zeros(count).long(), False, f"{count:,} random images")


def normalize(pixels: Tensor, checkpoint: Checkpoint) -> Tensor:
    """Normalize uint8 pixels (B, C, H, W) for a network, to float32."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (checkpoint.mean, checkpoint.std))
    normalized: Tensor = (pixels.float() / 255 - mean) / std
    return normalized
