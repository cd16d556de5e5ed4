"""Kinds of stages and their keys: train, prune, quantize. Does not import torch.

The text under a key is its documentation, as in `compress.recipe.schema`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from compress.recipe.types import (
    Auto,
    Count,
    Crop,
    Epochs,
    Fraction,
    ImportanceName,
    Magnitude,
    MethodName,
    NotNegative,
    NumberOrZero,
    Positive,
)

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Augment:
    """Augmentation of the training images.

    One drawing of it for the whole training set is a *view*.

    Raises:
        ValidationError: a value is out of its range.
    """

    crop: Crop | None = (0.6, 1.0)
    """Range of the fraction of an image's area that a random crop keeps (Szegedy et al. 2015,
    arXiv:1409.4842)."""
    flip: bool = True
    """Mirror half of the images, chosen at random."""
    mixup: NotNegative = 0.0
    """Alpha of the Beta distribution of mixup (Zhang et al. 2017, arXiv:1710.09412); 0 is off."""
    cutmix: NotNegative = 0.0
    """Alpha of the Beta distribution of CutMix (Yun et al. 2019, arXiv:1905.04899); 0 is off."""
    mix_prob: Fraction = 1.0
    """Probability that a batch is mixed; mixup and CutMix have equal chances where both are on."""
    erase_prob: Fraction = 0.0
    """Probability that a random rectangle of an image becomes the mean colour (Zhong et al. 2017,
    arXiv:1708.04896)."""
    auto_augment: Literal["trivial", "rand"] | None = None
    """`trivial` for TrivialAugment (Müller and Hutter 2021, arXiv:2103.10158), `rand` for
    RandAugment (Cubuk et al. 2020, arXiv:1909.13719); left out, there is neither."""
    magnitude: Magnitude = 9
    """Strength of RandAugment's two operations, 0 to 30."""
    color_jitter: Fraction = 0.0
    """Change brightness, contrast and saturation at random, each by at most this fraction."""

    @property
    def operates(self) -> bool:
        """True if images are changed one by one, by operations on their colours and shapes."""
        return self.auto_augment is not None or self.color_jitter > 0


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Train:
    """A stage that trains the teacher (`teach`) or the student (`distill`, `finetune`)."""

    kind: Literal["teach", "distill", "finetune"]
    """`teach` trains the teacher on the labels. `distill` trains a new student. `finetune` trains
    the student further, usually after a `prune` stage."""
    epochs: Epochs | None = None
    """Passes over the training images; 0.7 stops before the end of the first."""
    steps: Count | None = None
    """Length in optimizer steps, in place of `epochs`."""
    min_steps: NumberOrZero = 0
    """Train for at least this many optimizer steps, however few images there are."""
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Image size in this stage, relative to the recipe's. Small images make the first epochs of a
    big network affordable (progressive resizing)."""
    min_image_size: Count | None = None
    """Enlarge images to at least this side, in pixels. A network trained on photos of 224 pixels
    recognizes little in images of 48. Default: no minimum."""
    optimizer: Literal["sgd", "adamw", "muon", "auto"] = "sgd"
    """`sgd` with Nesterov momentum, `adamw`, or `muon` (orthogonal steps for convolutions, SGD for
    the rest). `auto` is `muon` for networks of up to 2 million trained parameters, nine tenths
    of them in convolutions with batch norms, that do not end in a convolution; for others it is
    `adamw`, with a fiftieth of `lr` and a hundredfold `weight_decay`."""
    lr: Positive = 0.1
    """Peak learning rate, reached after the warm-up; it then falls linearly to zero."""
    weight_decay: NotNegative = 5e-4
    """Weight decay of the weights; biases and normalizations have none."""
    warmup: Fraction = 0.2
    """Fraction of the steps in which the learning rate rises linearly from zero."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Smoothing of the labels in the cross-entropy."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights, which becomes the result; 0 keeps
    the last weights."""
    crop: Crop | None = (0.6, 1.0)
    """Range of the fraction of an image's area that a random crop keeps."""
    flip: Auto = "auto"
    """Mirror half of the images. `auto` mirrors the data sets that have names, except `mnist`. With
    your own data, nothing is mirrored until a network finds mirror images of the validation split
    as easy as the images themselves."""
    mixup: NotNegative = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: NotNegative = 0.0
    """Alpha of CutMix; 0 is off."""
    mix_prob: Fraction = 1.0
    """Probability that a batch is mixed, by mixup or CutMix with equal chances if both are on."""
    erase_prob: Fraction = 0.0
    """Probability that a random rectangle of an image is erased."""
    auto_augment: Literal["trivial", "rand"] | None = None
    """Random operations on each image: `trivial` for TrivialAugment, `rand` for RandAugment; left
    out, there are none."""
    magnitude: Magnitude = 9
    """Strength of RandAugment, 0 to 30."""
    color_jitter: Fraction = 0.0
    """Change brightness, contrast and saturation of each image, each by at most this fraction."""
    distill_from: Literal["teacher", "student", "previous"] = "teacher"
    """Network to distill from: the teacher; the distilled student as an assistant (Mirzadeh et al.
    2019, arXiv:1902.03393); or `previous`, the network as it was last trained. Right after a cut
    `previous` is the network before the cut; otherwise it is the same network (born again,
    Furlanello et al. 2018, arXiv:1805.04770). The last two need an earlier `prune` stage."""
    method: MethodName = "kd"
    """Distillation method. Each adds a loss of its own to the base, which is the cross-entropy
    with the labels and, by `alpha`, Hinton's KD."""
    temperature: Positive = 4.0
    """Temperature of the softmax in KD, DKD and channel-wise distillation."""
    alpha: Fraction | None = None
    """Weight of KD in the base, against the labels. Default: 0.5 for `kd` and `fitnets`, 0 for the
    other methods."""
    beta: Positive | None = None
    """Weight of the method's own loss. Default: its paper's."""
    taps: tuple[str, ...] = ()
    """Layers whose feature maps are compared: module paths that both networks have, or pairs
    `teacher=student`. Default: the stages of residual networks, else the last layer at each
    resolution."""
    fade: bool = False
    """Let `alpha` fall linearly to zero over the stage."""
    stop_at_teacher: bool = False
    """Train on labels only once the student's validation accuracy reaches the teacher's
    (early-stopped KD, Cho and Hariharan 2019, arXiv:1910.01348). A student that was better when it
    was last trained does not distill at all."""
    views: Annotated[int, Field(ge=0)] = 0
    """Number of views that distilling epochs cycle through. The teacher sees each view once; its
    logits are cached as long as there is room. 0 draws a new view every epoch, and the same ones
    in every stage that augments alike."""
    freeze: Literal["backbone"] | None = None
    """`backbone` trains only the head; everything else, running statistics included, stays as it
    is."""
    compile: Auto = "auto"
    """Run the network through `torch.compile`. `auto` measures whether that finishes the stage
    sooner. It changes only the speed and the last digits, so a resumed run may change it."""

    @property
    def length(self) -> float:
        """The length in epochs, once the recipe is fitted to its data."""
        if self.epochs is None:
            raise ValueError("the stage has no length in epochs yet")
        return self.epochs

    def augment(self, mirrors: bool) -> Augment:
        """Return the stage's augmentation; `mirrors` is what ``flip = "auto"`` stands for."""
        keys = {key: getattr(self, key) for key in Augment.__dataclass_fields__}
        return Augment(**keys | {"flip": mirrors if self.flip == "auto" else self.flip})


# The discriminator of the stages is required, although the Python class has a default.
@dataclass(
    frozen=True,
    kw_only=True,
    config=ConfigDict(**CONFIG, json_schema_extra={"required": ["kind"]}),
)
class Prune:
    """A stage that prunes to its round's target.

    The targets are spaced evenly in ratio, from the student's cost to the budget.
    """

    kind: Literal["prune"] = "prune"
    """`prune` makes the network smaller, to this round's target."""
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Image size at which the network was last trained, relative to the recipe's."""
    mode: Literal["channels", "weights"] = "channels"
    """`channels` removes whole channels: the network becomes smaller and faster. `weights` sets
    single weights to zero: exactly the budget is left, at the same size and speed."""
    importance: ImportanceName = "taylor"
    """Score by which channels or weights are ranked."""
    samples: Count = 2048
    """Training images on which the importance and the batch norms are measured."""
    round_to: Count = 1
    """Keep widths multiples of this where the budget allows it; processors are faster at 8 or
    16."""


@dataclass(
    frozen=True,
    kw_only=True,
    config=ConfigDict(**CONFIG, json_schema_extra={"required": ["kind"]}),
)
class Quantize:
    """A last stage that also writes the network as int8, for onnxruntime.

    A budget in bytes is then one on the int8 file.
    """

    kind: Literal["quantize"] = "quantize"
    """`quantize` writes the network as int8, `model.int8.onnx` beside `model.pth`: static and per
    channel, calibrated on training images. It needs the extra `onnx`, and is the last stage."""
    scale: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Image size at which the network was last trained, relative to the recipe's."""
    max_drop: NotNegative | None = None
    """Points of validation accuracy that int8 may lose; the run stops if it loses more. Default:
    no limit."""
    finetune: bool | None = None
    """Fine-tune the network for int8: a copy of it learns to give the network's own logits in spite
    of the rounding, on the training images. Default: if more than 0.3 points are lost without."""


Stage = Annotated[Train | Prune | Quantize, Field(discriminator="kind")]

# The dataclass that holds a stage's keys, by kind.
STAGE_TYPES: dict[str, type[Train] | type[Prune] | type[Quantize]] = {
    "teach": Train,
    "distill": Train,
    "prune": Prune,
    "finetune": Train,
    "quantize": Quantize,
}
