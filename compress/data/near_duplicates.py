"""Near-duplicates: validation and test images that are hardly other images than some for training.

The same icon in two sizes, or two photos of a burst: a network that remembers one knows the other.
So accuracy on such images says little about new ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.data.dataset import Dataset
from compress.data.pool import Pool

# Side to which images are shrunk, in grey, and the correlation above which two are the same.
SIDE, SAME = 16, 0.99
# Larger data is not searched: the time goes with the square.
MOST_IMAGES = 20_000
# The fraction of a split's images that is worth a line.
MANY = 0.1


def note_near_duplicates(data: Dataset, test: Pool | None = None) -> list[str]:
    """Return a line if many validation images of a person's own data are near-duplicates.

    Data sets with names are as they are.

    Args:
        test: the test images, which are compared in place of the validation images.

    Raises:
        UserError: an image file cannot be read.

    Example:
        >>> note_near_duplicates(open_dataset("folder:icons", image_size=48))
        ['32 of 152 validation images look like a training image: …']
    """
    if ":" not in data.name or data.train_count > MOST_IMAGES:
        return []
    if test is not None and data.test_images() is data.val_images:
        return []
    compared = data.val if test is None else test
    count = count_near_duplicates(data.train, compared)
    if count < MANY * len(compared):
        return []
    split = "validation" if test is None else "test"
    return [
        f"{count:,} of {len(compared):,} {split} images look like a training image: accuracy is"
        " lower on new ones; groups in a csv: file keep such images together"
    ]


def count_near_duplicates(train: Pool, others: Pool) -> int:
    """Return how many of the other images look like one of `train`."""
    known = _shrink(train)
    nearest = [(some @ known.T).amax(1) for some in torch.split(_shrink(others), 1000)]
    return int((torch.cat(nearest) > SAME).sum())


def _shrink(pool: Pool) -> Tensor:
    """Return small grey images, as rows of zero mean and unit length, (N, SIDE²)."""
    rows = torch.split(torch.arange(len(pool)), 256)
    found = []
    for images in pool.batches(rows):
        grey = images.float().mean(1, keepdim=True)
        small = F.interpolate(grey, size=(SIDE, SIDE), mode="area").flatten(1)
        # An image of one colour is like no other.
        found.append(F.normalize(small - small.mean(1, keepdim=True), dim=1, eps=1.0))
    return torch.cat(found)
