"""A recipe: a TOML file that names a pipeline's stages, typed and checked before anything runs.

Free of torch, so that a typo is answered at once.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from compress.errors import UserError, nearest
from compress.models.network import Network

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Train:
    """A stage that trains: the teacher (`teach`), the student (`distill`), or what pruning left (`finetune`).

    Args:
        epochs: passes over the training data.
        size: side of the images in this stage, in pixels; the data's own if left out. Small images make the
            first epochs of a big network affordable (progressive resizing).
        lr, warmup: the learning rate rises to `lr` over the first `warmup` share of the steps and falls to zero.
        ema: decay of the running average of the weights that becomes the result; 0 keeps the last weights.
        crop, flip, mixup, cutmix, mix: see `compress.data.Augment`.
        alpha: how much the student listens to the teacher rather than to the labels.
        fade: let alpha fall to zero over the stage, for a student that outgrows its teacher.
        views: how many augmented views of the training data the epochs walk through; the teacher answers each
            view once. 0: a new view every epoch.
        compile: compile the network first (pays in long stages).
    """

    kind: Literal["teach", "distill", "finetune"]
    epochs: Count
    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Share = 0.2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    crop: tuple[Positive, Positive] | None = (0.6, 1.0)
    flip: bool = True
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    mix: Share = 1.0
    temperature: Positive = 4.0
    alpha: Share = 0.5
    fade: bool = False
    views: Annotated[int, Field(ge=0)] = 0
    compile: bool = False


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Prune:
    """A stage that prunes to its round's target. Targets are spaced evenly in ratio, from student to budget.

    Args:
        size: side of the images that the model was trained on so far, in pixels; the data's own if left out.
        importance: what a channel is worth, by name.
        samples: training images that the importance and the batch norms are measured on.
    """

    kind: Literal["prune"] = "prune"
    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    importance: str = "taylor"
    samples: Count = 2048


Stage = Annotated[Train | Prune, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Recipe:
    """One pipeline: data, teacher, student, budget, and the stages in order."""

    title: str = ""
    data: str = "fashion-mnist"
    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    limit: Count | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    budget: str | int = "100k"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    batch: Count = 256
    teacher: Network
    student: Network
    weights: str | None = None  # a trained teacher's weights file; the teach stage is then skipped
    stages: tuple[Stage, ...]

    def quick(self) -> Recipe:
        """The same stages, small enough to try out: fewer images, a tenth of the epochs, nothing compiled."""
        stages = tuple(
            replace(s, epochs=max(1, s.epochs // 10), compile=False) if isinstance(s, Train) else s for s in self.stages
        )
        return replace(self, limit=min(self.limit or QUICK_IMAGES, QUICK_IMAGES), stages=stages)


QUICK_IMAGES = 6_000


@dataclasses.dataclass(frozen=True)
class Budget:
    """A size to fit into: a number of parameters, or a share of the student's."""

    text: str
    params: int | None = None
    share: float | None = None

    def of(self, student: int) -> int:
        """The budget in parameters, for a student of `student` parameters."""
        return self.params if self.params is not None else int((self.share or 0.0) * student)


def parse_budget(text: str) -> Budget:
    """Read ``100k``, ``0.1M``, ``100_000``, ``100000`` or ``5%`` (of the student).

    Raises:
        UserError: it is none of these, or not above zero (or not below 100 %).
    """
    match = re.fullmatch(r"\s*(\d+(?:[_,]\d{3})*|\d*\.\d+|\d+\.)\s*([kKmM%]?)\s*", text)
    if not match:
        raise UserError(f"budget {text!r} is not understood: write 100k, 0.1M, 100_000 or 5%")
    digits, unit = re.sub("[_,]", "", match[1]), match[2].lower()
    if unit == "%":
        share = float(digits) / 100
        if not 0 < share < 1:
            raise UserError(f"budget {text!r}: a share lies above 0% and below 100% of the student")
        return Budget(text, share=share)
    amount = float(digits) * {"": 1, "k": 1_000, "m": 1_000_000}[unit]
    params = round(amount)
    if params < 1 or abs(params - amount) > 1e-6 * amount:
        raise UserError(f"budget {text!r} must be a whole number of parameters, 1 or more")
    return Budget(text, params=params)


def shipped() -> dict[str, Path]:
    """The recipes that come with the program, by name: from an installed wheel, or from a checkout."""
    here = Path(__file__).parent
    folder = next((f for f in (here / "pipelines", here.parent / "pipelines") if f.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read the recipe called `name` (shipped, or a path to a TOML file), with `overrides` laid over its keys.

    Override keys may be dotted (``teacher.name``); overrides that are None are passed over.

    Raises:
        UserError: there is no such recipe, or something in it is wrong: the key, and the nearest right one.
    """
    path = shipped().get(name, Path(name))
    if not path.is_file():
        raise UserError(f"no recipe {name!r}{nearest(name, shipped())}: see `compress recipes`, or give a TOML file")
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    for key, value in (overrides or {}).items():
        if value is not None:
            *tables, leaf = key.split(".")
            table = plain
            for name_ in tables:
                table = table.setdefault(name_, {})
            table[leaf] = value
    return check(plain, where=str(path))


def check(plain: dict[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain data, as `tomllib` or `json` gives it.

    Raises:
        UserError: a key is unknown or missing, a value is of the wrong type or out of range, or no stage follows
            from the one before.
    """
    try:
        recipe = TypeAdapter(Recipe).validate_json(
            json.dumps(plain, default=str), strict=True
        )  # JSON: lists are tuples
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {_one_line(error)}") from error
    parse_budget(str(recipe.budget))
    kinds = [stage.kind for stage in recipe.stages]
    student_at = kinds.index("distill") if "distill" in kinds else None
    if student_at is None:
        raise UserError(f"{where}: stages: there is no 'distill' stage, so there is no student")
    if "prune" in kinds[:student_at] or "finetune" in kinds[:student_at] or "teach" in kinds[student_at:]:
        raise UserError(f"{where}: stages: the order is teach, distill, then prune and finetune in turns")
    return recipe


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, as `check` reads it."""
    return dataclasses.asdict(recipe)


def _one_line(error: pydantic.ValidationError) -> str:
    """The first thing wrong, as `stages 2, key 'epoch': unknown (did you mean 'epochs'?)`."""
    first = error.errors()[0]
    path = [part for part in first["loc"] if part not in ("teach", "distill", "finetune")]
    if len(path) > 2 and path[0] == "stages":
        path = [*path[:2], *(part for part in path[2:] if part != "prune")]
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner: Any = Network if path[0] in ("teacher", "student") else Train if path[0] == "stages" else Recipe
        known = [f.name for f in dataclasses.fields(owner)]
        reason = f"unknown key{nearest(str(path[-1]), known)}"
    else:
        reason = first["msg"][:1].lower() + first["msg"][1:]
    where = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in path)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {reason}{more}"
