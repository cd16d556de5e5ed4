"""Classifiers without training: their prediction tells where an image is bright, or how bright."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from compress.deployment.predict import predict
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec

CORNERS = ("top left", "top right", "bottom left", "bottom right")
SHADES = ("black", "dark", "middle", "light", "white")


class Corner(nn.Module):
    """Predicts the brightest quadrant."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.sharpness * nn.functional.adaptive_avg_pool2d(images, 2).mean(1).flatten(1)


class Shade(nn.Module):
    """Predicts the shade closest to the mean brightness."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.mean((1, 2, 3))[:, None] * 0.5 + 0.5
        return -1000 * (brightness - torch.linspace(0, 1, 5)).square()


def checkpoint(
    model: nn.Module,
    classes: tuple[str, ...],
    size: tuple[int, int, int] = (3, 28, 28),
    centre: float = 0.5,
) -> Checkpoint:
    """Make a checkpoint whose mean and deviation are `centre`; 0 leaves images as they are."""
    return Checkpoint(
        model=model.eval(),
        network=ModelSpec("resnet18"),
        classes=classes,
        input_size=size,
        mean=(centre,) * 3,
        std=(centre or 1.0,) * 3,
        data="made up",
    )


CORNER, SHADE = checkpoint(Corner(), CORNERS, centre=0), checkpoint(Shade(), SHADES)


def corner_image(
    size: tuple[int, int] = (40, 40), *, box: tuple[int, int, int, int] = (0, 0, 20, 20)
) -> Image.Image:
    """Draw a white box on black."""
    image = Image.new("L", size, 0)
    image.paste(255, box)
    return image


def best(known: Checkpoint, *images: Any, **options: Any) -> list[str]:
    """Return the most likely class of each image."""
    predictions = list(predict(known, images, **options))
    assert [each.error for each in predictions] == [None] * len(images)
    return [each.top[0][0] for each in predictions]


def stored(image: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    """Encode `image` as a file of the format `kind`."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file
