"""Recipes as typed data: every key, its default, and what it means. Does not import torch.

The keys of stages are in `compress.recipe.stages`.
The text under a key is its documentation: the tables in ``docs/recipes.md`` and the JSON Schema,
``TypeAdapter(Recipe).json_schema()``, are generated from it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from compress.recipe.budget import BUDGET_KEYS, Amount, Axis, parse_budgets
from compress.recipe.model_spec import ModelSpec
from compress.recipe.stages import CONFIG, Stage, Train
from compress.recipe.types import (
    Area,
    Balance,
    BatchSize,
    Color,
    Count,
    DataName,
    Epochs,
    ImportanceName,
    MethodName,
    NotNegative,
    RuntimeName,
)

QUICK_IMAGES = 6_000


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class SmallData:
    """Recipes whose stages are run in place of a recipe's own where there are few images."""

    images: Count = 20_000
    """Fewer training images than this are few."""
    scratch: str = "small"
    """Recipe for networks that start from random weights."""
    student: str | None = None
    """Student of `scratch` and `taught`, in place of the recipe's. A student that is named by a
    flag, an experiment or an argument stays."""
    taught: str = "taught"
    """Recipe for a teacher that is trained, has pretrained weights or is named by a flag, and for a
    student that starts from random weights."""
    pretrained: str = "photos"
    """Recipe for a student that has pretrained weights."""
    adopted: str = "adopted"
    """Recipe for a trained student."""
    few_images: Count = 2_000
    """With fewer training images than this, `adopted_few` takes the place of `adopted`."""
    adopted_few: str | None = None
    """Recipe for a trained student and even fewer images, if there is one; not where labels are
    masks."""
    method: MethodName | None = None
    """Distillation method of these stages, in place of their own. If it needs a teacher, `taught`
    takes the place of `scratch`."""
    importance: ImportanceName | None = None
    """Importance of these stages, in place of their own."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Recipe:
    """One pipeline: data, teacher, student, budget, and the stages in order."""

    title: str = ""
    """One line for `compress recipes`."""
    data: DataName = "fashion-mnist"
    """Data set: a name; or your own images, as `folder:PATH`, `csv:FILE` or `hf:NAME-OR-PATH`, or
    `masks:PATH` with the class of each pixel: a network then labels pixels."""
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Side in pixels to which images are resized. Default: that of a trained student; else the data
    set's own, and for files the median of their shorter sides, rounded down to a multiple of 16, at
    least 32 and at most 224."""
    crop_ratio: Annotated[float, Field(ge=0.1, le=1)] | None = None
    """Part of an image that is seen in validation, test and predictions: the shorter side is
    resized to `image_size` divided by this, and the centre is cropped. Default: that of a trained
    network that the recipe names; else 0.875 where image files are larger than that, 1 otherwise.
    The weights file records it."""
    background: Color | None = None
    """Colour behind transparent parts of images, as `white` or `#rrggbb`. Default: that of a
    trained network that the recipe names; else white, and black for `fashion-mnist` and `mnist`,
    whose ground is black. The weights file records it."""
    max_images: Count | None = None
    """Train on at most this many images."""
    data_fraction: Area = 1.0
    """Train on this fraction of the training images."""
    skip_broken: bool = False
    """Leave out image files that cannot be read, and say how many; by default they are refused."""
    budget: str | int | None = None
    """Parameters: `100k`, `0.1M`, `100_000`, or `5%` of the student's."""
    macs: str | int | None = None
    """Multiply-adds for one image: `5M`, `0.5G`, or `5%` of the student's."""
    file_size: str | int | None = None
    """Bytes of the weights file: `400KB`, `0.4MB`, `400KiB`, or `30%` of the student's."""
    latency: str | None = None
    """Time for one image: `0.4ms`, `400us`, or `20%` of the student's; the median, in `runtime`."""
    speedup: str | int | float | None = None
    """How many times as fast as the uncut student: `5x`, or 5; measured in turns with it, in
    `runtime`."""
    runtime: RuntimeName = "onnx"
    """Where `latency` and `speedup` are measured, on this machine's CPU: `onnx` or `onnx-int8` in
    onnxruntime, `openvino` or `torch`."""
    threads: Count = 1
    """Threads of that runtime; at most as many as there are cores."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random: chosen images, initial weights, views."""
    batch_size: BatchSize = "auto"
    """Images in a batch; the processes of a distributed run share them. `auto` is a power of
    two that makes 90 batches an epoch, from 64 to 256; for fewer than 768 images it is 32."""
    epochs: Epochs | None = None
    """Epochs of the longest stages, in place of their own length, and of stages without one; no
    other stage is longer."""
    steps: Count | None = None
    """Optimizer steps of the longest stages, in place of their own length, and of stages without
    one; no other stage is longer."""
    balance: Balance = False
    """Uneven classes: `loss` adjusts the loss on the labels so that all classes count alike
    (Menon et al. 2020, arXiv:2007.07314), `sampler` draws images of small classes more often, and
    `auto` is `loss` if the largest class has at least three times as many images as the smallest.
    Balanced accuracy rises, top-1 accuracy falls."""
    depth: bool = False
    """Let residual blocks go as a whole in `prune` stages that remove channels. A block goes if the
    network without it, cut to the same target, has the lower loss on the stage's `samples`; every
    block is tried, so that a cut takes several times as long."""
    dice: NotNegative = 0.0
    """Weight of the soft Dice loss (Milletari et al. 2016, arXiv:1606.04797) beside the
    cross-entropy of pixels, for data with masks."""
    minutes: Annotated[float, Field(gt=0, le=10_080)] | None = None
    """Time budget for training and pruning together. Epochs are fitted to it; those of the recipe
    only say how the stages share it. Time beyond what the recipe's epochs take goes to the stages
    after the last cut. Each stage gets at least a fiftieth of the time left. A stage that continues
    from a trained network is skipped if hardly any is left. The fit is rough for `fitnets`, `fsp`
    and `stagewise`, whose phases differ in cost."""
    small_data: SmallData | None = None
    """Recipes to take the stages from where there are few images; `compress run --quick` and
    changes to stages keep the recipe's own."""
    teacher: ModelSpec
    """The teacher's network."""
    student: ModelSpec
    """The student's network."""
    stages: tuple[Stage, ...]
    """The stages, in order: `teach`, `distill`, then `prune` and `finetune` in turns."""

    def budgets(self) -> dict[Axis, Amount]:
        """Return the budgets that are set; the result satisfies all of them.

        Raises:
            UserError: one is not understood.
        """
        return parse_budgets({key: getattr(self, key) for key in BUDGET_KEYS})

    def quick(self) -> Recipe:
        """Return a small version of the recipe to try out.

        It has at most `QUICK_IMAGES` images, a quarter of the epochs, and compiles nothing.
        """
        stages = tuple(
            replace(
                s,
                epochs=s.epochs and min(s.epochs, max(1, s.epochs // 4)),
                steps=s.steps and math.ceil(s.steps / 4),
                min_steps=math.ceil(s.min_steps / 4),
                compile=False,
            )
            if isinstance(s, Train)
            else s
            for s in self.stages
        )
        max_images = min(self.max_images or QUICK_IMAGES, QUICK_IMAGES)
        return replace(self, max_images=max_images, small_data=None, stages=stages)
