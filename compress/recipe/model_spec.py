"""Model specifications: what a network is built from. Does not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from compress.recipe.registry import NETWORKS

Source = Literal["torchvision", "zoo", "custom"]
Stem = Literal["imagenet", "half", "small"]

# Families of networks that have a `stem`, by the beginning of their names.
FAMILIES_WITH_STEM = ("resnet", "resnext", "wide_resnet", "efficientnet")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class ModelSpec:
    """A network to build, as a recipe names it and a weights file remembers it.

    Example:
        >>> ModelSpec("resnet18", stem="small")
        >>> ModelSpec("mynets:build", source="custom")
    """

    name: str
    """A network of the source: `resnet50`; for `custom`, `package.module:function`."""
    stem: Stem = "imagenet"
    """First layers of a ResNet, ResNeXt or EfficientNet: `imagenet` (7×7 stride 2 and max-pool), `half`
    (3×3 stride 2) or `small` (3×3 stride 1); the last two suit small images."""
    pretrained: bool | str = False
    """Start from torchvision's best weights, or from the named ones, as `IMAGENET1K_V1`. The classifier is
    replaced unless the data has as many classes."""
    head: tuple[int, ...] | None = None
    """Hidden widths of a perceptron in place of the classifier; `[]` is one linear layer."""
    source: Source | None = None
    """`torchvision`; `zoo`, the networks of this package and of plug-ins; or `custom`, a function of yours
    that is called with `num_classes`. Inferred from the name if left out."""
    weights: str | None = None
    """Weights file of a trained network. Its training stage is then skipped."""

    def __post_init__(self) -> None:
        if self.source is None:
            object.__setattr__(self, "source", infer_source(self.name))


def infer_source(name: str) -> Source:
    """Return the source that a bare network name belongs to.

    Example:
        >>> infer_source("mynets:build")
        'custom'
    """
    if ":" in name:
        return "custom"
    return "zoo" if name in NETWORKS.names() else "torchvision"
