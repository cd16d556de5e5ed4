"""Provenance: the origin of a run's networks, as their weights files record it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from compress.data.dataset import Dataset
from compress.data.source import Normalization
from compress.models.checkpoint import Checkpoint
from compress.models.modules import published_spec
from compress.pipeline.run_dir import StageResult
from compress.pipeline.step import Step
from compress.recipe.load import recipe_to_dict
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe
from compress.runtime.device import device_name, package_versions

# Fields of each stage's result that a weights file records.
RESULT_KEYS = ("name", "params", "macs", "val", "test", "seconds", "epochs")


def describe_origin(
    recipe: Recipe, checksum: str, device: torch.device, results: Sequence[StageResult]
) -> dict[str, object]:
    """Return the origin stored in a weights file: recipe, device, versions, data and results.

    Args:
        checksum: checksum of the training images.
    """
    return {
        # In the types of JSON, as in run.json.
        "recipe": json.loads(json.dumps(recipe_to_dict(recipe))),
        "device": device_name(device),
        "versions": package_versions(),
        "data_checksum": checksum,
        "stages": [{key: getattr(result, key) for key in RESULT_KEYS} for result in results],
    }


def build_checkpoint(
    model: nn.Module, step: Step, data: Dataset, origin: dict[str, object]
) -> Checkpoint:
    """Return a step's model with everything that is needed to use it."""
    if step.trained is not None:
        return replace(step.trained, network=published_spec(step.trained.network))
    kept = make_checkpoint(model, published_spec(step.network), data, step.channels)
    return replace(kept, input_size=step.input_size, origin=origin, sparse=step.sparse)


def make_checkpoint(
    model: nn.Module,
    spec: ModelSpec,
    data: Dataset,
    channels: int,
    normalization: Normalization | None = None,
) -> Checkpoint:
    """Return a model as a checkpoint that sees images as `data` shows them.

    Args:
        channels: input channels of the model.
        normalization: the data's if left out.
    """
    mean, std = normalization or (data.mean, data.std)
    return Checkpoint(
        model=model,
        network=spec,
        classes=data.classes,
        input_size=(channels, data.image_size, data.image_size),
        mean=mean[:channels],
        std=std[:channels],
        data=data.name,
        crop_ratio=data.crop_ratio,
        background=data.background,
        labels=data.labels,
    )


def largest_checkpoint(
    recipe: Recipe, steps: Sequence[Step], data: Dataset, model: nn.Module
) -> Checkpoint:
    """Return the largest final checkpoint that `model` can get, to measure its file.

    Its results are as long as they can become. No image is read: checksum and normalization are
    placeholders of the same length.
    """
    longest = StageResult(
        "", "finetune", "", 2**40, 2**40, val=0.5, seconds=0.5, checkpoint="", epochs=0.5, test=0.5
    )
    results = [replace(longest, name=step.name) for step in steps]
    origin = describe_origin(recipe, "0" * 64, torch.device("cpu"), results)
    last = replace(steps[-1], trained=None, sparse=False)
    return build_checkpoint(model, last, data.normalized((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), origin)
