"""Registries: the names that recipes and flags accept, and where their objects are defined.

Every entry is a ``module:attribute`` string, so that a name can be checked without importing torch.
Other packages add entries through the entry-point groups ``compress.methods``,
``compress.importances``, ``compress.data``, ``compress.networks``, ``compress.formats``,
``compress.runtimes`` and ``compress.loggers``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from compress.recipe.in_memory import find_held, is_in_memory
from compress.runtime.errors import UserError, describe_type, did_you_mean, one_line, quote

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# First layers of a network; see `compress.recipe.model_spec.ModelSpec.stem`.
Stem = Literal["auto", "imagenet", "half", "pool", "small"]


@dataclass(frozen=True)
class Registry:
    """The names of one kind of object.

    A built-in entry takes precedence over a plug-in's of the same name.

    Args:
        kind: name of the kind in messages, as ``method``.
        group: entry-point group in which other packages register entries.
        builtin: name to ``module:attribute``.
        expected: class of the entries, as ``module:attribute``; functions if left out.
        parameter: name of a parameter that the functions take.

    Example:
        >>> "kd" in METHODS
        True
    """

    kind: str
    group: str
    builtin: Mapping[str, str]
    expected: str = ""
    parameter: str = ""

    def names(self) -> tuple[str, ...]:
        """Return the names of all entries, plug-ins last."""
        return tuple(dict.fromkeys([*self.builtin, *_plugins(self.group)]))

    def __contains__(self, name: object) -> bool:
        return is_in_memory(name) or name in self.builtin or name in _plugins(self.group)

    def check_name(self, name: str) -> str:
        """Return `name` if it is registered.

        Raises:
            UserError: it is not; the message suggests the closest name.
        """
        if name not in self:
            raise UserError(self.describe_unknown(name))
        return name

    def describe_unknown(self, name: str, *also: str) -> str:
        """Return a message that `name` is unknown, with the closest name and all known ones.

        Args:
            also: forms that are accepted besides the registered names, as ``folder:PATH``.
        """
        known = self.names()
        hint = did_you_mean(name, known)
        return f"unknown {self.kind} {quote(name)}{hint}; known: {', '.join([*known, *also])}"

    def load(self, name: str) -> Any:
        """Import and return the object registered as `name`.

        Raises:
            UserError: there is no such entry, or a plug-in cannot be imported or is something else.
        """
        self.check_name(name)
        if is_in_memory(name):
            return find_held(name)
        if name in self.builtin:
            return import_object(self.builtin[name])
        entry = _plugins(self.group)[name]
        try:
            found = entry.load()
        # A plug-in may fail in any way.
        except Exception as error:
            raise UserError(
                f"{self._describe_plugin(entry)} cannot be imported: {one_line(error)}"
            ) from error
        self._check_plugin(entry, found)
        return found

    def _check_plugin(self, entry: EntryPoint, found: Any) -> None:
        """Check that an entry point leads to what this registry holds."""
        if self.expected:
            kind = import_object(self.expected)
            if isinstance(found, kind):
                return
            inside = [key for key, each in _members(found).items() if isinstance(each, kind)]
            what = f"an object of type {kind.__name__} ({self.expected.partition(':')[0]})"
        else:
            if callable(found) and (not self.parameter or self.parameter in _parameters(found)):
                return
            inside = []
            what = "a function" + (f" that takes {self.parameter}" if self.parameter else "")
        remedy = f"write {entry.value}:{inside[0]}" if inside else f"let it name {what}"
        raise UserError(
            f"{self._describe_plugin(entry)} is {describe_type(found)}, not {what}; {remedy}"
        )

    def _describe_plugin(self, entry: EntryPoint) -> str:
        package = f" of the package {entry.dist.name}" if entry.dist is not None else ""
        return (
            f"{self.kind} {quote(entry.name)}: the plug-in {entry.value}, an entry point in"
            f" {self.group}{package},"
        )


def import_object(place: str) -> Any:
    """Import and return what lies at ``module:attribute``."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _members(found: Any) -> dict[str, Any]:
    return vars(found) if inspect.ismodule(found) else {}


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    # Built-in functions have no signature.
    except (ValueError, TypeError):
        return ()


@cache
def _plugins(group: str) -> dict[str, EntryPoint]:
    # Imported here because it costs as much as the rest of `compress --help`.
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=group)}


METHODS = Registry(
    "method",
    "compress.methods",
    {
        "labels": "compress.distillation.labels:METHOD",
        "kd": "compress.distillation.kd:METHOD",
        "dkd": "compress.distillation.dkd:METHOD",
        "channelwise": "compress.distillation.channelwise:METHOD",
        "simultaneous": "compress.distillation.simultaneous:METHOD",
        "stagewise": "compress.distillation.stagewise:METHOD",
        "fitnets": "compress.distillation.fitnets:METHOD",
        "attention": "compress.distillation.attention:METHOD",
        "fsp": "compress.distillation.fsp:METHOD",
        "overhaul": "compress.distillation.overhaul:METHOD",
    },
    expected="compress.distillation.method:Method",
)

IMPORTANCES = Registry(
    "importance",
    "compress.importances",
    {
        "magnitude": "compress.pruning.importance:MAGNITUDE",
        "taylor": "compress.pruning.importance:TAYLOR",
        "hessian": "compress.pruning.importance:HESSIAN",
        "bn-scale": "compress.pruning.importance:BN_SCALE",
        "lamp": "compress.pruning.importance:LAMP",
        "random": "compress.pruning.importance:RANDOM",
    },
    expected="compress.pruning.importance:Importance",
)

DATA_SOURCES = Registry(
    "data set",
    "compress.data",
    {
        "fashion-mnist": "compress.data.sources:fashion_mnist",
        "mnist": "compress.data.sources:mnist",
        "cifar10": "compress.data.sources:cifar10",
        "cifar100": "compress.data.sources:cifar100",
        "imagenette": "compress.data.sources:imagenette",
        "imagenette-320": "compress.data.sources:imagenette_320",
        "imagenette-160": "compress.data.sources:imagenette_160",
        "imagewoof": "compress.data.sources:imagewoof",
        "imagewoof-320": "compress.data.sources:imagewoof_320",
        "imagewoof-160": "compress.data.sources:imagewoof_160",
        "imagenet": "compress.data.sources:imagenet",
        "fashion-scenes": "compress.data.scenes:fashion_scenes",
        "oxford-pets": "compress.data.mask_sources:oxford_pets",
        "voc2012": "compress.data.mask_sources:voc2012",
        "camvid": "compress.data.mask_sources:camvid",
    },
)

NETWORKS = Registry(
    "network",
    "compress.networks",
    {
        "resnet10": "compress.models.zoo:resnet10",
        "resnet14": "compress.models.zoo:resnet14",
        "resnet18_flat": "compress.models.zoo:resnet18_flat",
        "resnet20": "compress.models.zoo:resnet20",
        "resnet26": "compress.models.zoo:resnet26",
        "resnext29_2x64d": "compress.models.zoo:resnext29_2x64d",
        "resnext29_8x64d": "compress.models.zoo:resnext29_8x64d",
        "resnext29_16x64d": "compress.models.zoo:resnext29_16x64d",
        "resnext29_32x8d": "compress.models.zoo:resnext29_32x8d",
        "densenet40_12": "compress.models.zoo:densenet40_12",
        "resnet10_concat": "compress.models.zoo:resnet10_concat",
        "resnet14_concat": "compress.models.zoo:resnet14_concat",
        "resnet18_concat": "compress.models.zoo:resnet18_concat",
        "resnet20_concat": "compress.models.zoo:resnet20_concat",
        "resnet26_concat": "compress.models.zoo:resnet26_concat",
        "resnet34_concat": "compress.models.zoo:resnet34_concat",
    },
    parameter="num_classes",
)

EXPORT_FORMATS = Registry(
    "export format",
    "compress.formats",
    {
        "onnx": "compress.deployment.onnx_format:FORMAT",
        "pt2": "compress.deployment.pt2_format:FORMAT",
        "openvino": "compress.deployment.openvino_format:FORMAT",
        "executorch": "compress.deployment.executorch_format:FORMAT",
        "litert": "compress.deployment.litert_format:FORMAT",
    },
)


# Runtimes in which the time of a network is measured; see `compress.deployment.runtimes.Runtime`.
RUNTIMES = Registry(
    "runtime",
    "compress.runtimes",
    {
        "onnx": "compress.deployment.runtimes:ONNX",
        "onnx-int8": "compress.deployment.runtimes:ONNX_INT8",
        "openvino": "compress.deployment.runtimes:OPENVINO",
        "torch": "compress.deployment.runtimes:TORCH",
    },
    expected="compress.deployment.runtimes:Runtime",
)


# Tools that log runs; see `compress.reporting.loggers.log_tool.LogTool`.
LOGGERS = Registry(
    "logger",
    "compress.loggers",
    {
        "tensorboard": "compress.reporting.loggers.tensorboard_log:TOOL",
        "mlflow": "compress.reporting.loggers.mlflow_log:TOOL",
        "wandb": "compress.reporting.loggers.wandb_log:TOOL",
        "trackio": "compress.reporting.loggers.trackio_log:TOOL",
    },
    expected="compress.reporting.loggers.log_tool:LogTool",
)
