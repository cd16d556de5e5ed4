"""Networks of segmentation-models-pytorch: ``smp:ARCHITECTURE/ENCODER``, as ``smp:unet/resnet18``.

The package is optional: ``pip install 'compress[segmentation]'``.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock

from compress.recipe.model_spec import SMP_PREFIX
from compress.runtime.errors import UserError, did_you_mean, one_line

# Encoders that the package does not have: this package's residual networks of basic blocks.
OWN_ENCODERS = {
    "resnet10": (1, 1, 1, 1),
    "resnet14": (1, 1, 2, 2),
    "resnet20": (2, 2, 3, 2),
    "resnet26": (3, 3, 3, 3),
}
WIDTHS = (3, 64, 64, 128, 256, 512)
# The weights of encoders that `pretrained = true` stands for.
ENCODER_WEIGHTS = "imagenet"


def build_smp(name: str, num_classes: int, pretrained: bool | str = False) -> nn.Module:
    """Build a network that labels pixels: images (B, 3, H, W) to logits (B, num_classes, H, W).

    Args:
        name: ``smp:ARCHITECTURE/ENCODER``. The encoders are those of the package, timm's, as
            ``tu-NAME``, and ``resnet10``, ``resnet14``, ``resnet20`` and ``resnet26``.
        pretrained: load weights of the encoder: those of ImageNet, or of this name.

    Raises:
        UserError: the package is not installed, there is no such network, or a download fails.

    Example:
        >>> build_smp("smp:unet/resnet10", 3)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """
    smp = _import_smp(name)
    architecture, slash, encoder = name.removeprefix(SMP_PREFIX).partition("/")
    known = smp.MODEL_ARCHITECTURES_MAPPING
    if not slash or architecture not in known:
        hint = did_you_mean(architecture, known)
        raise UserError(
            f"unknown network {name!r}{hint}: write {SMP_PREFIX}ARCHITECTURE/ENCODER, as"
            f" {SMP_PREFIX}unet/resnet18; architectures: {', '.join(sorted(known))}"
        )
    encoders = smp.encoders.encoders
    if encoder not in encoders and not encoder.startswith("tu-"):
        raise UserError(f"network {name!r}: unknown encoder{did_you_mean(encoder, encoders)}")
    weights = ENCODER_WEIGHTS if pretrained is True else (pretrained or None)
    if weights is not None and encoder in encoders:
        offered = encoders[encoder]["pretrained_settings"]
        if weights not in offered:
            some = f"choose from {', '.join(offered)}" if offered else "leave `pretrained` out"
            raise UserError(f"no pretrained weights {weights!r} of {encoder!r}: {some}")
    try:
        model: nn.Module = smp.create_model(
            architecture, encoder, encoder_weights=weights, classes=num_classes
        )
    # The package and its client of the Hub raise many types.
    except Exception as error:
        if isinstance(error, NotImplementedError):
            # `skeleton` handles what cannot be built without values.
            raise
        why = "its encoder's weights cannot be downloaded" if weights else "it cannot be built"
        raise UserError(f"network {name!r}: {why} ({one_line(error)[:120]})") from error
    return model


def _import_smp(name: str) -> Any:
    """Import the package, and register this package's encoders in it.

    Raises:
        UserError: it is not installed.
    """
    try:
        import segmentation_models_pytorch as smp
        from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
    except ImportError as error:
        raise UserError(
            f"network {name!r} needs segmentation-models-pytorch:"
            " pip install 'compress[segmentation]'"
        ) from error
    for encoder, layers in OWN_ENCODERS.items():
        smp.encoders.encoders.setdefault(
            encoder,
            {
                "encoder": ResNetEncoder,
                "pretrained_settings": {},
                "params": {
                    "out_channels": list(WIDTHS),
                    "block": BasicBlock,
                    "layers": list(layers),
                },
            },
        )
    return smp
