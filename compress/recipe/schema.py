"""A recipe: a TOML file that names a pipeline's stages, typed and checked before anything runs.

Free of torch, so that a typo is answered at once.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from compress.recipe.budget import KEYS, Amount, Axis, amounts
from compress.recipe.messages import first_wrong
from compress.recipe.model_spec import Network
from compress.recipe.overrides import KINDS, lay_over
from compress.recipe.registry import ImportanceName, MethodName
from compress.runtime.errors import UserError, nearest

T = TypeVar("T")
CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Part = Annotated[float, Field(gt=0, le=1)]


def _in_order(crop: tuple[float, float]) -> tuple[float, float]:
    if crop[0] > crop[1]:
        raise ValueError("must name the smaller share first")
    return crop


def _no_number(choice: object) -> object:
    if isinstance(choice, int | float) and not isinstance(choice, bool):  # Python holds 1 to be true
        raise ValueError("must be 'auto', true or false")
    return choice


def _whole(number: float) -> float:
    return int(number) if number.is_integer() else number


Auto = Annotated[Literal["auto", True, False], BeforeValidator(_no_number)]
Crop = Annotated[tuple[Part, Part], AfterValidator(_in_order)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Train:
    """A stage that trains: the teacher (`teach`), the student (`distill`), or what pruning left (`finetune`).

    Args:
        epochs: passes over the training data; 0.7 is one that stops short.
        scale: side of the images in this stage, as a share of the data's own. Small images make the first epochs
            of a big network affordable (progressive resizing).
        lr, warmup: the learning rate rises to `lr` over the first `warmup` share of the steps and falls to zero.
        ema: decay of the running average of the weights that becomes the result; 0 keeps the last weights.
        crop, flip, mixup, cutmix, mix, erase: see `compress.data.Augment`. `flip = "auto"`: true, but for `mnist`
            false. A digit's mirror image is none.
        guide: whom the stage listens to: the teacher; the distilled student, as its assistant (Mirzadeh et al. 2019,
            arXiv:1902.03393); or `before`, the network as it was last trained, larger if a cut came in between, and
            else the same (born again, Furlanello et al. 2018, arXiv:1805.04770). The latter two only after pruning.
        method: how the student learns from its guide (`compress.distillation.methods`); each adds a loss of its
            own to the base: the labels and, by alpha, Hinton's distillation.
        alpha: how much the base listens to the guide rather than to the labels; left out, what the method's paper
            does (0.5 for `kd` and `fitnets`, 0 for the others).
        beta: the weight of the method's own loss; left out, its paper's.
        taps: the layers that methods on feature maps compare, as module paths that both networks have, or in pairs
            ``teacher=student``. Left out: the stages of residual networks, of others the last at each resolution.
        fade: let alpha fall to zero over the stage, for a student that outgrows its teacher.
        outgrow: listen only until the student's validation accuracy has reached the guide's, then to the labels alone;
            not at all if it was higher when the student was last trained.
        views: how many augmented views of the training data the epochs walk through that ask the guide; it answers
            each view once, as far as there is room to keep its answers. 0: a new view every epoch, and the same ones
            in other stages that augment alike.
        freeze: `backbone` trains nothing but the head; all else, batch norms' statistics too, stays as it is.
        compile: whether to run the network through torch.compile; `auto`: where that has paid by the stage's end, as
            measured on this machine. A matter of speed, and of the last digits: a run may go on
            with another setting.
    """

    kind: Literal["teach", "distill", "finetune"]
    epochs: Annotated[float, Field(gt=0, le=1_000_000), AfterValidator(_whole)]  # whole ones stay whole in files
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: Positive = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Share = 0.2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    crop: Crop | None = (0.6, 1.0)
    flip: Auto = "auto"
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    mix: Share = 1.0
    erase: Share = 0.0
    guide: Literal["teacher", "student", "before"] = "teacher"
    method: MethodName = "kd"
    temperature: Positive = 4.0
    alpha: Share | None = None
    beta: Positive | None = None
    taps: tuple[str, ...] = ()
    fade: bool = False
    outgrow: bool = False
    views: Annotated[int, Field(ge=0)] = 0
    freeze: Literal["backbone"] | None = None
    compile: Auto = "auto"


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Prune:
    """A stage that prunes to its round's target. Targets are spaced evenly in ratio, from student to budget.

    Args:
        scale: side of the images that the model was trained on so far, as a share of the data's own.
        mode: whole channels, which makes the network smaller and faster; or single weights, which become zero.
        importance: what a channel, or a weight, is worth, by name.
        samples: training images that the importance and the batch norms are measured on.
        multiple: keep widths multiples of this where the budget can be met so (processors are faster at 8 or 16).
    """

    kind: Literal["prune"] = "prune"
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0
    mode: Literal["channels", "weights"] = "channels"
    importance: ImportanceName = "taylor"
    samples: Count = 2048
    multiple: Count = 1


Stage = Annotated[Train | Prune, Field(discriminator="kind")]
STAGES = dict.fromkeys(KINDS, Train) | {"prune": Prune}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Recipe:
    """One pipeline: data, teacher, student, budget, and the stages in order.

    Args:
        minutes: what training and pruning are to take in all; the stages' epochs then say only how they share it, and
            each gets a fiftieth of what is left at the least. Rough for `fitnets`, `fsp` and `stagewise`, whose parts
            cost more or less than the first, which is measured. A stage that goes on with a trained network is left out
            if next to no time is left for it.
    """

    title: str = ""
    data: str = "fashion-mnist"
    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    limit: Count | None = None
    share: Part = 1.0
    budget: str | int | None = None  # parameters
    macs: str | int | None = None  # multiply-adds for one image
    file_size: str | int | None = None  # bytes of the weights file
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    batch: Count = 256
    minutes: Annotated[float, Field(gt=0, le=10_080)] | None = None  # a week at most
    teacher: Network
    student: Network
    weights: str | None = None  # a trained teacher's weights file; the teach stage is then skipped
    start: str | None = None  # a trained student's weights file; the distill stage is then skipped
    stages: tuple[Stage, ...]

    def budgets(self) -> dict[Axis, Amount]:
        """The budgets that are given: all of them have to hold."""
        return amounts({key: getattr(self, key) for key in KEYS})

    def quick(self) -> Recipe:
        """The same stages, small enough to try out: fewer images, a quarter of the epochs, nothing compiled."""
        stages = tuple(
            replace(s, epochs=min(s.epochs, max(1, s.epochs // 4)), compile=False) if isinstance(s, Train) else s
            for s in self.stages
        )
        return replace(self, limit=min(self.limit or QUICK_IMAGES, QUICK_IMAGES), stages=stages)


QUICK_IMAGES = 6_000
GIVEN = {"weights": "teach", "start": "distill"}  # keys that name trained networks, and the stages that these replace


def shipped() -> dict[str, Path]:
    """The recipes that come with the program, by name: from an installed wheel, or from a checkout."""
    here = Path(__file__).parent.parent
    folder = next((f for f in (here / "pipelines", here.parent / "pipelines") if f.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read the recipe called `name`, with `overrides` laid over its keys.

    It is one that is shipped, or a TOML file, or the ``run.json`` of a run, which is to be done again. Override keys
    may be dotted: ``teacher.name``; ``finetune.epochs``, of all stages of that kind; ``stages.2.alpha``, of the second.
    As on the command line, a plain ``teacher`` or ``student`` is a network's name or a weights file, and ``stem`` is
    the student's. None is passed over.

    Raises:
        UserError: there is no such recipe, or something in it is wrong: the key, and the nearest right one.
    """
    path = shipped().get(name, Path(name))
    if not path.is_file():
        raise UserError(f"no recipe {name!r}{nearest(name, shipped())}: see `compress recipes`, or give a TOML file")
    read = read_run(path) if path.suffix == ".json" else read_toml(path)
    if "stages" not in read and not read.keys().isdisjoint(("recipe", "seeds", "keys", "grid", "rows")):
        raise UserError(f"{path}: this is an experiment: `compress experiment {path}`")
    return check(lay_over(read, overrides or {}, str(path)), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """What the TOML file `path` says.

    Raises:
        UserError: it is not TOML; at which line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error


def read_run(path: Path) -> dict[str, Any]:
    """The recipe in the ``run.json`` of a run. What it was given is read from its own copies, which go where it goes.

    Raises:
        UserError: it is no such file.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        plain: dict[str, Any] = run["recipe"]
        copies = {stage["kind"]: path.parent / stage["checkpoint"] for stage in run["stages"]}
        given = {key: copies[kind] for key, kind in GIVEN.items() if plain.get(key) and kind in copies}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the run.json of a run: there is no recipe in it") from error
    return plain | {key: str(copy) for key, copy in given.items() if copy.is_file()}


def check(plain: dict[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain data, as `tomllib` or `json` gives it.

    Raises:
        UserError: a key is unknown or missing, a value is of the wrong type or out of range, or no stage follows
            from the one before.
    """
    recipe = typed(Recipe, plain, where)
    kinds = [stage.kind for stage in recipe.stages]
    student_at = kinds.index("distill") if "distill" in kinds else None
    if student_at is None:
        raise UserError(f"{where}: stages: there is no 'distill' stage, so there is no student")
    for kind in ("teach", "distill"):
        if kinds.count(kind) > 1:
            raise UserError(f"{where}: stages: {kind!r} comes twice, and each time it starts from a new network")
    if "prune" in kinds[:student_at] or "finetune" in kinds[:student_at] or "teach" in kinds[student_at:]:
        raise UserError(f"{where}: stages: the order is teach, distill, then prune and finetune in turns")
    _check_guides(recipe, where)
    _check_frozen(recipe, where)
    modes = [stage.mode for stage in recipe.stages if isinstance(stage, Prune)]
    if modes != sorted(modes):
        raise UserError(f"{where}: stages: no channels can be pruned after single weights have been")
    try:
        budgets = recipe.budgets()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if modes and not budgets:
        raise UserError(f"{where}: budget: is missing; or else macs, or file_size")
    return recipe


def typed(kind: type[T], plain: dict[str, Any], where: str) -> T:
    """A dataclass of `kind` from plain data.

    Raises:
        UserError: the first key that is unknown, missing or wrong.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(plain, default=str), strict=True)  # JSON: lists are tuples
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {first_wrong(error, kind, STAGES)}") from error


def _check_guides(recipe: Recipe, where: str) -> None:
    """Refuse to listen to what is not there yet."""
    pruned = False
    for place, stage in enumerate(recipe.stages, start=1):
        pruned = pruned or isinstance(stage, Prune)
        if isinstance(stage, Train) and stage.guide != "teacher" and not pruned:
            raise UserError(f"{where}: stages.{place}.guide: only the teacher can be listened to before pruning")


def _check_frozen(recipe: Recipe, where: str) -> None:
    """Refuse to freeze what has learned nothing: a network without pretrained weights, or with a new stem."""
    given = {"teach": recipe.weights, "distill": recipe.start}  # trained already: then the stage is skipped
    for place, stage in enumerate(recipe.stages, start=1):
        network = recipe.teacher if stage.kind == "teach" else recipe.student
        stem = network.stem != "imagenet" and not network.name.startswith("efficientnet")  # whose weights stay
        new = stage.kind in given and not given[stage.kind] and ":" not in network.name
        if isinstance(stage, Train) and stage.freeze and new and (stem or not network.pretrained):
            need = "leave its stem as it is" if network.pretrained else "set pretrained = true"
            raise UserError(f"{where}: stages.{place}.freeze: {network.name}'s first layers are random here: {need}")


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, as `check` reads it."""
    return dataclasses.asdict(recipe)
