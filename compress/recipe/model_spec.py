"""Model specifications: the network that is built for a role. Does not import torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from compress.recipe.registry import NETWORKS, Stem
from compress.runtime.errors import UserError, quote

Source = Literal["torchvision", "timm", "smp", "zoo", "custom"]

# The beginnings of names of timm's networks: its own, and those on the Hugging Face Hub.
TIMM_PREFIX, HUB_PREFIX = "timm:", "hf-hub:"
# The beginning of names of segmentation-models-pytorch's networks.
SMP_PREFIX = "smp:"

# Stems by the side of the largest images, in pixels, for which `auto` takes them.
AUTO_STEMS: dict[Stem, int] = {"small": 40, "pool": 112}

# Families of networks that have a `stem`, by the beginning of their names.
FAMILIES_WITH_STEM = ("resnet", "resnext", "wide_resnet", "efficientnet")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class ModelSpec:
    """A network to build, as a recipe names it and a weights file remembers it.

    Raises:
        ValidationError: a value has the wrong type, or the source does not suit the name.

    Example:
        >>> ModelSpec("resnet18", stem="small").source
        'torchvision'
        >>> ModelSpec("mynets:build").source
        'custom'
    """

    name: str
    """Name of the network: `resnet50`, `timm:NAME` or `hf-hub:OWNER/NAME` for one of timm's,
    `smp:ARCHITECTURE/ENCODER` for one of segmentation-models-pytorch's, or
    `package.module:function` for one of yours."""
    stem: Stem = "imagenet"
    """First layers of a ResNet, ResNeXt or EfficientNet: `imagenet` (7×7 stride 2 and max-pool),
    `half` (3×3 stride 2), `pool` (3×3 stride 1 and max-pool) or `small` (3×3 stride 1). The last
    three suit small images. An EfficientNet has 3×3 stride 1 with `small`, else stride 2. `auto` is
    `small` for images of up to 40 pixels, `pool` for up to 112, and `imagenet` for larger ones and
    for pretrained networks."""
    pretrained: bool | str = False
    """Start from the best weights of torchvision or timm, or from the named ones:
    `"IMAGENET1K_V1"`, or a tag of timm's. The classifier is replaced unless the data has as many
    classes. A function of yours gets this as its argument `pretrained`, if it has one."""
    head: tuple[int, ...] | None = None
    """Hidden widths of a perceptron in place of the classifier; `[]` is one linear layer."""
    source: Source | None = None
    """`torchvision`; `timm`; `smp`; `zoo`, the networks of this package and of plug-ins; or
    `custom`, a function of yours, called with `num_classes`; if its network has another number of
    logits, a new layer takes the place of the one that outputs them. Default: inferred from the
    name."""
    weights: str | None = None
    """Weights file of a trained network. The stage that would train it is skipped."""

    def __post_init__(self) -> None:
        inferred = infer_source(self.name)
        if self.source is None:
            object.__setattr__(self, "source", inferred)
        # A zoo's name may be torchvision's too.
        elif self.source != inferred and not {self.source, inferred} <= {"torchvision", "zoo"}:
            raise UserError(
                f"source {quote(self.source)} does not suit the name {quote(self.name)}; leave"
                " source out"
            )


def settle_stem(spec: ModelSpec, image_size: int) -> ModelSpec:
    """Return `spec` with the stem that ``auto`` stands for, given the side of the images in pixels.

    Example:
        >>> settle_stem(ModelSpec("resnet18", stem="auto"), 28).stem
        'small'
    """
    if spec.stem != "auto":
        return spec
    if spec.pretrained or spec.weights or not spec.name.startswith(FAMILIES_WITH_STEM):
        return replace(spec, stem="imagenet")
    fits = (stem for stem, largest in AUTO_STEMS.items() if image_size <= largest)
    return replace(spec, stem=next(fits, "imagenet"))


def infer_source(name: str) -> Source:
    """Return the source of a network from its name.

    Example:
        >>> infer_source("mynets:build")
        'custom'
    """
    if name.startswith((TIMM_PREFIX, HUB_PREFIX)):
        return "timm"
    if name.startswith(SMP_PREFIX):
        return "smp"
    if ":" in name:
        return "custom"
    return "zoo" if name in NETWORKS else "torchvision"
