"""What a recipe comes to on this machine: all that can be wrong with it is found here, before any time is spent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from compress.data.dataset import Dataset, open_dataset
from compress.distillation.methods import listens
from compress.models import checkpoint
from compress.models.build import build, import_builder, skeleton
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pipeline.checks import try_images, try_one_at_a_time
from compress.pipeline.context import Given, side
from compress.pipeline.pretrained import networks_given, pretrained_teacher, with_given
from compress.pipeline.run_dir import StageResult
from compress.pipeline.stages import pack
from compress.pipeline.teachers import check_methods, guide_of
from compress.pruning import unstructured as weights
from compress.pruning.file_size import resolve_file_limits
from compress.pruning.limits import require_params_only
from compress.pruning.pruner import prune, prune_to_minimum
from compress.recipe import load as recipes
from compress.recipe.budget import Cost, Limits, describe_budgets
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Prune, Recipe, Stage, Train
from compress.runtime import distributed
from compress.runtime.device import device_name, package_versions, pick_device
from compress.runtime.errors import UserError

Stages = list[Stage | Given]

SPARE = 256  # bytes of a file: a run may end on another machine, whose name and versions are longer


@dataclass(frozen=True)
class Step:
    """A stage in its place.

    Args:
        place: how many stages come before it.
        name: what it is called, as "prune 2".
        network: what its model is built from.
        target: what to prune to, for a prune stage.
        file: its weights file, within the run directory.
        sparse: whether its model is pruned weight by weight.
    """

    place: int
    name: str
    stage: Stage | Given
    network: ModelSpec
    target: Limits | None
    file: str
    sparse: bool


@dataclass(frozen=True)
class Plan:
    """All that is settled before a run begins: nothing in it can be wrong any more.

    Args:
        limits: what the network has to fit into.
        file: bytes of the weights file that the run ends with, at most; None if there is no such budget.
    """

    recipe: Recipe
    data: Dataset
    device: torch.device
    limits: Limits
    file: int | None
    steps: tuple[Step, ...]

    def guide(self, step: Step) -> Step | None:
        """Whose result `step` is to listen to, if to any: that of an earlier step. One that is outgrown before `step`
        begins is left out then."""
        if not isinstance(step.stage, Train) or not listens(step.stage):
            return None
        place = guide_of([each.stage for each in self.steps], step.place)
        return None if place is None else self.steps[place]

    def room(self, step: Step) -> Callable[[nn.Module], int] | None:
        """How many bytes the budget of the file leaves with a model that `step` makes, if it is the last to prune."""
        prunes = [each for each in self.steps if isinstance(each.stage, Prune)]
        if self.file is None or step not in prunes[-1:]:
            return None
        stages = [each.stage for each in self.steps]
        most = self.file - SPARE
        return lambda model: (
            most - checkpoint.file_size(_last(self.recipe, stages, self.data, model))
        )


def make_plan(recipe: Recipe, device: str = "auto") -> Plan:
    """What `recipe` comes to on this machine.

    Raises:
        UserError: whatever is wrong with it.
    """
    on = pick_device(device)
    _check_names(recipe)
    given = networks_given(recipe)
    data = open_dataset(
        recipe.data,
        size=recipe.image_size,
        limit=recipe.max_images,
        share=recipe.data_fraction,
        seed=recipe.seed,
    )
    data = replace(data, train=data.train.to(on), val=data.val.to(on))
    if distributed.world_size() > (batch := min(recipe.batch_size, len(data.train))):
        raise UserError(
            f"{distributed.world_size()} processes share a batch of {batch} images: start fewer, or raise batch"
        )
    given = [*pretrained_teacher(recipe, data), *given]
    recipe, data = with_given(recipe, data, given)
    kinds = {trained.kind for trained in given}
    stages: Stages = [*given, *(stage for stage in recipe.stages if stage.kind not in kinds)]
    for network, kind in (
        (recipe.teacher, ("teach",)),
        (recipe.student, ("distill", "prune", "finetune")),
    ):
        own = [stage for stage in stages if stage.kind in kind]
        try_images(network, own, data)
        try_one_at_a_time(network, own, recipe, data)
    student = next(
        (trained.checkpoint.model for trained in given if trained.kind == "distill"), None
    )
    student = student or build(replace(recipe.student, pretrained=False), len(data.classes))
    check_methods(recipe, stages, data)
    final = (3, side(stages[-1], data), side(stages[-1], data))
    whole, example = measure_cost(student, final), torch.zeros(1, *final)
    limits, file = resolve_file_limits(
        recipe.budgets(), whole, lambda: _last(recipe, stages, data, student), SPARE
    )
    stages = _rounds(stages, limits, whole)
    targets = _targets(stages, limits, whole)
    _check_need(recipe, stages, limits, whole)
    _check_reach(recipe, stages, targets, student, example)
    return Plan(recipe, data, on, limits, file, tuple(_steps(recipe, stages, targets)))


def origin(
    recipe: Recipe, data: Dataset, device: torch.device, results: Sequence[StageResult]
) -> dict[str, object]:
    """What a weights file says of how it came to be."""
    kept = ("name", "params", "macs", "val", "test", "seconds", "epochs")
    return {
        "recipe": json.loads(json.dumps(recipes.recipe_to_dict(recipe))),  # as run.json has it
        "device": device_name(device),
        "versions": package_versions(),
        "data_checksum": data.checksum,
        "stages": [{key: getattr(result, key) for key in kept} for result in results],
    }


def _steps(recipe: Recipe, stages: Stages, targets: list[Limits | None]) -> Iterator[Step]:
    sparse = False
    for place, (name, stage, target) in enumerate(
        zip(_names(stages), stages, targets, strict=True)
    ):
        sparse = sparse or (isinstance(stage, Prune) and stage.mode == "weights")
        network = recipe.teacher if stage.kind == "teach" else recipe.student
        file = f"stages/{place + 1:02d}-{name.replace(' ', '-')}.pth"
        yield Step(place, name, stage, network, target, file, sparse)


def _last(recipe: Recipe, stages: Stages, data: Dataset, model: nn.Module) -> Checkpoint:
    """What a run ends with if its network is `model`, the results as long as they can become."""
    longest = StageResult(
        "", "finetune", "", 2**40, 2**40, val=0.5, seconds=0.5, checkpoint="", epochs=0.5, test=0.5
    )
    known = origin(
        recipe, data, torch.device("cpu"), [replace(longest, name=name) for name in _names(stages)]
    )
    return pack(model, recipe.stages[-1], recipe.student, data, known)


def _rounds(stages: Stages, limits: Limits, whole: Cost) -> Stages:
    """`stages` without the first rounds of pruning, if with all of them a round would shrink the network by less than
    half: it survives that well. The first one left looks at images of the size that the student was trained on,
    if a stage did that. What prunes in another mode afterwards stays."""
    rounds = [(i, stage) for i, stage in enumerate(stages) if isinstance(stage, Prune)]
    rounds = [(i, stage) for i, stage in rounds if stage.mode == rounds[0][1].mode]
    needed = max(1, math.ceil(math.log2(max(limits.usage(whole), 1))))
    if len(rounds) <= needed:
        return stages
    start, (kept, first) = rounds[0][0], rounds[-needed]
    if start and isinstance(before := stages[start - 1], Train):
        first = replace(first, scale=before.scale)
    return [*stages[:start], first, *stages[kept + 1 :]]


def _targets(stages: Stages, limits: Limits, whole: Cost) -> list[Limits | None]:
    """What each prune stage aims at: spaced evenly in ratio, from student to budget."""
    places = [i for i, stage in enumerate(stages) if isinstance(stage, Prune)]
    targets: list[Limits | None] = [None] * len(stages)
    for done, i in enumerate(places, start=1):
        targets[i] = (
            limits if done == len(places) else limits.interpolate(whole, done / len(places))
        )
    return targets


def _check_need(recipe: Recipe, stages: Stages, limits: Limits, whole: Cost) -> None:
    """A student that fits is not pruned, and one that does not is."""
    has = f"budget {describe_budgets(recipe.budgets())}: the student {recipe.student.name} has {limits.describe(whole)}"
    pruned, fits = any(isinstance(stage, Prune) for stage in stages), limits.fits(whole)
    if pruned and fits:
        raise UserError(
            f"{has}, there is nothing to prune; choose a smaller budget or a bigger student"
        )
    if not pruned and not fits:
        raise UserError(f"{has}, and the recipe has no prune stage")


def _check_reach(
    recipe: Recipe,
    stages: Stages,
    targets: list[Limits | None],
    student: nn.Module,
    example: torch.Tensor,
) -> None:
    """Each kind of pruning can reach what it aims at in the end, as far as that can be known before."""
    rounds = [
        (stage, target)
        for stage, target in zip(stages, targets, strict=True)
        if isinstance(stage, Prune)
    ]
    budget, least = (
        f"budget {describe_budgets(recipe.budgets())}",
        f"the least for {recipe.student.name} is",
    )
    channels = [target for stage, target in rounds if target and stage.mode == "channels"]
    singly = [target for stage, target in rounds if target and stage.mode == "weights"]
    if singly:
        require_params_only(singly[-1])
    if channels:
        lowest = prune_to_minimum(student, example)[1]
        if not channels[-1].fits(lowest):
            first = f" to {channels[-1]} by channels first" if singly else ""
            raise UserError(
                f"{budget}: out of reach{first}, {least} {channels[-1].describe(lowest)}"
            )
        if singly:  # about what that round will leave
            student = prune(student, example, channels[-1].params, original=student)
    if singly and not singly[-1].fits(lowest := Cost(weights.count_min_params(student), 0, 0)):
        raise UserError(f"{budget}: out of reach, {least} {singly[-1].describe(lowest)}")


def _check_names(recipe: Recipe) -> None:
    given = {"teacher": recipe.teacher.weights, "student": recipe.student.weights}
    for role, network in (("teacher", recipe.teacher), ("student", recipe.student)):
        if network.source == "custom":
            import_builder(network.name)
        elif network.pretrained and not given[role]:  # the download is had now, or refused now
            build(network, 10)
        else:
            skeleton(network, 10)
    for stage in recipe.stages:
        if isinstance(stage, Prune) and stage.mode == "weights":
            weights.check_weight_importance(stage.importance)


def _names(stages: Stages) -> list[str]:
    """What the stages are called: a kind that comes more than once is numbered."""
    kinds = [stage.kind for stage in stages]
    return [
        f"{kind} {kinds[: place + 1].count(kind)}" if kinds.count(kind) > 1 else kind
        for place, kind in enumerate(kinds)
    ]
