"""Networks that are trained already, as a recipe's teacher, student, or both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.data.dataset import Dataset
from compress.distillation.objectives import uses_teacher
from compress.models import checkpoint
from compress.models.build import (
    build,
    builder_of,
    has_pretrained_head,
    pretrained_normalization,
)
from compress.models.checkpoint import Checkpoint
from compress.pipeline.provenance import make_checkpoint
from compress.pipeline.step import Step
from compress.recipe.in_memory import find_held, is_in_memory
from compress.recipe.load import TRAINED_BY
from compress.recipe.model_spec import ModelSpec, settle_stem
from compress.recipe.schema import Recipe
from compress.recipe.stages import Train
from compress.runtime.errors import UserError

# Checkpoints by role: "teacher", "student".
Trained = dict[str, Checkpoint]


def load_checkpoint(path: Path, spec: ModelSpec) -> Checkpoint:
    """Load a weights file whose network the recipe vouches for.

    The function that builds a custom network is the recipe's, whatever the file says.
    """
    if is_in_memory(str(path)):
        held: Checkpoint = find_held(str(path))
        return held
    builder = builder_of(spec)
    kept = checkpoint.load(path, builder)
    custom = builder is not None and kept.network.source == "custom"
    return replace(kept, network=spec) if custom else kept


def load_trained(recipe: Recipe) -> Trained:
    """Load the trained networks that a recipe names.

    A trained student is its own teacher if there is no other.

    Raises:
        UserError: a file cannot be loaded, or the student is pruned weight by weight.
    """
    taught = any(stage.kind == "teach" for stage in recipe.stages)
    trained: Trained = {}
    if recipe.teacher.weights:
        trained["teacher"] = load_checkpoint(Path(recipe.teacher.weights), recipe.teacher)
    elif recipe.student.weights and taught:
        trained["teacher"] = load_checkpoint(Path(recipe.student.weights), recipe.student)
    if recipe.student.weights:
        trained["student"] = load_checkpoint(Path(recipe.student.weights), recipe.student)
        if trained["student"].sparse:
            raise UserError(
                f"{recipe.student.weights}: pruned weight by weight,"
                " which only works as the last stage"
            )
    return trained


def load_published_teacher(recipe: Recipe, data: Dataset) -> Trained:
    """Load the published weights of a teacher that stages distill from and that none trains.

    Raises:
        UserError: the published network has another classifier than the data's.
    """
    spec, classes = settle_stem(recipe.teacher, data.image_size), len(data.classes)
    stages = [s for s in recipe.stages if isinstance(s, Train) and s.distill_from == "teacher"]
    if not spec.pretrained or spec.weights or any(stage.kind == "teach" for stage in stages):
        return {}
    if not any(uses_teacher(stage) for stage in stages):
        return {}
    if not has_pretrained_head(spec, classes):
        raise UserError(
            f"the classifier of {spec.name} is new to {data.name}'s classes: add a 'teach' stage"
        )
    model = build(spec, classes).eval()
    return {"teacher": make_checkpoint(model, spec, data, 3, pretrained_normalization(spec))}


def merge_trained(recipe: Recipe, data: Dataset, trained: Trained) -> tuple[Recipe, Dataset]:
    """Return the recipe and the data, adapted to the trained networks.

    The recipe gets their specifications. The data gets their normalization and, as far as the
    recipe leaves these open, their `crop_ratio` and `background`; images in memory lie on theirs.

    Raises:
        UserError: their classes are not the data's, or teacher and student are normalized
            differently.
    """
    first = next(iter(trained.values()), None)
    for role, kept in trained.items():
        spec: ModelSpec = getattr(recipe, role)
        file = spec.weights or recipe.student.weights or spec.name
        if kept.classes != data.classes:
            raise UserError(
                f"{file}: its classes are not those of {data.name}; it was trained on {kept.data}"
            )
        assert first is not None
        if not _normalized_alike(kept, first):
            raise UserError(f"{file}: its images are normalized differently from the teacher's")
        network = replace(kept.network, weights=spec.weights)
        recipe = (
            replace(recipe, teacher=network)
            if role == "teacher"
            else replace(recipe, student=network)
        )
    if not trained:
        return recipe, data
    widest = max(trained.values(), key=lambda kept: kept.input_size[0])
    background = data.background if is_in_memory(data.name) else widest.background
    return recipe, data.normalized(widest.mean, widest.std).framed(
        recipe.crop_ratio or widest.crop_ratio, recipe.background or background
    )


def _normalized_alike(one: Checkpoint, other: Checkpoint) -> bool:
    """Return True if the channels that both networks take are normalized alike."""
    channels = min(one.input_size[0], other.input_size[0])
    return (one.mean[:channels], one.std[:channels]) == (
        other.mean[:channels],
        other.std[:channels],
    )


def trained_steps(recipe: Recipe, trained: Trained) -> list[Step]:
    """Return the steps of trained networks, in place of the stages that would train them."""
    return [
        Step(
            kind=TRAINED_BY[role],
            stage=None,
            network=replace(kept.network, weights=getattr(recipe, role).weights),
            image_size=kept.input_size[-1],
            channels=kept.input_size[0],
            trained=kept,
            origin=getattr(recipe, role).weights or recipe.student.weights or "by its publisher",
        )
        for role, kept in trained.items()
    ]
