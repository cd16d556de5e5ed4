"""Steps: the stages of a plan, with all that is known about them before the run starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compress.models.checkpoint import Checkpoint
from compress.recipe.budget import Limits
from compress.recipe.model_spec import ModelSpec
from compress.recipe.stages import Prune, Quantize, Train
from compress.recipe.types import INT8


@dataclass(frozen=True)
class Step:
    """A stage of a plan.

    Args:
        kind: the stage's kind: ``teach``, ``distill``, ``prune``, ``finetune`` or ``quantize``.
        stage: the recipe's keys for it; None for a trained network that takes the place of a stage.
        network: the specification of its model.
        image_size: side of the images that its model takes, in pixels.
        trained: the network that takes the stage's place.
        origin: where that network comes from: its weights file, or its publisher.
        index: its position in the plan, counted from 0.
        name: its name in tables, as ``prune 2``.
        file: its weights file, relative to the run directory.
        target: the limits to prune to.
        teacher: index of the step whose model it distills from.
        sparse: True if single weights of its model have been pruned.
        channels: channels of the images that its model takes: 3, or 1 for grey ones.
        position: index of its stage in the recipe; None for a trained network.
    """

    kind: str
    stage: Train | Prune | Quantize | None
    network: ModelSpec
    image_size: int
    trained: Checkpoint | None = None
    origin: str = ""
    index: int = 0
    name: str = ""
    file: str = ""
    target: Limits | None = None
    teacher: int | None = None
    sparse: bool = False
    channels: int = 3
    position: int | None = None

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Size of the images that its model takes: (C, H, W)."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def train(self) -> Train | None:
        """The stage's keys, if it trains."""
        return self.stage if isinstance(self.stage, Train) else None

    @property
    def prune(self) -> Prune | None:
        """The stage's keys, if it prunes."""
        return self.stage if isinstance(self.stage, Prune) else None

    @property
    def quantize(self) -> Quantize | None:
        """The stage's keys, if it quantizes."""
        return self.stage if isinstance(self.stage, Quantize) else None

    @property
    def int8_file(self) -> str:
        """File of its int8 network, if it quantizes, relative to the run directory."""
        return str(Path(self.file).with_suffix(INT8))

    def describe(self, minutes: float | None) -> str:
        """Describe the step in a few words, for the terminal.

        Args:
            minutes: the run's time budget, if it has one.
        """
        if self.trained is not None:
            return f"{self.network.name}, trained: {self.origin}"
        if self.prune:
            return f"to {self.target}, {self.prune.mode} by {self.prune.importance}"
        if self.quantize:
            return "int8, static and per channel, calibrated on training images"
        if self.train is None:
            return self.network.name
        if minutes:
            return f"{self.network.name}, epochs fitted to {minutes:g} min in all"
        return (
            f"{self.network.name}, {self.train.length:.4g}"
            f" {'epoch' if self.train.length == 1 else 'epochs'}"
        )


def number_steps(steps: Sequence[Step]) -> list[Step]:
    """Give each step its index, name, file, teacher and sparsity.

    Steps of a kind that occurs more than once are numbered in their names.
    """
    kinds = [step.kind for step in steps]
    numbered: list[Step] = []
    sparse = False
    for index, step in enumerate(steps):
        repeated = kinds.count(step.kind) > 1
        name = f"{step.kind} {kinds[: index + 1].count(step.kind)}" if repeated else step.kind
        sparse = sparse or (step.prune is not None and step.prune.mode == "weights")
        numbered.append(
            replace(
                step,
                index=index,
                name=name,
                file=f"stages/{index + 1:02d}-{name.replace(' ', '-')}.pth",
                teacher=_find_teacher(steps, index),
                sparse=sparse,
            )
        )
    return numbered


def _find_teacher(steps: Sequence[Step], index: int) -> int | None:
    """Return the index of the step that the step at `index` distills from, if any."""
    train = steps[index].train
    if train is None or train.kind == "teach":
        return None
    if train.distill_from == "previous":
        return max(i for i in range(index) if not steps[i].prune)
    kind = "teach" if train.distill_from == "teacher" else "distill"
    return next((i for i in range(index) if steps[i].kind == kind), None)
