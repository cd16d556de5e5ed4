"""Does an allocation that knows the sensitivity of each channel group beat the default's?

    python benchmarks/sensitivity.py --budgets 100k,30k            # one cut, then fine-tuning
    python benchmarks/sensitivity.py --budgets 30k --rounds        # the three rounds of `adopted`

Three allocations cut the same network to the same budgets, and are fine-tuned alike:

- `today`: Taylor scores, and a factor for groups that have been narrowed already.
- `measured`: units are ranked by their Taylor scores, but what a group's units are worth together
  is measured: each group is cut alone, by several fractions, and the increase of the loss on
  training images is shared out among the units in between. No factor.
- `both`: the measured scores, with the factor.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from rich.console import Console
from torch import Tensor, nn

import compress
from compress.pruning import pruner
from compress.pruning.allocate import Allocation
from compress.pruning.analysis import count_removed
from compress.pruning.importance import Loss, score_units
from compress.pruning.snapshot import take_snapshot
from compress.pruning.structure import Structure
from compress.reporting.tables import Table
from compress.reporting.units import format_mean

FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9)
# Batches of training images on which the loss is measured.
BATCHES = 4
# Training images.
IMAGES = 6000
# One cut, and what follows it.
ONE_CUT: dict[str, Any] = {
    "title": "One cut, then fine-tuning",
    "teacher": {"name": "resnet18"},
    "student": {"name": "resnet18"},
    "stages": [
        {"kind": "distill", "epochs": 1},
        {"kind": "prune"},
        {"kind": "finetune", "epochs": 8, "optimizer": "muon", "ema": 0.99, "compile": False},
    ],
}


def measure_scores(
    name: str, structure: Structure, losses: Iterable[Loss] | None = None
) -> list[Tensor]:
    """Return a score for each unit of each group, as the increase of the loss without it."""
    assert losses is not None
    batches = list(losses)
    ranked = score_units(name, structure, batches)
    structure.model.zero_grad(set_to_none=True)
    restore = take_snapshot(structure.model, structure.graph)

    @torch.no_grad()
    def loss() -> float:
        model: nn.Module = structure.model
        return statistics.mean(float(each(model)) for each in batches[:BATCHES])

    before = loss()
    return [
        _share_out(scores, _measure_group(structure, number, scores, loss, restore), before)
        for number, scores in enumerate(ranked)
    ]


def _measure_group(
    structure: Structure,
    number: int,
    scores: Tensor,
    loss: Callable[[], float],
    restore: Callable[[], None],
) -> dict[int, float]:
    """Return the loss by the number of units of a group that are removed."""
    best = scores.argsort(descending=True, stable=True)
    found = {}
    for fraction in FRACTIONS:
        removed = count_removed(len(best), fraction)
        if removed and removed not in found:
            kept = [torch.arange(count) for count in structure.unit_counts()]
            kept[number] = best[: len(best) - removed]
            structure.prune(kept)
            found[removed] = loss()
            restore()
    return found


def _share_out(scores: Tensor, measured: dict[int, float], before: float) -> Tensor:
    """Return scores that add up to the measured increases, in the order of `scores`."""
    order, shared = scores.argsort(stable=True), torch.zeros_like(scores)
    done, level, slope = 0, before, 0.0
    for removed, value in measured.items():
        higher = max(value, level)
        slope = (higher - level) / (removed - done)
        shared[order[done:removed]] = slope
        done, level = removed, higher
    # The last units are worth at least as much as those before them.
    shared[order[done:]] = max(slope, 1e-9)
    # Among units that cost the same, the weakest goes first.
    return shared.clamp_min(1e-9) + 1e-12 * scores.argsort().argsort()


@contextmanager
def allocated(way: str) -> Iterator[None]:
    """Let cuts be allocated in one of the three ways."""

    def score(self: Allocation, i: int, width: int, units: int) -> float:
        removed = self.unit_counts[i] - width
        return float(sum(self.ranked[i][removed : removed + units]))

    scores = score_units if way == "today" else measure_scores
    factor = score if way == "measured" else Allocation.score
    with (
        mock.patch.object(pruner, "score_units", scores),
        mock.patch.object(Allocation, "score", factor),
    ):
        yield


@click.command(help=__doc__.split("\n")[0])
@click.option("-w", "--weights", default="weights/fashion-mnist-300k.pth", show_default=True)
@click.option("--budgets", default="100k,30k", show_default=True)
@click.option("--rounds", is_flag=True, help="Run the recipe `adopted`, in place of one cut.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option(
    "--out", default="runs/sensitivity", show_default=True, type=click.Path(path_type=Path)
)
def main(weights: str, budgets: str, rounds: bool, seeds: str, out: Path) -> None:
    torch.set_num_threads(1)
    recipe: Any = "adopted" if rounds else ONE_CUT
    options: dict[str, Any] = {"student": weights, "teacher": weights, "max_images": IMAGES}
    rows = []
    for budget in budgets.split(","):
        for way in ("today", "measured", "both"):
            cut, val, test = [], [], []
            for seed in map(int, seeds.split(",")):
                folder = out / f"{'rounds' if rounds else 'one'}-{budget}-{way}-{seed}"
                with allocated(way):
                    run = compress.run(recipe, out=folder, budget=budget, seed=seed, **options)
                last = run.results[-1]
                cut.append(next(r.val for r in reversed(run.results) if r.kind == "prune"))
                val.append(last.val)
                test.append(last.test or 0.0)
            scores = [format_mean(each) for each in (cut, val, test)]
            rows.append([budget, way, f"{last.params:,}", f"{last.macs:,}", *scores])
            click.echo(" ".join(rows[-1]))
    headings = ["budget", "allocation", "parameters", "multiply-adds", "val % after the last cut"]
    table = Table([*headings, "val %", "test %"], rows, left=2)
    Console().print(table.as_rich())


if __name__ == "__main__":
    main()
