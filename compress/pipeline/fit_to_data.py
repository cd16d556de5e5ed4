"""Recipes fitted to their data: stages, batch sizes, lengths and stems."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from compress.data.dataset import Dataset
from compress.pipeline.change_stages import change_stages
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec, settle_stem
from compress.recipe.schema import Recipe, SmallData
from compress.recipe.stages import Stage, Train
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
    """Take the stages of another recipe where there are few images.

    That recipe may name another in turn, for even fewer images. Stages that mix images are not
    taken where the labels are masks.
    """
    images, small, chosen = data.train_count, recipe.small_data, None
    while small is not None and images < small.images:
        name, why = _name_recipe(recipe, small, trained)
        taken = load_recipe(name)
        if data.has_masks and _mix(taken.stages):
            break
        if name in (small.scratch, small.taught) and small.student is not None:
            recipe = replace(recipe, student=ModelSpec(small.student, stem=recipe.student.stem))
        where = f"the recipe {name!r}"
        stages = change_stages(taken.stages, small.method, small.importance, where)
        recipe = replace(recipe, stages=stages, small_data=None)
        chosen = f"the stages of {where}, {why}"
        small = _for_fewer(taken.small_data, small)
    if chosen is not None:
        notes.append(f"{images:,} training images are few: {chosen}")
    return recipe


def _name_recipe(recipe: Recipe, small: SmallData, trained: Collection[str]) -> tuple[str, str]:
    """Return the name of the recipe for these networks, and what speaks for it."""
    if "student" in trained:
        return small.adopted, "which cut a trained network gently"
    if recipe.student.pretrained:
        return small.pretrained, "which build on pretrained weights"
    if (
        "teacher" in trained
        or recipe.teacher.pretrained
        or small.scratch == small.taught
        or small.method not in (None, "labels")
    ):
        return small.taught, f"taught by {recipe.teacher.name}"
    return small.scratch, f"without {recipe.teacher.name} as a teacher"


def _mix(stages: Iterable[Stage]) -> bool:
    return any(isinstance(stage, Train) and (stage.mixup or stage.cutmix) for stage in stages)


def _for_fewer(inner: SmallData | None, outer: SmallData) -> SmallData | None:
    """Return the choice for fewer images than `outer`'s, with the method and importance of that."""
    if inner is None or inner.images >= outer.images:
        return None
    return replace(
        inner,
        method=outer.method or inner.method,
        importance=outer.importance or inner.importance,
    )


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
