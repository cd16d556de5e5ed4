"""Events of training, reported while it runs. Subclass `Events` to receive them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

# Metrics of an epoch beside its named losses.
PLAIN_METRICS = ("epoch", "loss", "lr", "images_per_second", "val", "seconds")


def named_losses(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the named losses among the metrics of an epoch.

    Example:
        >>> named_losses({"epoch": 1, "loss": 0.5, "labels": 0.5, "val": 0.9, "seconds": 3.0})
        {'labels': 0.5}
    """
    return {name: value for name, value in metrics.items() if name not in PLAIN_METRICS}


def format_epoch(epoch: float, epochs: float) -> str:
    """Format the number of an epoch; a short last one counts as what it is.

    Example:
        >>> format_epoch(2, 80), format_epoch(1, 0.5), format_epoch(3, 2.5)
        ('2/80', '0.5/0.5', '2.5/2.5')
    """
    return f"{min(epoch, epochs):.4g}/{epochs:.4g}"


class Events:
    """Receives the events of training and ignores them; override what you need.

    Example:
        >>> class PrintLoss(Events):
        ...     def on_epoch_end(self, epochs, history):
        ...         print(history[-1]["loss"])
    """

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterable[T]:
        """Pass on `items`, of which there are `total`; a terminal draws a bar called `label`."""
        return items

    def on_train_start(self, epochs: float, steps: int, done: int) -> None:
        """Called before a network is trained.

        Args:
            epochs: the number of epochs in all; 2.5 means three, the last one short.
            steps: the number of optimizer steps in all.
            done: the steps among them that an earlier call has done.
        """

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        """Called after every epoch.

        Args:
            epochs: the number of epochs in all; 2.5 means three, the last one short.
            history: the metrics of each epoch so far: ``epoch``, ``loss``, every named loss, the
                last learning rate ``lr``, ``images_per_second`` in training, ``val`` (0 to 1) and
                ``seconds`` since the stage began.
        """

    def log(self, text: str) -> None:
        """Called with a line for the user, such as that a stage is resumed."""
