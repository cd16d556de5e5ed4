"""Trials: the runs of an experiment. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compress.pipeline.run_dir import StageResult
from compress.recipe.schema import Recipe


@dataclass(frozen=True)
class Trial:
    """One run of an experiment: a row with one seed.

    Args:
        label: the keys that tell its row from the others, as text.
        recipe: its recipe, before another trial's teacher is put in.
        folder: its run directory.
        results: of its stages, once all of them are finished.
        error: one line, if it failed.
    """

    label: dict[str, str]
    recipe: Recipe
    folder: Path
    results: tuple[StageResult, ...] = ()
    error: str | None = None

    @property
    def seconds(self) -> float:
        """Duration of its stages without the teacher's, which may be another trial's."""
        return sum(result.seconds for result in self.results if result.kind != "teach")


def group_by_row(trials: list[Trial]) -> list[tuple[list[str], list[Trial]]]:
    """Group trials that differ only in their seeds; the values of its label stand for each row."""
    rows: dict[tuple[str, ...], list[Trial]] = {}
    for trial in trials:
        rows.setdefault(tuple(trial.label.values()), []).append(trial)
    return [(list(values), row) for values, row in rows.items()]
