"""Model cards in the form of Hugging Face: what a weights file says about itself, and no more.

The form is https://huggingface.co/docs/hub/model-cards: YAML, then Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml

from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pipeline.manifest import MANIFEST, StageResult, read_results
from compress.recipe.budget import Cost
from compress.recipe.in_memory import is_in_memory
from compress.recipe.model_spec import ModelSpec
from compress.reporting.model_card.card_data import describe_data, hub_id, name_data, place_type
from compress.reporting.model_card.card_origin import (
    CardStage,
    describe_changes,
    describe_images,
    describe_training,
    escape_markdown,
    find_version,
    list_stages,
)
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy, format_bytes, format_duration, format_macs
from compress.runtime.errors import UserError
from compress.runtime.text import safe_block, safe_line

# Classes that a card lists.
SHOWN_CLASSES = 50


@dataclass(frozen=True)
class Words:
    """What a card calls a network that labels images, or pixels.

    Args:
        kind: the network, after an article.
        task: as the Hub knows it.
        metric: as the Hub knows it, and its name there.
        row: the metric in a table.
        tells: the beginning of the list of classes.
        limit: what it does with anything that is none of its classes.
        prediction: the expression that the example prints.
    """

    kind: str
    task: str
    metric: tuple[str, str]
    row: str
    tells: str
    limit: str
    prediction: str


WORDS = {
    "images": Words(
        "An image classifier",
        "image-classification",
        ("accuracy", "Top-1 accuracy"),
        "top-1 accuracy",
        "It tells",
        "Every image gets one of the {count} classes, also an image that shows none of them.",
        "prediction.top",
    ),
    "pixels": Words(
        "A network that labels the pixels of images",
        "image-segmentation",
        ("mean_iou", "mIoU"),
        "mIoU",
        "For each pixel, it tells",
        "Every pixel gets one of the {count} classes, also one that shows none of them.",
        "prediction.mask",
    ),
}
# What stages do to a network, in a card's words.
DONE = {"distill": "distilled", "prune": "pruned", "finetune": "fine-tuned"}


def make_card(
    checkpoint: Checkpoint, file: Path, log: Callable[[str], None] = lambda line: None
) -> str:
    """Return the model card of a weights file, in Markdown.

    Args:
        checkpoint: the content of the file.
        file: its path. If it lies in a run directory, the run's manifest is read too.
        log: called with a line if that manifest is not used.
    """
    origin, network, words = checkpoint.origin, checkpoint.network, WORDS[checkpoint.labels]
    cost = measure_cost(checkpoint.model, checkpoint.input_size, checkpoint.sparse)
    stages = list_stages(origin)
    # A network that was changed since has another accuracy.
    changed = "pruned" in origin or not stages or stages[-1].params != cost.params
    last = None if changed else stages[-1]
    result = None if last is None else _find_result(stages, file, log)
    title = f"{network.name} for {name_data(checkpoint.data)}"
    height, width = checkpoint.input_size[1:]
    content: str = _template().render(
        front=_front_matter(checkpoint, title, stages, last),
        title=title,
        network=network.name,
        made=_describe_making(checkpoint, stages),
        version=find_version(origin),
        words=words,
        model_table=_model_table(checkpoint, file, cost).as_markdown(),
        classes=len(checkpoint.classes),
        shown=checkpoint.classes[:SHOWN_CLASSES],
        data=describe_data(checkpoint.data),
        data_notes=describe_images(origin),
        training=describe_training(origin),
        stages_table=_stages_table(stages).as_markdown() if stages else "",
        changes=describe_changes(origin),
        metrics_table=_metrics_table(last, result, words).as_markdown() if last else "",
        tested=last is not None and last.test is not None,
        limits=_list_limits(checkpoint, last),
        file=json.dumps(file.name),
        builder=_describe_builder(network),
        grey=checkpoint.input_size[0] == 1,
        shorter=round(min(height, width) / checkpoint.crop_ratio),
        size=f"{width}×{height}",
        mean=", ".join(f"{value:.4g}" for value in checkpoint.mean),
        std=", ".join(f"{value:.4g}" for value in checkpoint.std),
    )
    return safe_block(re.sub(r"\n{3,}", "\n\n", content).rstrip() + "\n")


def _find_result(
    stages: list[CardStage], file: Path, log: Callable[[str], None]
) -> StageResult | None:
    """Return the last result of the run in whose directory the file lies, if it made the file."""
    if not (file.parent / MANIFEST).is_file():
        return None
    try:
        _, results = read_results(file.parent)
    except UserError as error:
        log(f"left out: {error}")
        return None
    results = [each for each in results if each.kind != "quantize"]
    if [(each.name, each.val) for each in stages] != [(each.name, each.val) for each in results]:
        log(f"left out: {file.parent / MANIFEST} is of another run")
        return None
    return results[-1]


def _front_matter(
    checkpoint: Checkpoint, title: str, stages: list[CardStage], last: CardStage | None
) -> str:
    """Return the metadata that the Hub reads, as YAML."""
    kinds, words = {stage.kind for stage in stages}, WORDS[checkpoint.labels]
    tags = {
        words.task: True,
        "pytorch": True,
        checkpoint.network.name: checkpoint.network.source != "custom",
        "knowledge-distillation": "distill" in kinds,
        "pruning": "prune" in kinds or "pruned" in checkpoint.origin,
    }
    known = hub_id(checkpoint.data)
    front: dict[str, Any] = {
        "library_name": "compress",
        "pipeline_tag": words.task,
        "tags": [name for name, holds in tags.items() if holds],
    }
    if known:
        front["datasets"] = [known]
    if last and last.test is not None:
        kind, name = words.metric
        front["metrics"] = [kind]
        data = {"name": name_data(checkpoint.data), "type": known or place_type(checkpoint.data)}
        scored = {
            "task": {"type": words.task},
            "dataset": data | {"split": "test"},
            "metrics": [{"type": kind, "name": name, "value": round(last.test, 4)}],
        }
        front["model-index"] = [{"name": title, "results": [scored]}]
    return str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True))


def _describe_making(checkpoint: Checkpoint, stages: list[CardStage]) -> list[str]:
    kinds = {stage.kind for stage in stages}
    made = [word for kind, word in DONE.items() if kind in kinds]
    return made + (["pruned without training"] if "pruned" in checkpoint.origin else [])


def _model_table(checkpoint: Checkpoint, file: Path, cost: Cost) -> Table:
    channels, height, width = checkpoint.input_size
    rows = [
        ["parameters", f"{cost.params:,}{' not zero' if checkpoint.sparse else ''}"],
        ["multiply-adds", f"{format_macs(cost.macs)} for one image"],
        ["file", format_bytes(file.stat().st_size)],
        ["images", f"{width}×{height}, {'grey' if channels == 1 else 'colour'}"],
    ]
    if checkpoint.temperature != 1:
        rows.append(["temperature", f"{checkpoint.temperature:.4g}, fitted to validation images"])
    return Table(["network", ""], rows, left=2)


def _stages_table(stages: list[CardStage]) -> Table:
    rows = [
        [
            stage.name,
            f"{stage.params:,}",
            format_macs(stage.macs),
            format_accuracy(stage.val),
            format_accuracy(stage.test),
            f"{stage.epochs:.4g}" if stage.epochs else "-",
            format_duration(stage.seconds),
        ]
        for stage in stages
    ]
    costs = ["parameters", "multiply-adds", "val %", "test %", "epochs", "time"]
    return Table(["stage", *costs], rows, left=1)


def _metrics_table(last: CardStage, result: StageResult | None, words: Words) -> Table:
    rows = [[words.row, format_accuracy(last.test), format_accuracy(last.val)]]
    if result and result.test_balanced is not None:
        balanced = (result.test_balanced, result.val_balanced)
        rows.append(["balanced accuracy", *map(format_accuracy, balanced)])
    return Table(["metric", "test %", "val %"], rows, left=1)


def _list_limits(checkpoint: Checkpoint, last: CardStage | None) -> list[str]:
    count = len(checkpoint.classes)
    lines = [WORDS[checkpoint.labels].limit.format(count=count)]
    if last:
        lines += [
            "Images unlike those of its training may be classified less accurately than that.",
            "Its metrics are of one run; another seed comes out a little differently.",
        ]
    if checkpoint.temperature == 1:
        lines.append("Its probabilities are not calibrated.")
    else:
        lines.append("Its probabilities are calibrated on validation images like those above.")
    if checkpoint.sparse:
        lines.append("Single weights are zero, which makes it smaller and not faster.")
    return lines


def _describe_builder(network: ModelSpec) -> str:
    """Return the argument of `compress.load` that builds a network, if it needs one."""
    if network.source != "custom":
        return ""
    if is_in_memory(network.name):
        return "model=module)  # a module of the same architecture, before any cut"
    return f"builder=function)  # {safe_line(network.name)}"


@cache
def _template() -> jinja2.Template:
    # Markdown is no HTML: what comes from the file goes through the filter `plain`.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = escape_markdown
    return environment.get_template("card.md")
