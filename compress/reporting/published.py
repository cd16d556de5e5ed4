"""Published results: accuracies that others report for their networks on the same data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published result.

    Args:
        name: of the network, as its authors call it.
        params: its parameters.
        accuracy: top-1 accuracy on the test split, 0 to 1, as they report it.
    """

    name: str
    params: int
    accuracy: float


# By data set. Most of Fashion-MNIST's are in the table of
# https://github.com/zalandoresearch/fashion-mnist#benchmark.
PUBLISHED = {
    "fashion-mnist": (
        Published("2 conv layers", 100_000, 0.925),
        Published("CNN", 113_000, 0.922),
        Published("CNN, augmented", 500_000, 0.934),
        Published("DenseNet-BC", 768_000, 0.954),
        Published("CNN", 1_800_000, 0.932),
        Published("ResNet18", 11_200_000, 0.949),
        Published("ResNet50, fine-tuned", 23_500_000, 0.931),
        Published("WRN-28-10", 36_500_000, 0.963),
    )
}
