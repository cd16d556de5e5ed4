"""Networks from model specifications: the one place where networks are built."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.models.head import find_other_head, replace_head, reset_classifier
from compress.models.memory_format import note_format
from compress.models.outputs import return_logits
from compress.models.placeholders import (
    has_lazy_parameters,
    has_unsaved_tensors,
    materialize,
    without_values,
)
from compress.models.plain_module import unwrap
from compress.models.reuse import call_builder, is_reusing
from compress.models.smp_networks import build_smp
from compress.models.stem import has_stem, replace_stem
from compress.models.timm_networks import build_timm, timm_config, timm_names
from compress.models.torchvision_networks import (
    OWN_NORMALIZATION,
    build_torchvision,
    count_published_classes,
    torchvision_names,
    weights_normalization,
)
from compress.recipe.in_memory import find_held, is_in_memory
from compress.recipe.model_spec import TIMM_PREFIX, ModelSpec, settle_stem
from compress.recipe.registry import NETWORKS
from compress.runtime.errors import (
    UserError,
    describe_type,
    did_you_mean,
    is_out_of_memory,
    one_line,
)
from compress.runtime.quiet import no_warnings

Builder = Callable[..., nn.Module]


def network_names() -> list[str]:
    """Return the names of all networks: torchvision's, the zoo's and those of plug-ins."""
    return [*torchvision_names(), *NETWORKS.names()]


# A size of images for which a stem is chosen that is not settled yet, in pixels.
UNKNOWN_SIZE = 224


def build(
    spec: ModelSpec,
    classes: int,
    builder: Builder | None = None,
    input_size: tuple[int, int, int] | None = None,
) -> nn.Module:
    """Build a network: images (B, 3, H, W) to logits (B, classes), or (B, classes, H, W) of pixels.

    The classifier has random weights, unless `has_pretrained_head` returns True. A network that
    returns more than logits, as auxiliary ones in training, returns the logits alone.

    Args:
        input_size: (C, H, W) of its images. They decide the shapes of lazy layers, and are tried
            in the memory format that trains fastest.
        builder: function to build a ``custom`` network with; imported from the specification's
            ``package.module:function`` if left out.

    Raises:
        UserError: the name is unknown, the stem or the head does not suit the network, or its
            pretrained weights are not available.

    Example:
        >>> build(ModelSpec("resnet18", stem="small"), classes=10)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    # A plan settles the stem by its images; until then, any that exists will do.
    spec = settle_stem(spec, UNKNOWN_SIZE)
    model = SOURCES[str(spec.source)](spec, classes, builder)
    if spec.source == "custom":
        _renew_head(model, spec, classes, builder, input_size)
    if spec.source != "torchvision":
        return_logits(model, classes)
    if input_size is not None and has_lazy_parameters(model):
        materialize(model, input_size)
    if input_size is not None and spec.source != "torchvision":
        note_format(model, input_size)
    return model


def build_untrained(
    spec: ModelSpec, classes: int, input_size: tuple[int, int, int] | None = None
) -> nn.Module:
    """Build a network with random weights, and leave the state of the random generator as it is.

    Args:
        input_size: as for `build`.
    """
    with torch.random.fork_rng(devices=[]):
        return build(replace(spec, pretrained=False), classes, input_size=input_size)


def skeleton(
    spec: ModelSpec,
    classes: int,
    builder: Builder | None = None,
    input_size: tuple[int, int, int] | None = None,
) -> nn.Module:
    """Build a network on the meta device: all shapes, no values and no random draws.

    Tensors that no weights file holds, such as a table of positions, do have their values.

    Args:
        builder, input_size: as for `build`.
    """
    spec = replace(spec, pretrained=False)
    if spec.source == "custom" and is_reusing():
        return without_values(build(spec, classes, builder, input_size))
    try:
        # A function that loads weights is told that they are not copied.
        with torch.device("meta"), no_warnings:
            model = build(spec, classes, builder, input_size)
        if not has_unsaved_tensors(model):
            return model
    # Some networks compute with tensors as they are built, and meta tensors have no values.
    except Exception as error:
        if isinstance(error, UserError) and spec.source != "custom":
            raise
    with torch.random.fork_rng(devices=[]):
        return without_values(build(spec, classes, builder, input_size))


def has_pretrained_head(spec: ModelSpec, classes: int) -> bool:
    """Return True if the network is pretrained for `classes` classes, with its classifier."""
    if not spec.pretrained or spec.stem != "imagenet" or spec.head is not None:
        return False
    if spec.source == "timm":
        return bool(timm_config(spec.name, spec.pretrained).num_classes == classes)
    original = spec.source == "torchvision" and spec.name not in OWN_NORMALIZATION
    return original and classes == count_published_classes(spec.name)


def pretrained_normalization(spec: ModelSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation, by channel, of the pretrained weights' images."""
    if spec.source == "timm":
        config = timm_config(spec.name, spec.pretrained)
        return tuple(config.mean), tuple(config.std)
    return weights_normalization(spec.name, spec.pretrained)


def import_builder(name: str) -> Builder:
    """Import ``package.module:function`` from an installed package or the current folder.

    Raises:
        UserError: it cannot be imported, or does not take ``num_classes``.
    """
    if is_in_memory(name):
        held: Builder = find_held(name)
        return held
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(f"network {name!r} is not a function{_suggest_name(name)}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        # A console script's path lacks the current folder.
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's module may fail in any way
        raise UserError(f"network {name!r} cannot be imported: {one_line(error)}") from error
    if not callable(found) or "num_classes" not in _parameters(found):
        raise UserError(f"network {name!r} must be a function that takes num_classes")
    return found  # type: ignore[no-any-return]


def builder_of(spec: ModelSpec) -> Builder | None:
    """Return the function that builds a custom network, None for one that is built by its name.

    Raises:
        UserError: as for `import_builder`.
    """
    return import_builder(spec.name) if spec.source == "custom" else None


def _suggest_name(name: str) -> str:
    """Return a hint at what an unknown name may mean."""
    if "." in name:
        return f" (for a function, write {':'.join(name.rsplit('.', 1))!r})"
    if (known := f"{TIMM_PREFIX}{name}") in (names := timm_names()):
        return did_you_mean(known, names)
    return did_you_mean(name, network_names())


def _build_torchvision(spec: ModelSpec, classes: int, builder: Builder | None) -> nn.Module:
    if spec.name not in torchvision_names():
        raise UserError(
            f"unknown network {spec.name!r}{_suggest_name(spec.name)};"
            " any torchvision model that classifies images or labels pixels will do, timm:NAME, and"
            " smp:ARCHITECTURE/ENCODER"
        )
    return _replace_ends(build_torchvision(spec.name, classes, spec.pretrained), spec, classes)


def _build_timm(spec: ModelSpec, classes: int, builder: Builder | None) -> nn.Module:
    return _replace_ends(build_timm(spec.name, classes, spec.pretrained), spec, classes)


def _build_smp(spec: ModelSpec, classes: int, builder: Builder | None) -> nn.Module:
    return _replace_ends(build_smp(spec.name, classes, spec.pretrained), spec, classes)


def _build_zoo(spec: ModelSpec, classes: int, builder: Builder | None) -> nn.Module:
    """Pass a registered builder the options that it takes; apply the others to its result."""
    registered: Builder = NETWORKS.load(spec.name)
    options: dict[str, Any] = {}
    if spec.stem != "imagenet":
        options["stem"] = spec.stem
    if spec.head is not None:
        options["head"] = spec.head
    if spec.pretrained:
        options["pretrained"] = spec.pretrained
    taken = {key: options[key] for key in options if key in _parameters(registered)}
    if spec.pretrained and "pretrained" not in taken:
        raise UserError(
            f"no pretrained weights of {spec.name!r} exist; leave `pretrained` out, or use resnet18"
        )
    try:
        model = registered(num_classes=classes, **taken)
    except Exception as error:  # a plug-in may fail in any way
        if isinstance(error, UserError | NotImplementedError) or is_out_of_memory(error):
            raise
        raise UserError(f"network {spec.name!r} cannot be built: {one_line(error)}") from error
    return _replace_ends(model, spec, classes, done=tuple(taken))


def _build_custom(spec: ModelSpec, classes: int, builder: Builder | None) -> nn.Module:
    if spec.stem != "imagenet" or spec.head is not None:
        raise UserError(f"network {spec.name!r} is custom: it takes neither a stem nor a head")
    function = builder or import_builder(spec.name)
    options = {"pretrained": spec.pretrained} if "pretrained" in _parameters(function) else {}
    try:
        model = call_builder(function, num_classes=classes, **options)
    except NotImplementedError:
        # `skeleton` handles what cannot be built without values.
        raise
    except Exception as error:  # the user's function may fail in any way
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise UserError(f"network {spec.name!r} cannot be built: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"network {spec.name!r} returns {describe_type(model)}; return a torch.nn.Module"
        )
    return _take_plain(model, spec.name)


def _take_plain(model: nn.Module, name: str) -> nn.Module:
    """Return a network that can be trained: without wrappers, in float32."""
    model = unwrap(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            f"network {name!r} is a TorchScript module; return the module that it was made from"
        )
    return model.float()


def _renew_head(
    model: nn.Module,
    spec: ModelSpec,
    classes: int,
    builder: Builder | None,
    input_size: tuple[int, int, int] | None,
) -> None:
    """Replace the head of a custom network that has trained weights for other classes, in place."""
    if has_lazy_parameters(model):
        return
    # A module in memory knows the size of its images.
    known = getattr(builder or import_builder(spec.name), "input_size", None)
    path = find_other_head(model, classes, input_size or known)
    if path is not None:
        reset_classifier(model, classes, path)


def describe_new_head(
    spec: ModelSpec, classes: int, input_size: tuple[int, int, int]
) -> str | None:
    """Say that the head of a custom network is replaced, or return None if it is not."""
    model = _build_custom(replace(spec, pretrained=False), classes, None)
    path = None if has_lazy_parameters(model) else find_other_head(model, classes, input_size)
    if path is None:
        return None
    old: Any = model.get_submodule(path)
    outputs = getattr(old, "out_features", None) or old.out_channels
    return (
        f"layer {path} is replaced by one of {classes} outputs, instead of {outputs}, with random"
        " weights"
    )


# The function that builds the networks of each source.
SOURCES: dict[str, Callable[[ModelSpec, int, Builder | None], nn.Module]] = {
    "torchvision": _build_torchvision,
    "timm": _build_timm,
    "smp": _build_smp,
    "zoo": _build_zoo,
    "custom": _build_custom,
}


def _replace_ends(
    model: nn.Module, spec: ModelSpec, classes: int, done: tuple[str, ...] = ()
) -> nn.Module:
    """Replace stem and head as `spec` says, except for what the builder has `done`; in place."""
    if spec.stem != "imagenet" and "stem" not in done:
        if not has_stem(model):
            raise UserError(
                f"stem {spec.stem!r} is for ResNets and EfficientNets, not for {spec.name!r}:"
                " leave it out"
            )
        replace_stem(model, spec.stem)
    if spec.head is not None and "head" not in done:
        replace_head(model, spec.head, classes)
    return model


def _parameters(function: Builder) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:  # built-in functions have no signature
        return ()
