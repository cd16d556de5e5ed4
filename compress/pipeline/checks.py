"""Networks are shown an image before any time is spent on them: whether they take it, and what to do if not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import nn

from compress.data.dataset import Dataset
from compress.models.build import build, skeleton
from compress.pipeline.context import Given, side
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Prune, Recipe, Stage
from compress.runtime.errors import UserError, one_line

SIDES = (32, 64, 96, 128, 224)  # of the images that networks are made for, in pixels


def try_images(network: ModelSpec, stages: Sequence[Stage | Given], data: Dataset) -> None:
    """Show `network` one image of each side that its `stages` have, before any time is spent on it."""
    sizes, classes = {side(stage, data) for stage in stages}, len(data.classes)
    with suppress(
        Exception
    ):  # shapes alone are a second sooner than numbers, which are for networks that need them
        if network.source != "custom" and all(
            _answer(skeleton(network, classes), s) == (1, classes) for s in sizes
        ):
            return
    model = build(replace(network, pretrained=False), classes)
    for size in sorted(sizes):
        try:
            answer = _answer(model, size)
        except Exception as error:  # whatever a network may raise, it does not take such images
            remedy = _remedy(model, stages, data) or one_line(error)
            raise UserError(
                f"network {network.name!r} does not take images of {size}×{size} pixels: {remedy}"
            ) from error
        if answer != (1, classes):
            raise UserError(
                f"network {network.name!r} answers {answer} to one image, where (1, {classes}) was due"
            )


def try_one_at_a_time(
    network: ModelSpec, stages: Sequence[Stage | Given], recipe: Recipe, data: Dataset
) -> None:
    """Show `network` one image as in training, where its `stages` have one at a time: of maps of a single pixel a batch
    norm has no spread to measure then."""
    for stage in stages:
        few = stage.samples if isinstance(stage, Prune) else recipe.batch_size
        if isinstance(stage, Given) or min(few, recipe.batch_size) > 1:
            continue
        try:
            _answer(
                build(replace(network, pretrained=False), len(data.classes)),
                side(stage, data),
                training=True,
            )
        except Exception as error:  # whatever a network may raise, it would raise it later
            what = f"network {network.name!r} does not learn from one image at a time ({one_line(error)})"
            key = "batch" if recipe.batch_size == 1 else "samples"
            raise UserError(f"{stage.kind}: {what}: raise `{key}`") from error


def _remedy(model: nn.Module, stages: Sequence[Stage | Given], data: Dataset) -> str:
    """What to do for a model that does not take the images of `stages`: the smallest of `SIDES` that it does take."""

    def takes(size: int) -> bool:
        with suppress(Exception):
            return bool(_answer(model, size))
        return False

    for size in SIDES:
        if all(takes(side(stage, replace(data, size=size))) for stage in stages):
            return f"give it larger ones, --image-size {size} or the recipe's key `size = {size}`"
    if only := next(filter(takes, SIDES), None):
        return f"it takes {only}×{only} pixels, in a recipe with `size = {only}` and `scale = 1` in its stages"
    return ""


@torch.inference_mode()
def _answer(model: nn.Module, size: int, training: bool = False) -> tuple[int, ...] | str:
    """The shape of what `model` makes of one image of `size` pixels; of what is no tensor, its type."""
    answer = model.train(training)(
        torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    )
    return tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
