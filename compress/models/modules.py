"""Modules in memory: their fingerprints, the names that rebuild them, and their weights files.

A weights file holds no code, so a network must be built before its tensors are set. A module of a
torchvision network is recognized and needs nothing more. Any other one is built by copying a module
of the same architecture, which whoever loads the file passes.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from compress.data.labels import ClassNames, read_class_names
from compress.data.source import IMAGENET_NORMALIZATION, fit_channels
from compress.models import checkpoint
from compress.models.build import import_builder, skeleton
from compress.models.channels import input_channels
from compress.models.checkpoint import Checkpoint
from compress.models.outputs import refuse_probabilities, returns_logits_alone
from compress.models.plain_module import hold_copy
from compress.models.torchvision_networks import torchvision_names
from compress.recipe.in_memory import MEMORY, find_held, is_in_memory
from compress.recipe.model_spec import ModelSpec
from compress.runtime.arguments import (
    read_normalization,
    require_name,
    require_path,
    require_side,
)
from compress.runtime.errors import UserError, one_line


@dataclass(frozen=True)
class HeldModule:
    """A module in memory, as a function that builds networks: each is a copy with its weights.

    Args:
        module: a copy of its own, which nothing changes.
        published: a specification by which weights files name it, if it is recognized.
        input_size: (C, H, W) of its images, if that is known.
    """

    module: nn.Module
    published: ModelSpec | None = None
    input_size: tuple[int, int, int] | None = None

    def __call__(self, num_classes: int) -> nn.Module:
        # `skeleton` builds on the meta device, where a copy would lose its values.
        with torch.device("cpu"):
            return copy.deepcopy(self.module)


def fingerprint_module(module: nn.Module) -> str:
    """Return 12 hex digits of a SHA-256 of a module's layers and tensors."""
    digest = hashlib.sha256(f"{type(module).__qualname__} {module!r}".encode())
    for key, tensor in module.state_dict().items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous()
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def published_spec(spec: ModelSpec) -> ModelSpec:
    """Return the specification by which a weights file names a network.

    That of a module in memory is the one by which it is recognized, if it is.
    """
    if not is_in_memory(spec.name):
        return spec
    with suppress(UserError):
        held = find_held(spec.name)
        if isinstance(held, HeldModule) and held.published is not None:
            return held.published
    return spec


def recognize(module: nn.Module, classes: int, image_size: int) -> ModelSpec | None:
    """Find a specification that rebuilds `module`: of torchvision, or its importable class.

    A candidate is built, given the widths and tensors of the module, and compared: it must have the
    same layers and, for a random image, the same logits.

    Example:
        >>> recognize(torchvision.models.resnet18(num_classes=10), 10, 32).name
        'resnet18'
    """
    with torch.random.fork_rng(devices=[]), suppress(UserError):
        torch.manual_seed(0)
        channels = input_channels(module, image_size)
        for spec in _candidates(module):
            # A candidate may fail in any way.
            with suppress(Exception):
                if _rebuilds(spec, module, classes, (channels, image_size, image_size)):
                    return spec
    return None


def _candidates(module: nn.Module) -> Iterator[ModelSpec]:
    kind = type(module)
    if kind.__module__.startswith("torchvision.models."):
        import torchvision.models

        for name in torchvision_names():
            if torchvision.models.get_model_builder(name).__module__ == kind.__module__:
                yield ModelSpec(name)
    elif kind.__module__ != "__main__" and "." not in kind.__qualname__:
        imported = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None)
        if imported is kind and "num_classes" in inspect.signature(kind).parameters:
            yield ModelSpec(f"{kind.__module__}:{kind.__qualname__}")


def _rebuilds(spec: ModelSpec, module: nn.Module, classes: int, size: tuple[int, int, int]) -> bool:
    if any(map(_has_hooks, module.modules())):
        return False
    copied = copy.deepcopy(module).eval()
    paths = [path for path, _ in copied.named_modules()]
    if spec.source != "custom":
        if [path for path, _ in skeleton(spec, classes).named_modules()] != paths:
            return False
        builder = None
    else:
        place, _, name = spec.name.partition(":")
        builder = getattr(importlib.import_module(place), name)
    names = tuple(map(str, range(classes)))
    flat = ((0.0,) * size[0], (1.0,) * size[0])
    plain = checkpoint.to_dict(Checkpoint(copied, spec, names, size, *flat, ""))
    rebuilt = checkpoint.from_dict(plain, builder).model
    image = torch.rand(1, *size)
    with torch.inference_mode():
        return repr(rebuilt) == repr(copied) and torch.equal(rebuilt(image), copied(image))


def _has_hooks(module: nn.Module) -> bool:
    own = len(module._forward_hooks) - returns_logits_alone(module)
    return own > 0 or bool(module._forward_pre_hooks)


def save(
    model: nn.Module | Checkpoint,
    path: str | Path,
    *,
    classes: ClassNames | None = None,
    image_size: int = 224,
    mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
    std: Sequence[float] = IMAGENET_NORMALIZATION[1],
    network: str | ModelSpec | None = None,
    data: str = "",
) -> Checkpoint:
    """Write a weights file, of a checkpoint or of a plain module, completely or not at all.

    Args:
        model: a checkpoint, as `load` and `adopt` return it, which needs none of the arguments
            below; or a trained module: normalized images (B, C, H, W) to logits (B, classes), C = 1
            or 3. It may be pruned.
        path: the file.
        classes: names of the classes in the order of the logits, their number, or a mapping of
            names to numbers or of numbers to names.
        image_size: side in pixels of the images that it takes.
        mean, std: normalization by channel of its images, for pixels scaled to 0..1; a single value
            counts for all channels. ImageNet's if left out.
        network: a name that builds the network, as ``resnet18`` or ``package.module:function``. If
            left out, torchvision's networks and importable classes that take ``num_classes`` are
            recognized; a file of any other module loads by `load` with ``model=`` alone.
        data: name of the data that it was trained on.

    Returns:
        The checkpoint as it is in the file.

    Raises:
        UserError: the file would not load again: the module does not fit the network, the number
            of classes or the image size; or the folder cannot be written.

    Example:
        >>> module = torchvision.models.resnet18(num_classes=2)
        >>> compress.save(module, "pets.pth", classes=["cat", "dog"]).network.name
        'resnet18'
        >>> compress.load("pets.pth").classes
        ('cat', 'dog')
    """
    require_path(path, "path", "that of the file to write")
    if not isinstance(model, Checkpoint):
        model = to_checkpoint(model, classes, image_size, (mean, std), network, data)
    checkpoint.save(model, path)
    return model


def to_checkpoint(
    module: nn.Module,
    classes: ClassNames | None,
    image_size: int,
    normalization: tuple[Sequence[float], Sequence[float]],
    network: str | ModelSpec | None = None,
    data: str = "",
) -> Checkpoint:
    """Return the checkpoint of a plain module, after rebuilding it as a file will be.

    Raises:
        UserError: as `save`.
    """
    own = hold_copy(module, "save").eval()
    require_side(image_size)
    if network is not None and not isinstance(network, ModelSpec):
        require_name(network, "network", "'resnet18' or 'package.module:function'")
    if classes is None:
        raise UserError("save: classes= is missing; pass the names of the classes, or their number")
    names = read_class_names(classes)
    channels = input_channels(own, image_size)
    refuse_probabilities(own, (channels, image_size, image_size), f"save: {type(own).__name__}")
    spec = ModelSpec(network) if isinstance(network, str) else network
    spec = spec or recognize(own, len(names), image_size)
    builder = None if spec else HeldModule(own)
    if spec is not None and spec.source == "custom":
        builder = import_builder(spec.name)  # type: ignore[assignment]
    spec = replace(spec or ModelSpec(f"{MEMORY}{type(module).__name__}"), pretrained=False)
    mean, std = (fit_channels(each, channels) for each in read_normalization(*normalization))
    size = (channels, image_size, image_size)
    made = Checkpoint(own, spec, names, size, mean, std, data)
    try:
        return checkpoint.from_dict(checkpoint.to_dict(made), builder)
    # The network may raise anything.
    except Exception as error:
        raise UserError(
            f"save: {type(module).__name__} as {spec.name} with {len(names)} classes and images of"
            f" {image_size}×{image_size} pixels: {one_line(error)}"
        ) from error
