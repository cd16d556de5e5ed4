"""Temperature scaling: probabilities that say how often a network is right.

After Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.deployment.load_model import RuntimeModel, load_model
from compress.models.checkpoint import Checkpoint, require_classifier
from compress.reporting.evaluation import compute_logits, name_images
from compress.runtime.errors import UserError

# Temperatures beyond these say that the images cannot tell: all are right, or none is by more than
# chance.
LEAST, MOST = 0.05, 20.0
# Each halves the range; in the end it is narrower than a ten-thousandth.
HALVINGS = 24


def calibrate(
    checkpoint: Checkpoint | str | Path,
    data: Any = None,
    *,
    device: str = "auto",
    builder: Callable[..., nn.Module] | None = None,
    skip_broken: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Checkpoint:
    """Fit a temperature to validation images, by which logits are divided for probabilities.

    The network stays as it is, and so do the most likely classes.

    Args:
        checkpoint: weights file, or its path. It does not change.
        data: name of a data set, or labelled images in memory, as for `compress.evaluate`; of a
            single split, all are used, so pass images that the network was not trained on.
        device: ``auto``, ``cpu`` or ``cuda``.
        builder: as for `compress.load`.
        skip_broken: leave out image files that cannot be read.
        log: called with each line worth showing.

    Returns:
        The checkpoint with the temperature.

    Raises:
        UserError: it is an exported file's, the data is not available, or no temperature fits.

    Example:
        >>> compress.save(compress.calibrate("model.pth"), "calibrated.pth")
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_model(checkpoint, builder)
    if isinstance(checkpoint.model, RuntimeModel):
        raise UserError("an exported file cannot be calibrated; calibrate its weights file first")
    require_classifier(checkpoint, "a temperature")
    found = compute_logits(
        checkpoint, data, split="val", device=device, skip_broken=skip_broken, log=log
    )
    images = name_images(checkpoint, data, len(found.targets), "val")
    temperature = fit_temperature(found.logits, found.targets, images)
    log(f"temperature {temperature:.4g}, fitted to {images}")
    return replace(checkpoint, temperature=temperature)


def fit_temperature(logits: Tensor, targets: Tensor, images: str = "") -> float:
    """Return the temperature at which the cross-entropy of probabilities is least.

    Args:
        logits: float32 (N, classes).
        targets: class numbers, int64 (N,).
        images: what they are, in a few words.

    Raises:
        UserError: the images determine none.
    """
    images = images or f"{len(targets):,} images"
    logits = logits.double()
    own = logits.gather(1, targets[:, None]).mean()

    def slope(scale: float) -> float:
        """Return the slope of the cross-entropy in 1 / temperature, in which it is convex."""
        expected = ((scale * logits).softmax(1) * logits).sum(1).mean()
        return float(expected - own)

    low, high = 1 / MOST, 1 / LEAST
    if not slope(high) > 0:
        raise UserError(
            f"no temperature fits: nearly all of the {images} are"
            " classified correctly; pass --data with more, or harder, images"
        )
    if not slope(low) < 0:
        raise UserError(f"no temperature fits: on {images}, the network is no better than chance")
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return round(1 / low, 4)
