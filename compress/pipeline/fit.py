"""The short way: a module and data in, a smaller module out."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from compress.pipeline.run import run


def fit(
    model: nn.Module | str,
    train: Any,
    val: Any = None,
    *,
    budget: str | int | None = None,
    recipe: Any = "default",
    out: str | Path | None = None,
    **keys: Any,
) -> nn.Module:
    """Compress a module to a budget, and return the smaller one.

    It is pruned and trained as a recipe says. A module that is trained already is its own teacher;
    one that is not is trained first, from its present weights.

    Args:
        model: classifies images (B, C, H, W), C = 1 or 3, by logits (B, classes); it is copied, not
            changed. Or the name of a network.
        train: training images with labels: a torch Dataset or DataLoader, arrays (images, labels),
            or a Hugging Face dataset.
        val: validation images, alike; a tenth of the training images if left out.
        budget: parameters, as ``100k``, or ``10%`` of the model's.
        out: the run directory, in which the same call resumes; a temporary one if left out.
        keys: what `run` takes, as ``epochs=5``, ``macs="5M"`` or ``callbacks={"log": print}``.

    Returns:
        The network, a plain module on the CPU, in evaluation mode. Its images are normalized as
        `run` says with `mean` and `std`, by the training images' values if these are left out;
        ``run(…).load()`` tells.

    Raises:
        UserError: as `run`.

    Example:
        >>> small = compress.fit(model, (images, labels), budget="10%")
        >>> small(torch.zeros(1, 3, 28, 28)).shape
        torch.Size([1, 10])
    """
    data = train if val is None else (train, val)
    arguments = {"student": model, "data": data, "budget": budget, **keys}
    if out is not None:
        return run(recipe, out=out, **arguments).module
    with TemporaryDirectory(prefix="compress-") as folder:
        return run(recipe, out=Path(folder) / "run", **arguments).module
