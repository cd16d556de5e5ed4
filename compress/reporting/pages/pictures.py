"""Images of a split as small pictures in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from compress.data.dataset import Dataset
from compress.reporting.metrics import SplitLogits
from compress.training.classification import Classification

# Side of a picture in pixels, at most; smaller images keep theirs, pixel by pixel.
SIDE, EXACT_SIDE = 112, 48


@dataclass(frozen=True)
class Picture:
    """An image in a page.

    Args:
        source: the picture as a data URI.
        exact: True if its pixels are to be seen.
        name: its file, or its index in the split.
        label: its class.
        said: what each network takes it for, with the probability of that, 0 to 1.
    """

    source: str
    exact: bool
    name: str
    label: str
    said: tuple[tuple[str, float], ...]


def find_different(found: SplitLogits, other: SplitLogits, count: int) -> list[int]:
    """Return rows of images that two networks take for different classes, the most different first.

    That is by the smaller of the probabilities that each gives to its own answer.
    """
    task = Classification(len(found.classes))
    differ = task.predict(found.logits) != task.predict(other.logits)
    sure = [each.logits.softmax(1).amax(1) for each in (found, other)]
    order = torch.minimum(*sure).masked_fill(~differ, -1.0).argsort(descending=True, stable=True)
    return [int(row) for row in order[: min(count, int(differ.sum()))]]


def make_pictures(
    data: Dataset, rows: Sequence[int], answers: Sequence[SplitLogits]
) -> list[Picture]:
    """Return the images at `rows` of the test split of `data`, as networks see them.

    Args:
        answers: the logits of each network on that split.

    Raises:
        UserError: an image file cannot be read.
    """
    if not rows:
        return []
    pool = take_test_images(data, rows).test()
    pixels = torch.cat(list(pool.batches([torch.arange(len(rows))]))).cpu()
    return [_make_picture(image, row, answers) for image, row in zip(pixels, rows, strict=True)]


def take_test_images(data: Dataset, rows: Sequence[int]) -> Dataset:
    """Return the data with these test images alone: of many files, only these are read."""
    chosen = data.test_images().take(torch.tensor(rows))
    return replace(data, test_images=lambda: chosen)


def _make_picture(pixels: Tensor, row: int, answers: Sequence[SplitLogits]) -> Picture:
    first = answers[0]
    path, task = first.path(row), Classification(len(first.classes))
    said = []
    for each in answers:
        probabilities = each.logits[row].softmax(0)
        [best] = task.predict(each.logits[row : row + 1]).tolist()
        said.append((each.classes[best], float(probabilities[best])))
    return Picture(
        source=encode_picture(pixels),
        exact=pixels.shape[-1] <= EXACT_SIDE,
        name=Path(path).name if path else f"image {row:,}",
        label=first.classes[int(first.targets[row])],
        said=tuple(said),
    )


def encode_picture(pixels: Tensor, panels: int = 1) -> str:
    """Return pixels, uint8 (C, H, W), as a small picture in a data URI.

    Args:
        panels: squares side by side in it.
    """
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    exact = max(image.size) <= EXACT_SIDE * panels
    image.thumbnail((SIDE * panels, SIDE))
    file = io.BytesIO()
    if exact:
        image.save(file, "PNG", optimize=True)
    else:
        image.convert("RGB").save(file, "WEBP", quality=80)
    kind = "png" if exact else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
