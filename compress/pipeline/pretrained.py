"""Networks that are trained already: a recipe may bring its teacher, its student, or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from compress.data.dataset import Dataset
from compress.distillation.methods import listens
from compress.models import checkpoint
from compress.models.build import (
    build,
    has_pretrained_head,
    import_builder,
    pretrained_normalization,
)
from compress.models.checkpoint import Checkpoint
from compress.pipeline.context import Given
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe, Train
from compress.runtime.errors import UserError


def load_step(path: Path, network: ModelSpec) -> Checkpoint:
    """A weights file whose network the recipe vouches for: a person's own is the recipe's, whatever the file says."""
    own = network.source == "custom"
    kept = checkpoint.load(path, builder=import_builder(network.name) if own else None)
    return replace(kept, network=network) if own and kept.network.source == "custom" else kept


def networks_given(recipe: Recipe) -> list[Given]:
    """Networks that are trained already. A trained student is its own teacher, if no other is given."""
    taught = any(stage.kind == "teach" for stage in recipe.stages)
    teacher, student = (
        recipe.teacher.weights or (recipe.student.weights if taught else None),
        recipe.student.weights,
    )
    given = []
    if teacher is not None:
        network = recipe.teacher if recipe.teacher.weights else recipe.student
        given.append(Given(load_step(Path(teacher), network), str(teacher), "teach"))
    if student is not None:
        given.append(Given(load_step(Path(student), recipe.student), str(student), "distill"))
    for trained in given:
        if trained.checkpoint.sparse and trained.kind == "distill":
            raise UserError(
                f"{trained.file}: pruned weight by weight, which is the end of a pipeline, not a beginning"
            )
    return given


def pretrained_teacher(recipe: Recipe, data: Dataset) -> Iterator[Given]:
    """A pretrained teacher that stages listen to and none teaches: it has to know the classes already."""
    network, classes = recipe.teacher, len(data.classes)
    learning = [
        stage
        for stage in recipe.stages
        if isinstance(stage, Train) and stage.distill_from == "teacher"
    ]
    if (
        not network.pretrained
        or recipe.teacher.weights
        or any(stage.kind == "teach" for stage in learning)
    ):
        return
    if any(listens(stage) for stage in learning):
        if not has_pretrained_head(network, classes):
            raise UserError(
                f"the head of {network.name} is new to {data.name}'s classes: begin with a 'teach' stage"
            )
        model, size = build(network, classes).eval(), (3, data.size, data.size)
        known = Checkpoint(model, network, data.classes, size, *pretrained_normalization(network), data.name)
        yield Given(known, "torchvision", "teach")


def with_given(recipe: Recipe, data: Dataset, given: list[Given]) -> tuple[Recipe, Dataset]:
    """The recipe with these networks in it; and the data as the teacher, or else the student, learned to see it."""
    for trained in given:
        kept, first = trained.checkpoint, given[0].checkpoint
        if kept.classes != data.classes:
            raise UserError(
                f"{trained.file}: this network knows other classes than {data.name}'s; it was trained on {kept.data}"
            )
        if (kept.mean, kept.std) != (first.mean, first.std):
            raise UserError(
                f"{trained.file}: its images are normalized in another way than {given[0].file}'s"
            )
        networks = {"teacher": recipe.teacher, "student": recipe.student} | {
            trained.role: replace(kept.network, weights=getattr(recipe, trained.role).weights)
        }
        recipe = replace(recipe, teacher=networks["teacher"], student=networks["student"])
        data = replace(data, mean=first.mean, std=first.std)
    return recipe, data
