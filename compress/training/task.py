"""Tasks: the encoding of targets, the loss on labels, the metric, and the shape of outputs.

The data decides: it has a class for each image, or masks, with a class for each pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from compress.data.balance import log_priors
from compress.data.dataset import Dataset
from compress.recipe.schema import Recipe
from compress.training.classification import Classification
from compress.training.segmentation import Segmentation


class Task(Protocol):
    """What a network learns. Tasks add up: counts of several batches are summed.

    Attributes:
        classes: the number of classes.
        labels: what has a class: ``images``, or ``pixels``.
        metric: name of the score in tables.
        class_metric: name of the score of one class.
    """

    @property
    def classes(self) -> int: ...

    @property
    def labels(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def class_metric(self) -> str: ...

    def check_recipe(self, recipe: Recipe) -> None:
        """Check that a recipe has no key that makes no sense for the task.

        Raises:
            UserError: it has one.
        """
        ...

    def encode_targets(self, targets: Tensor) -> Tensor:
        """Encode labels as the targets of training batches."""
        ...

    def class_numbers(self, targets: Tensor) -> Tensor:
        """Return the class of each target, int64."""
        ...

    def label_loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss of logits on targets: a scalar."""
        ...

    def predict(self, logits: Tensor) -> Tensor:
        """Return the most likely classes, int64."""
        ...

    def summarize(self, probabilities: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return what images show, of the probabilities of the classes.

        Returns:
            Numbers of the classes, 0 to 1, float32 (B, classes), that rank them; and the mask of
            each image, uint8 (H, W), or None if it has a single class.
        """
        ...

    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return what the score is made of, int64 (n, classes); counts of batches are added.

        The first two rows are what is right, and all there is, of each class.
        """
        ...

    def class_scores(self, counts: Tensor) -> Tensor:
        """Return the score of each class, float64 (classes,): NaN of classes that do not occur."""
        ...

    def score(self, counts: Tensor) -> tuple[float, float]:
        """Return the score, 0 to 1, of counts of all batches, and a second one beside it."""
        ...

    def chance(self, labels: Tensor) -> float:
        """Return the score of a network that always names the largest class, 0 to 1."""
        ...

    def describe(self, score: float, images: str) -> str:
        """Describe a score on images, as ``the 158 validation images``, in a sentence."""
        ...

    def output_shape(self, batch: int, side: int) -> tuple[int, ...]:
        """Return the shape of the network's output for a batch of images of `side` pixels."""
        ...

    def example_labels(self, batch: int, side: int) -> Tensor:
        """Return labels, class after class, for a batch of images of `side` pixels."""
        ...


def make_plain_task(labels: str, classes: int) -> Task:
    """Return the task of a trained network, with the plain loss.

    Args:
        labels: what has a class, ``images`` or ``pixels``, as weights files say.
    """
    kinds: dict[str, Callable[[int], Task]] = {"images": Classification, "pixels": Segmentation}
    return kinds[labels](classes)


def make_task(data: Dataset, recipe: Recipe | None = None) -> Task:
    """Return the task of a data set, with the loss that a recipe asks for."""
    classes = len(data.classes)
    if data.has_masks:
        return Segmentation(classes, recipe.dice if recipe else 0.0)
    if recipe is None or recipe.balance != "loss":
        return Classification(classes)
    priors = log_priors(data.train_images.targets, classes)
    return Classification(classes, tuple(priors.tolist()))
