"""Recipes fitted to their data: stages, batch sizes, lengths and stems."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from compress.data.dataset import Dataset
from compress.pipeline.change_stages import change_stages
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec, settle_stem
from compress.recipe.schema import Recipe
from compress.recipe.stages import Train
from compress.training.schedule import count_steps

# `batch_size = "auto"`: a power of two in this range that makes so many batches an epoch. On a CPU
# an epoch of small batches takes no longer than one of large ones, and more steps bring more.
MIN_BATCH_SIZE, MAX_BATCH_SIZE, BATCHES_PER_EPOCH = 64, 256, 90
# The size for so few images that the smallest of them would make fewer batches than this.
FEW_BATCHES, FEW_BATCH_SIZE = 12, 32


def fit_to_data(
    recipe: Recipe, data: Dataset, trained: Collection[str] = ()
) -> tuple[Recipe, tuple[str, ...]]:
    """Return `recipe` with stages, lengths, batch size and stems that suit the data.

    Args:
        trained: roles, "teacher" or "student", whose networks are trained already.

    Returns:
        The recipe, whose stages have lengths in epochs and whose batch size is a number; and a line
        about each decision that the data made.
    """
    notes: list[str] = []
    images = data.train_count
    recipe = replace(
        recipe,
        teacher=settle_stem(recipe.teacher, data.image_size),
        student=settle_stem(recipe.student, data.image_size),
    )
    if recipe.batch_size == "auto":
        recipe = replace(recipe, batch_size=choose_batch_size(images))
        if recipe.batch_size != MAX_BATCH_SIZE:
            notes.append(f"batches of {recipe.batch_size}, for {images:,} training images")
    recipe = _settle_balance(recipe, data, notes)
    recipe = _choose_stages(recipe, data, trained, notes)
    assert recipe.batch_size != "auto"
    steps = count_steps(images, recipe.batch_size)
    stages = [_in_epochs(s, steps) if isinstance(s, Train) else s for s in recipe.stages]
    if longest := _longest_epochs(recipe, steps):
        lengths = [stage.epochs or 0.0 for stage in stages if isinstance(stage, Train)]
        stages = [
            replace(s, epochs=_limit_epochs(s.epochs or 0.0, longest, max(lengths)))
            if isinstance(s, Train)
            else s
            for s in stages
        ]
    return replace(recipe, stages=tuple(stages)), tuple(notes)


def choose_batch_size(images: int) -> int:
    """Choose a batch size for a number of training images.

    Example:
        >>> [choose_batch_size(images) for images in (500, 1_500, 6_000, 60_000)]
        [32, 64, 64, 256]
    """
    if images < FEW_BATCHES * MIN_BATCH_SIZE:
        return FEW_BATCH_SIZE
    size = 1 << max(images // BATCHES_PER_EPOCH, 1).bit_length() - 1
    return min(max(size, MIN_BATCH_SIZE), MAX_BATCH_SIZE)


def _settle_balance(recipe: Recipe, data: Dataset, notes: list[str]) -> Recipe:
    if not data.uneven:
        return replace(recipe, balance=False) if recipe.balance == "auto" else recipe
    targets = data.train_images.targets
    counts = targets.bincount(minlength=len(data.classes)).tolist()
    uneven = f"classes of {min(counts):,} to {max(counts):,} images"
    if recipe.balance is False:
        notes.append(f"{uneven}: --balance loss makes all classes count alike")
    else:
        recipe = replace(recipe, balance="loss" if recipe.balance == "auto" else recipe.balance)
        notes.append(f"{uneven}: balanced by the {recipe.balance}")
    return recipe


def _choose_stages(
    recipe: Recipe, data: Dataset, trained: Collection[str], notes: list[str]
) -> Recipe:
    """Take the stages of another recipe where there are few images."""
    images, small = data.train_count, recipe.small_data
    if small is None or images >= small.images:
        return recipe
    if "student" in trained:
        name, why = small.adopted, "which cut a trained network gently"
        # Its stages mix images, which does not move their masks.
        if small.adopted_few and images < small.few_images and not data.has_masks:
            name, why = small.adopted_few, f"{why} and teach it on mixed images"
    elif recipe.student.pretrained:
        name, why = small.pretrained, "which build on pretrained weights"
    elif (
        "teacher" in trained
        or recipe.teacher.pretrained
        or small.scratch == small.taught
        or small.method not in (None, "labels")
    ):
        name, why = small.taught, f"taught by {recipe.teacher.name}"
    else:
        name, why = small.scratch, f"without {recipe.teacher.name} as a teacher"
    if name in (small.scratch, small.taught) and small.student is not None:
        recipe = replace(recipe, student=ModelSpec(small.student, stem=recipe.student.stem))
    notes.append(f"{images:,} training images are few: the stages of the recipe {name!r}, {why}")
    where = f"the recipe {name!r}"
    stages = change_stages(load_recipe(name).stages, small.method, small.importance, where)
    return replace(recipe, stages=stages, small_data=None)


def _in_epochs(stage: Train, steps: int) -> Train:
    """Return the stage with its length in epochs of `steps` steps, if it has a length."""
    epochs = max(stage.epochs or (stage.steps or 0) / steps, stage.min_steps / steps)
    if not epochs:
        return stage
    # As many digits as a person reads, and still the same number of steps.
    short = float(f"{epochs:.5g}")
    if round(short * steps) == round(epochs * steps):
        epochs = short
    return replace(stage, epochs=int(epochs) if float(epochs).is_integer() else epochs, steps=None)


def _limit_epochs(epochs: float, longest: float, most: float) -> float:
    """Return a stage's length where the recipe sets that of the longest, which had `most` epochs.

    A stage without a length of its own takes the recipe's.
    """
    return min(epochs, longest) if 0 < epochs < most else longest


def _longest_epochs(recipe: Recipe, steps: int) -> float | None:
    return recipe.epochs if recipe.steps is None else recipe.steps / steps
