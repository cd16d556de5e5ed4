"""Write Fashion-MNIST with a long tail: 500 training images of the first class, 10 of the last.

    python benchmarks/long_tail.py long-tail
    compress experiment docs/experiments/balance.toml

The sizes of the classes fall geometrically, as those of the long-tailed CIFAR of Cao et al. (2019,
arXiv:1906.07413); the 10,000 test images stay as they are. It writes long-tail/train and
long-tail/test, with a folder for each class.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torchvision.io import write_png

from compress.data.photo import Framing
from compress.data.pool import open_pool
from compress.data.source import Images
from compress.data.sources import open_source

LARGEST, SMALLEST = 500, 10


def class_sizes(classes: int) -> list[int]:
    """Return the number of training images of each class."""
    ratio = SMALLEST / LARGEST
    return [round(LARGEST * ratio ** (place / (classes - 1))) for place in range(classes)]


def write_split(images: Images, classes: tuple[str, ...], sizes: list[int], folder: Path) -> None:
    """Write the first images of each class, `sizes` of them."""
    pool = open_pool(images, Framing(28))
    for label, (name, size) in enumerate(zip(classes, sizes, strict=True)):
        # As T-shirt/top.
        place = folder / name.replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        rows = (images.targets == label).nonzero().flatten()[:size]
        (pixels,) = pool.batches([rows])
        for row, image in zip(rows.tolist(), pixels, strict=True):
            write_png(image, str(place / f"{row}.png"))


@click.command(help=(__doc__ or "").splitlines()[0])
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """Write the images of both splits."""
    source = open_source("fashion-mnist")
    test = source.test()
    sizes = class_sizes(len(source.classes))
    write_split(source.train, source.classes, sizes, out / "train")
    write_split(test, source.classes, torch.bincount(test.targets).tolist(), out / "test")


if __name__ == "__main__":
    main()
