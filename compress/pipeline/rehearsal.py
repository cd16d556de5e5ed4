"""The rehearsal: everything that stages do to a network, once, before training is paid for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.data.dataset import Dataset
from compress.models import checkpoint
from compress.models.build import build_untrained, builder_of
from compress.models.checkpoint import Checkpoint
from compress.models.memory_format import note_format, to_channels_last
from compress.models.reuse import reusing_networks
from compress.pipeline.int8_size import int8_checkpoint, measure_int8_file
from compress.pipeline.step import Step
from compress.pruning.importance import score_units
from compress.pruning.structure import Structure
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import IMPORTANCES
from compress.recipe.schema import Recipe
from compress.runtime.errors import UserError, one_line
from compress.training.forward import make_forward
from compress.training.task import Task

# Images of a rehearsal. A batch norm cannot be trained on fewer.
BATCH = 2


def rehearse_training(steps: Sequence[Step], data: Dataset, task: Task) -> None:
    """Train each network for one step at each image size that its stages use.

    torchvision's networks are known to train.

    Raises:
        UserError: a network cannot be trained on such images; it names the network.
    """
    tried = {(step.network.name, step.input_size): step for step in steps if step.train}
    for step in tried.values():
        if step.trained is None and step.network.source != "torchvision":
            model = build_untrained(step.network, len(data.classes), step.input_size)
            _train_once(model, step.input_size, f"network {step.network.name!r}", task)


def rehearse_cut(
    steps: Sequence[Step], data: Dataset, student: nn.Module, cut: nn.Module, task: Task
) -> None:
    """Score the channels of the student; train, save and load a copy that is cut already.

    Args:
        student: the network to prune; it is not changed.
        cut: the student after a cut; it is.

    Raises:
        UserError: any of it fails.
    """
    last = [step for step in steps if step.prune and step.prune.mode == "channels"][-1]
    spec, size = last.network, steps[-1].input_size
    named = f"network {spec.name!r}"
    # torch-pruning scores by magnitude, without gradients, whenever it traces.
    if last.prune and IMPORTANCES.load(last.prune.importance).gradients != "none":
        _score(student, size, last.prune.importance, named, task)
    _save_and_load(cut, spec, size, data)
    if spec.source != "torchvision":
        note_format(cut, size)
        _train_once(cut, size, f"{named}, once it is cut,", task)


def rehearse_quantization(
    recipe: Recipe, steps: Sequence[Step], data: Dataset, model: nn.Module
) -> None:
    """Write the student as int8 once, where a last stage quantizes it.

    torchvision's networks and our own are known to be exported.

    Raises:
        UserError: it cannot be exported.
    """
    spec = steps[-1].network
    if not steps[-1].quantize or spec.source in ("torchvision", "zoo"):
        return
    try:
        measure_int8_file(int8_checkpoint(recipe, steps, data, model))
    except UserError as error:
        raise UserError(f"network {spec.name!r} cannot be quantized: {error}") from error


def _train_once(model: nn.Module, size: tuple[int, int, int], named: str, task: Task) -> None:
    """Run a training step without an update, as the trainer does, and a step of evaluation."""
    loss = _make_loss(size, task)
    try:
        with torch.random.fork_rng(devices=[]):
            model = to_channels_last(model).requires_grad_(True)
            torch.autograd.backward(loss(model.train()))
            with torch.no_grad():
                loss(model.eval())
    # A network may raise anything.
    except Exception as error:
        raise UserError(
            f"{named} cannot be trained on images of {size[1]}×{size[2]} pixels: {one_line(error)}"
        ) from error
    finally:
        model.zero_grad(set_to_none=True)


def _score(
    model: nn.Module, size: tuple[int, int, int], importance: str, named: str, task: Task
) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            structure = Structure(copy.deepcopy(model), torch.zeros(1, *size))
            score_units(importance, structure, [_make_loss(size, task)])
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{named}: importance {importance!r} cannot score its channels: {one_line(error)}"
        ) from error


def _save_and_load(
    model: nn.Module, spec: ModelSpec, size: tuple[int, int, int], data: Dataset
) -> None:
    """Check that a network comes back from its weights file with the same logits."""
    channels = size[0]
    kept = Checkpoint(
        model,
        replace(spec, weights=None),
        data.classes,
        size,
        (0.0,) * channels,
        (1.0,) * channels,
        data.name,
        labels=data.labels,
    )
    builder = builder_of(spec)
    images = torch.rand(BATCH, *size, generator=torch.Generator().manual_seed(0))
    try:
        # Built once more: another process will not have this network to copy.
        with torch.random.fork_rng(devices=[]), torch.no_grad(), reusing_networks(False):
            loaded = checkpoint.from_dict(checkpoint.to_dict(kept), builder).model
            same = torch.allclose(loaded(images), model.eval()(images), atol=1e-5, equal_nan=True)
    except Exception as error:
        raise UserError(
            f"network {spec.name!r} cannot be loaded after a cut: {one_line(error)}"
        ) from error
    if not same:
        raise UserError(
            f"network {spec.name!r} has other logits when it is loaded after a cut: it keeps values"
            " outside of its parameters and buffers, or builds itself by chance"
        )


def _make_loss(size: tuple[int, int, int], task: Task) -> Callable[[nn.Module], Tensor]:
    """Return a function from a model to its loss on two random images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, *size, generator=generator)

    def loss(model: nn.Module) -> Tensor:
        return task.label_loss(make_forward(model)(images), task.example_labels(BATCH, size[1]))

    return loss
