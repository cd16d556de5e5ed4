"""Views of photos: random crops of the files' own pixels, and operations on each square."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import ImageColor
from torch import Tensor
from torchvision.transforms import v2

from compress.data.photo import Framing, Photo, crop_photo, fit_photo, to_luma
from compress.data.random_views import derive_seed, draw_numbers, place_crops
from compress.recipe.stages import Augment


@dataclass(frozen=True)
class PhotoView:
    """What becomes of single photos in one view; by default, the squares at their centres.

    Args:
        framing: side of the squares, and their part of a photo that is not cropped.
        crop: range of the fraction of a photo's area that a crop keeps, if photos are cropped.
        numbers: random numbers of the crops of all photos, float32 (N, 4, 10).
        operation: transform of a square, uint8 (3, S, S), that draws from torch's generator.
        seed, view: the view, which the operation's numbers depend on, beside the photo's row.
    """

    framing: Framing
    crop: tuple[float, float] | None = None
    numbers: Tensor | None = None
    operation: v2.Transform | None = None
    seed: int = 0
    view: int = 0

    def make_squares(self, rows: Tensor, photos: Sequence[Photo]) -> Tensor:
        """Return the squares of the photos at `rows`, uint8 (n, C, S, S)."""
        side, ratio = self.framing.side, self.framing.crop_ratio
        if self.crop is None or self.numbers is None:
            squares = [fit_photo(photo, (side, side), ratio) for photo in photos]
        else:
            sizes = torch.tensor([photo.size for photo in photos])
            # In double precision: photos have many more pixels than training images.
            numbers = self.numbers[rows].double()
            boxes = place_crops(numbers, sizes[:, :1], sizes[:, 1:], self.crop).long().tolist()
            squares = [
                crop_photo(photo, box, side) for photo, box in zip(photos, boxes, strict=True)
            ]
        if self.operation is not None:
            squares = [
                self.operate(square, row)
                for square, row in zip(squares, rows.tolist(), strict=True)
            ]
        return torch.stack(squares)

    def operate(self, square: Tensor, row: int) -> Tensor:
        """Return the square of the photo at `row`, uint8 (C, S, S), after the view's operation."""
        # torchvision draws from the CPU's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed("operation", self.seed, self.view, row))
            # Grey squares too: what is uncovered has a colour.
            operated: Tensor = self.operation(square.expand(3, -1, -1))  # type: ignore[misc]
        return operated if len(square) == 3 else to_luma(operated)


def draw_photo_view(
    framing: Framing, count: int, augment: Augment, background: str, seed: int, view: int
) -> PhotoView:
    """Draw a view of `count` photos.

    Args:
        background: colour of the parts of a square that an operation uncovers.
    """
    numbers = None if augment.crop is None else draw_numbers(count, seed, view)
    operation = make_operation(augment, background)
    return PhotoView(framing, augment.crop, numbers, operation, seed, view)


def make_recolor(
    augment: Augment, background: str, seed: int, view: int
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return a function that changes the colours of a view's images, or None if they stay.

    The function takes images, float32 (B, C, S, S), values from 0 to 255, and their rows, int64
    (B,), and returns such images.
    """
    operation = make_operation(augment, background)
    if operation is None:
        return None
    drawn = PhotoView(Framing(1), operation=operation, seed=seed, view=view)

    def recolor(images: Tensor, rows: Tensor) -> Tensor:
        pixels = images.round().clamp(0, 255).to(torch.uint8)
        pairs = zip(pixels, rows.tolist(), strict=True)
        return torch.stack([drawn.operate(square, row) for square, row in pairs]).float()

    return recolor


def make_operation(augment: Augment, background: str) -> v2.Transform | None:
    """Return the operation on single squares, uint8 (3, S, S), or None if there is none."""
    fill = list(ImageColor.getrgb(background)[:3])
    operations: list[v2.Transform] = []
    if augment.auto_augment == "trivial":
        operations.append(v2.TrivialAugmentWide(fill=fill))
    if augment.auto_augment == "rand":
        operations.append(v2.RandAugment(magnitude=augment.magnitude, fill=fill))
    if augment.color_jitter:
        operations.append(v2.ColorJitter(*[augment.color_jitter] * 3))
    if not operations:
        return None
    return operations[0] if len(operations) == 1 else v2.Compose(operations)
