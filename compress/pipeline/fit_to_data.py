"""Recipes fitted to their data: batch sizes and lengths that suit the number of images."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from compress.recipe.load import TRAINED_BY
from compress.recipe.schema import Recipe, Train
from compress.training.schedule import count_steps

# `batch_size = "auto"`: a power of two in this range that makes so many batches an epoch.
MIN_BATCH_SIZE, MAX_BATCH_SIZE, BATCHES_PER_EPOCH = 32, 256, 16


def fit_to_data(
    recipe: Recipe, images: int, trained: Collection[str] = ()
) -> tuple[Recipe, tuple[str, ...]]:
    """Return `recipe` with every length and batch size that depends on the number of images.

    Args:
        images: number of training images.
        trained: roles, "teacher" or "student", whose networks are trained already.

    Returns:
        The recipe, whose stages have lengths in epochs and whose batch size is a number; and a line
        about each decision that the data made.
    """
    notes: list[str] = []
    if recipe.batch_size == "auto":
        recipe = replace(recipe, batch_size=choose_batch_size(images))
        if recipe.batch_size != MAX_BATCH_SIZE:
            notes.append(f"batches of {recipe.batch_size}, for {images:,} training images")
    recipe = _leave_out_stages(recipe, images, trained, notes)
    assert recipe.batch_size != "auto"
    steps = count_steps(images, recipe.batch_size)
    stages = [_in_epochs(s, steps) if isinstance(s, Train) else s for s in recipe.stages]
    if longest := _longest_epochs(recipe, steps):
        most = max(stage.length for stage in stages if isinstance(stage, Train))
        stages = [
            replace(s, epochs=longest) if isinstance(s, Train) and s.epochs == most else s
            for s in stages
        ]
    return replace(recipe, stages=tuple(stages)), tuple(notes)


def choose_batch_size(images: int) -> int:
    """Choose a batch size for a number of training images.

    Example:
        >>> [choose_batch_size(images) for images in (500, 1_500, 6_000, 60_000)]
        [32, 64, 256, 256]
    """
    size = 1 << max(images // BATCHES_PER_EPOCH, 1).bit_length() - 1
    return min(max(size, MIN_BATCH_SIZE), MAX_BATCH_SIZE)


def _leave_out_stages(
    recipe: Recipe, images: int, trained: Collection[str], notes: list[str]
) -> Recipe:
    """Leave out the stages that need more images, and what others would learn from them."""

    def too_long(stage: object) -> bool:
        if not isinstance(stage, Train) or images >= stage.min_images:
            return False
        role = "teacher" if stage.kind == "teach" else "student"
        return role not in trained and not getattr(recipe, role).pretrained

    left_out = [stage for stage in recipe.stages if too_long(stage)]
    if not left_out:
        return recipe
    kinds = dict.fromkeys(stage.kind for stage in left_out)
    notes.append(
        f"without {', '.join(kinds)}: {images:,} training images are too few for it"
        + (" to be worth its time; pass a trained teacher by --teacher" if "teach" in kinds else "")
    )
    stages = tuple(stage for stage in recipe.stages if stage not in left_out)
    if TRAINED_BY["teacher"] in kinds:
        stages = tuple(_on_labels(s) if isinstance(s, Train) else s for s in stages)
    return replace(recipe, stages=stages)


def _on_labels(stage: Train) -> Train:
    """Return a stage that would distill from the teacher, on labels alone."""
    if stage.distill_from != "teacher":
        return stage
    return replace(stage, method="labels", alpha=0.0, fade=False, stop_at_teacher=False, views=0)


def _in_epochs(stage: Train, steps: int) -> Train:
    """Return the stage with its length in epochs of `steps` steps."""
    epochs = max(stage.epochs or (stage.steps or 0) / steps, stage.min_steps / steps)
    # As many digits as a person reads, and still the same number of steps.
    short = float(f"{epochs:.5g}")
    if round(short * steps) == round(epochs * steps):
        epochs = short
    return replace(stage, epochs=int(epochs) if float(epochs).is_integer() else epochs, steps=None)


def _longest_epochs(recipe: Recipe, steps: int) -> float | None:
    return recipe.epochs if recipe.steps is None else recipe.steps / steps
