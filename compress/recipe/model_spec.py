"""What a network is before it is built: a name and a few choices. Free of torch, so that recipes can be read fast."""

from dataclasses import dataclass
from typing import Literal

Stem = Literal["imagenet", "half", "small"]
STEMMED = ("resnet", "resnext", "wide_resnet", "efficientnet")  # how the names of networks begin that have stems


@dataclass(frozen=True)
class Network:
    """A network to be built: what a recipe says of it, and what a weights file remembers.

    `name` is one of torchvision's classification models or of `compress.models.zoo`, or
    ``package.module:function`` for a person's own (called with ``num_classes=N``). `stem` is how a residual network
    begins: ``imagenet`` (7×7 stride 2, then max-pool), ``half`` (3×3 stride 2) or ``small`` (3×3 stride 1): the last
    two for small images; an EfficientNet's is 3×3 stride 2, or ``small``. `pretrained` begins with torchvision's best
    weights, or with those of a name, as ``IMAGENET1K_V1``; the last layer is kept if the data has as many classes.
    `head` names the hidden widths of a perceptron in the place of the last layer (none: a linear layer); left out, that
    is of the network's own kind.
    """

    name: str
    stem: Stem = "imagenet"
    pretrained: bool | str = False
    head: tuple[int, ...] | None = None
