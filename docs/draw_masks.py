"""Draw test images beside their masks and those of several networks, as one picture.

    python docs/draw_masks.py teacher=runs/unet34/model.pth pruned=runs/segmentation/…/model.pth \\
        --out docs/figures/segmentation.png
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from compress.deployment.load_model import load_model
from compress.reporting.pages.seen_masks import side_by_side

# Height of the names above the columns, and the lines between pictures, in pixels.
NAMES, GAP = 14, 2


def draw(strips: Tensor, names: list[str], scale: int) -> Image.Image:
    """Draw rows of squares under the names of their columns.

    Args:
        strips: uint8 (N, 3, S, columns · S).
        scale: side of a pixel in the picture.
    """
    count, side = len(strips), strips.shape[2] * scale
    width, height = len(names) * (side + GAP) - GAP, NAMES + count * (side + GAP) - GAP
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    for column, name in enumerate(names):
        pen.text((column * (side + GAP) + 2, 1), name, fill="black")
    for row, strip in enumerate(strips):
        for column, square in enumerate(strip.chunk(len(names), dim=2)):
            pixels: np.ndarray = square.permute(1, 2, 0).numpy()
            image = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(image, (column * (side + GAP), NAMES + row * (side + GAP)))
    return picture


@click.command()
@click.argument("networks", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), default="docs/figures/segmentation.png")
@click.option("--count", default=6, help="Test images.", show_default=True)
@click.option("--scale", default=3, help="Side of a pixel in the picture.", show_default=True)
def main(networks: tuple[str, ...], out: Path, count: int, scale: int) -> None:
    """Draw the first test images for NETWORKS, each NAME=FILE."""
    named = [each.partition("=") for each in networks]
    models = [load_model(file) for _, _, file in named]
    strips = side_by_side(models, list(range(count)))
    draw(strips, ["image", "truth", *(name for name, _, _ in named)], scale).save(out)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
