"""What a run's final network does with the test images, beside its teacher, for a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.deployment.load_model import choose_builder, load_model
from compress.models.checkpoint import Checkpoint
from compress.pipeline.manifest import StageResult
from compress.pipeline.run_dir import INT8_MODEL, MODEL
from compress.reporting.pages.facts import name_network
from compress.reporting.pages.seen_classes import compare_classes, see_classes
from compress.reporting.pages.seen_masks import compare_masks, see_masks
from compress.reporting.pages.seen_parts import Seen
from compress.runtime.errors import UserError

# How a network's answers are shown, and compared with another one's, by what it labels.
SEE: dict[str, tuple[Callable[..., tuple[Seen, Any]], Callable[..., Seen]]] = {
    "images": (see_classes, compare_classes),
    "pixels": (see_masks, compare_masks),
}


def see_images(
    path: Path,
    results: Sequence[StageResult],
    *,
    data: str | None = None,
    builders: Sequence[str] = (),
    device: str = "auto",
    log: Callable[[str], None] = lambda line: None,
) -> Seen:
    """Score the final network of the run in `path` on its test split, and its teacher beside it.

    A run without a teacher's file is compared with its student before the cuts, if there is one.

    Args:
        data: the data, if it has moved.
        builders: as for `compress.deployment.load_model.choose_builder`.
        log: called with a line on each network that is scored.

    Raises:
        UserError: the final network cannot be loaded, or the data is not available.
    """

    def load_network(file: Path, name: str) -> Checkpoint:
        known = load_model(file, choose_builder(file, builders))
        log(f"scoring {name} on the test split")
        return known

    # The scores of a run that quantizes are those of its int8 file.
    final = INT8_MODEL if results[-1].kind == "quantize" else MODEL
    known = load_network(path / final, "the final network")
    see, compare = SEE[known.labels]
    seen, found = see(known, data, device)
    other = _find_other(path, results)
    if other is None:
        return seen
    name = name_network(other)
    try:
        network = load_network(path / other.checkpoint, name)
        return compare(seen, found, known, (name, network), data, device)
    except UserError as error:
        return replace(seen, note=f"There is no comparison with {name}: {error}")


def _find_other(path: Path, results: Sequence[StageResult]) -> StageResult | None:
    """Return the teacher's result, or else the student's before its cuts, if its file is there."""
    kinds = ("teach", "distill") if len(results) > 1 else ()
    for kind in kinds:
        for result in results[:-1]:
            if result.kind == kind and (path / result.checkpoint).is_file():
                return result
    return None
