"""Lines that a run prints: its header, its stages and its epochs. Nothing here prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compress.pipeline.manifest import StageResult
from compress.reporting.units import format_accuracy, format_duration, format_macs, name_score
from compress.runtime.text import safe_line
from compress.training.events import format_epoch

if TYPE_CHECKING:
    from compress.pipeline.run_start import RunStart

# Stages in a header's line that are named, before the rest is only counted; one is the test.
NAMED_STAGES = 7


def header_lines(run: RunStart) -> Iterator[tuple[str, str]]:
    """Yield the lines of a run's header: a word and what it stands for."""
    data = run.plan.data
    counts = [f"{count:,} {split}" for split, count in run.images.items()]
    yield "data", f"{data.name}: {_join(counts)} images of {data.image_size}×{data.image_size}"
    yield "classes", _describe_classes(run.classes, run.labelled)
    yield "networks", run.networks
    if run.budget:
        yield "budget", run.budget
    names = [*run.stages, "test"]
    yield "stages", _describe_stages([name.replace(" ", "\u00a0") for name in names])
    yield "device", run.device
    yield "time", _describe_time(run)
    yield "directory", str(run.out)


def _join(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _describe_classes(classes: dict[str, int], labelled: str) -> str:
    smallest, largest = min(classes.items(), key=_count), max(classes.items(), key=_count)
    if smallest[1] == largest[1]:
        return f"{len(classes):,}, of {smallest[1]:,} training {labelled} each"
    return (
        f"{len(classes):,}, of {smallest[1]:,} ({safe_line(smallest[0])})"
        f" to {largest[1]:,} ({safe_line(largest[0])}) training {labelled}"
    )


def _count(item: tuple[str, int]) -> int:
    return item[1]


def _describe_stages(names: list[str]) -> str:
    if len(names) <= NAMED_STAGES:
        return ", ".join(names)
    first = ", ".join(names[: NAMED_STAGES - 2])
    return f"{first}, … {names[-1]} ({len(names)} in all)"


def _describe_time(run: RunStart) -> str:
    about = "not known yet" if run.seconds is None else f"about {format_duration(run.seconds)}"
    if not run.results:
        return about
    return f"{about}; {format_duration(run.spent)} spent, {len(run.results)} stages done"


def stage_lines(result: StageResult, before: StageResult | None) -> Iterator[str]:
    """Yield one line or two about a finished stage: what it changed."""
    name = name_score("val", result.metric)
    val = f"{name} {format_accuracy(result.val)} %"
    done = format_duration(result.seconds)
    if before is None or before.network != result.network:
        yield f"{result.params:,} parameters, {format_macs(result.macs)} multiply-adds{_at(result)}"
        yield f"{val}, {done}"
        return
    if before.params != result.params:
        yield (
            f"{before.params:,} → {result.params:,} parameters"
            f" ({_change(before.params, result.params)}),"
            f" {_format_macs_change(before, result)}"
        )
    points = 100 * (result.val - before.val)
    val = f"{name} {format_accuracy(before.val)} → {format_accuracy(result.val)} %"
    yield f"{val} ({points:+.2f} points), {done}"


def _at(result: StageResult) -> str:
    return f" at {result.image_size} px" if result.image_size else ""


def _change(before: int, after: int) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else "new"


def _format_macs_change(before: StageResult, after: StageResult) -> str:
    if before.image_size != after.image_size:
        # For images of another size, other multiply-adds say nothing about the network.
        return f"{format_macs(after.macs)} multiply-adds{_at(after)}"
    sizes = f"{format_macs(before.macs)} → {format_macs(after.macs)} multiply-adds"
    return f"{sizes} ({_change(before.macs, after.macs)})"


def epoch_line(epochs: float, history: list[dict[str, float]]) -> str:
    """Return a line about the last epoch, with the time that the stage still takes."""
    last = history[-1]
    done = min(last["epoch"], epochs)
    left = last["seconds"] / done * (epochs - done)
    return (
        f"epoch {format_epoch(last['epoch'], epochs)}  loss {last['loss']:.3f}"
        f"  val {100 * last['val']:.2f} %"
        f"  {format_duration(last['seconds'])}, {format_duration(left)} left"
    )


def is_milestone(epochs: float, history: list[dict[str, float]]) -> bool:
    """Return True for the epochs that end a tenth of a stage: ten lines say enough in a file."""
    last = min(history[-1]["epoch"], epochs)
    before = history[-2]["epoch"] if len(history) > 1 else 0.0
    return int(10 * last / epochs) > int(10 * before / epochs) or last >= epochs
