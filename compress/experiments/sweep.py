"""Many budgets from one distilled student: each goes on from the network of the one above it, and the best teaches."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pipeline.events import RunEvents
from compress.pipeline.plan import make_plan
from compress.pipeline.run import RunResult, run
from compress.pipeline.run_dir import MANIFEST, MODEL, check_run_dir, read_results
from compress.recipe import load as recipes
from compress.recipe.budget import parse_descending
from compress.recipe.schema import Prune
from compress.reporting.tables import as_markdown
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.runtime.files import atomic_write, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Networks that others trained on the same data: name, parameters, test accuracy as they report it.
PUBLISHED = {
    "fashion-mnist": (
        ("2 conv layers", 100_000, 0.925),
        ("CNN", 113_000, 0.922),
        ("CNN, augmented", 500_000, 0.934),
        ("DenseNet-BC", 768_000, 0.954),
        ("CNN", 1_800_000, 0.932),
        ("ResNet18", 11_200_000, 0.949),
        ("ResNet50, fine-tuned", 23_500_000, 0.931),
        ("WRN-28-10", 36_500_000, 0.963),
    )
}


HEADINGS = ("budget", "parameters", "multiply-adds", "file", "val %", "test %")


@dataclass(frozen=True)
class Point:
    """What came of one budget."""

    budget: str
    result: RunResult

    @property
    def params(self) -> int:
        """As torchinfo counts them."""
        return self.result.results[-1].params

    @property
    def macs(self) -> int:
        """For one image."""
        return self.result.results[-1].macs

    @property
    def test(self) -> float:
        """Top-1 accuracy on the test split, 0 to 1."""
        return self.result.results[-1].test or 0.0


def sweep(
    recipe: str | Path,
    budgets: Sequence[str],
    *,
    out: str | Path,
    device: str = "auto",
    quick: bool = False,
    fresh: bool = False,
    events: RunEvents | None = None,
    **overrides: Any,
) -> list[Point]:
    """Run `recipe` for each of `budgets` (in parameters), the largest first, each in a directory of its own in `out`.

    The first run trains the teacher and distills the student; each of the others prunes the network that the one
    before it left. Their teacher is whichever network has the highest validation accuracy by then, and it is asked
    nothing that it was asked before, as far as there is room for answers. A sweep that was killed goes on where it
    stopped; what is there is not done again. After each budget, table and picture of those so far are `sweep.md`
    and `sweep.png` in `out`.

    Args:
        recipe, device, quick, fresh, events, overrides: as for `compress.pipeline.run.run`, for every run.

    Raises:
        UserError: a budget is no number, comes twice, or is out of reach, or where a run is to be there is something
            else; nothing has been trained by then. Or, later: a run failed.
    """
    distributed.require_single_process("a sweep")
    out, events = Path(out), events or RunEvents()
    ordered = parse_descending(budgets)
    last = recipes.load_recipe(str(recipe), overrides | {"budget": ordered[-1]})
    if any(isinstance(stage, Prune) and stage.mode == "weights" for stage in last.stages):
        raise UserError(
            "mode 'weights' is the end of a pipeline: what it leaves cannot be pruned further"
        )
    make_plan(
        last.quick() if quick else last, device
    )  # what is out of reach is said before the first is trained
    _check_places(out, ordered, fresh)
    points: list[Point] = []
    answers = out / ".answers"
    for number, text in enumerate(ordered, start=1):
        events.log(f"\nbudget {text} ({number} of {len(ordered)})")
        given = overrides | _given(points) | {"budget": text}
        done = run(
            recipe,
            out=out / text,
            device=device,
            quick=quick,
            fresh=fresh,
            answers=answers,
            events=events,
            **given,
        )
        points.append(Point(text, done))
        write_text(out / "sweep.md", as_markdown(HEADINGS, [cells(each) for each in points]))
        picture(points, PUBLISHED.get(last.data, ()), out / "sweep.png")
    shutil.rmtree(answers, ignore_errors=True)
    return points


def _given(points: Sequence[Point]) -> dict[str, Any]:
    """What a run takes over from those before it."""
    if not points:
        return {}
    given: dict[str, Any] = {"student.weights": str(points[-1].result.model)}
    results = [point.result for point in points]
    trained = [(result.results[-1], result.model) for result in results]
    taught = [
        (r, results[0].model.parent / r.checkpoint) for r in results[0].results if r.kind == "teach"
    ]
    if taught:
        best, file = max(taught + trained, key=lambda pair: pair[0].val)
        given |= {"teacher": {"name": best.network, "weights": str(file)}}
    return given


def _check_places(out: Path, ordered: Sequence[str], fresh: bool) -> None:
    """Refuse a directory in which something else lies than these runs, or, if not `fresh`, one that was begun below
    another budget than it would be now.

    Raises:
        UserError: there is such a file, directory or run.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, a sweep needs a directory")
    for text in ordered:
        check_run_dir(out / text)
    for above, text in itertools.pairwise(ordered):
        if not fresh and (out / text / MANIFEST).is_file():
            begun = read_results(out / text)[0].get("recipe", {}).get("student", {}).get("weights")
            if begun is None or Path(begun).resolve() != (out / above / MODEL).resolve():
                raise UserError(
                    f"{out / text}: begun from {begun or 'no other budget'}, not from {above}; choose another --out"
                )


def cells(point: Point) -> tuple[str, ...]:
    """A row of the table, under `HEADINGS`."""
    size, val = point.result.model.stat().st_size, point.result.results[-1].val
    counts = (f"{point.params:,}", f"{point.macs / 1e6:,.2f} M", f"{size / 1e3:,.0f} KB")
    return (point.budget, *counts, f"{100 * val:.2f}", f"{100 * point.test:.2f}")


def picture(
    points: Sequence[Point], published: Sequence[tuple[str, int, float]], file: Path
) -> None:
    """Accuracy against parameters and against multiply-adds, both on logarithmic axes, as a PNG."""
    with atomic_write(file) as stream:
        drawn(points, published).savefig(stream, format="png", dpi=120)


def drawn(points: Sequence[Point], published: Sequence[tuple[str, int, float]]) -> Figure:
    """What `picture` shows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    by_params, by_macs = figure.subplots(1, 2, sharey=True)
    accuracies = [100 * point.test for point in points]
    by_params.plot(
        [point.params for point in points], accuracies, "o-", color="tab:blue", label="this sweep"
    )
    by_macs.plot([point.macs for point in points], accuracies, "o-", color="tab:blue")
    for axes, of in ((by_params, "params"), (by_macs, "macs")):
        for point, accuracy, smaller in zip(
            points, accuracies, [*accuracies[1:], 0.0], strict=True
        ):
            place, side = (
                ((-5, 4), "right") if accuracy >= smaller else ((5, 4), "left")
            )  # off the line to the smaller
            at = (getattr(point, of), accuracy)
            axes.annotate(f"{accuracy:.1f}", at, place, textcoords="offset points", ha=side)
        axes.set_xscale("log")
        axes.margins(x=0.15, y=0.1)  # for the names
        axes.grid(alpha=0.3)
    if published:
        by_params.plot(
            [p for _, p, _ in published],
            [100 * a for *_, a in published],
            "x",
            color="tab:gray",
            label="published",
        )
        for name, params, accuracy in published:
            by_params.annotate(
                name,
                (params, 100 * accuracy),
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color="gray",
            )
    by_params.set(xlabel="parameters", ylabel="test accuracy, %")
    by_macs.set(xlabel="multiply-adds for one image")
    by_params.legend(loc="lower right")
    return figure
