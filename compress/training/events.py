"""Events of training, reported while it runs. Subclass `Events` to receive them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


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

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        """Called after every epoch.

        Args:
            epochs: the number of epochs in all; 2.5 means three, the last one short.
            history: the metrics of each epoch so far: ``epoch``, ``loss``, every named loss,
                ``val`` (0 to 1) and ``seconds`` since the stage began.
        """

    def log(self, text: str) -> None:
        """Called with a line for the user, such as that a stage is resumed."""
