"""Quantization of a weights file to int8: calibrated, compared, and timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.dataset import Dataset
from compress.deployment.description import Description
from compress.deployment.export import (
    BATCH_SIZE,
    default_out,
    describe_versions,
    load_source,
    network_logits,
    runner_logits,
)
from compress.deployment.formats import Runner, get_format
from compress.deployment.latency import measure_latencies
from compress.deployment.load_model import RuntimeModel
from compress.deployment.onnx_format import open_file, set_description, slim, to_onnx
from compress.deployment.prepare import prepare_network
from compress.deployment.samples import Samples, normalize, open_own_data, take_samples
from compress.models.checkpoint import Checkpoint
from compress.quantization.finetune import STEPS, finetune_for_int8
from compress.quantization.ranges import measure_ranges
from compress.quantization.static import quantize_static
from compress.runtime.checksum import ENTRY_BYTES, seal_file
from compress.runtime.errors import UserError
from compress.runtime.files import staged_files
from compress.training.task import Task, make_plain_task

if TYPE_CHECKING:
    import onnx

# Training images on which ranges of activations are measured, and others on which the best ranges
# are chosen.
CALIBRATION_IMAGES, CHOICE_IMAGES = 1024, 512
# Points of validation accuracy that may be lost before the network is fine-tuned, and how often.
TOLERATED_DROP, ROUNDS = 0.3, 3
# Most logits of images that choose; those of pixels are many.
CHOICE_LOGITS = 2**27
# Most validation images that are compared.
VALIDATION_IMAGES = 20_000
# Images by which both networks are timed.
TIMED_IMAGES = 200


@dataclass(frozen=True)
class Int8Network:
    """A network as int8, and how it compares with float32.

    Args:
        model: the ONNX model with its description.
        val, float_val: the task's score on the validation images, 0 to 1.
        seconds, float_seconds: median time for one image in onnxruntime, on one core.
        ranges: how ranges of activations were found: ``extremes``, ``average`` or a percentile.
        images: the validation images, in a few words.
        steps: of fine-tuning; 0 if the float32 network's own weights are rounded.
        metric: name of the score.
    """

    model: onnx.ModelProto
    val: float
    float_val: float
    seconds: float
    float_seconds: float
    ranges: str
    images: str
    steps: int = 0
    metric: str = "accuracy"

    @property
    def drop(self) -> float:
        """Points of validation accuracy lost, negative if some are gained."""
        return 100 * (self.float_val - self.val)

    def describe(self) -> str:
        """Describe accuracy and speed in one line."""
        ratio = self.float_seconds / self.seconds
        slower = "" if ratio >= 1 else "; SLOWER than float32 here: export to float32 instead"
        tuned = f", fine-tuned for int8 in {self.steps} steps" if self.steps else ""
        named = "" if self.metric == "accuracy" else f"{self.metric} "
        return (
            f"{named}{100 * self.val:.2f} % on {self.images}, float32 {100 * self.float_val:.2f} %"
            f" ({-self.drop:+z.2f} points){tuned}; one image {1e3 * self.seconds:.2f} ms on one"
            f" core, {ratio:.2f} times as fast as float32 in onnxruntime{slower}"
        )


def quantize(
    checkpoint: Checkpoint | str | Path,
    out: str | Path | None = None,
    *,
    uint8: bool = False,
    max_drop: float | None = None,
    finetune: bool | None = None,
    data: str | None = None,
    builder: Callable[..., nn.Module] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Int8Network:
    """Write a network as int8, an ONNX file; the weights file stays as it is.

    The quantization is static and per channel. Ranges of activations are measured on training
    images; validation images only tell what is lost. Where that is more than 0.3 points, a copy of
    the network is fine-tuned on training images to give the float32 network's logits as int8.

    Args:
        checkpoint: weights file, or its path.
        out: file to write; ``model.int8.onnx`` beside ``model.pth``, if left out.
        uint8, data, builder: as for `compress.export`.
        max_drop: most points of validation accuracy that may be lost; no limit if left out.
        finetune: fine-tune always, or never.
        log: takes lines for the user.

    Raises:
        UserError: `out` does not end in .onnx, the data is not available, ONNX cannot express the
            network, or more accuracy is lost than `max_drop`; nothing is written.

    Example:
        >>> compress.quantize("model.pth", max_drop=0.5).drop
        -0.05
    """
    form = get_format("onnx")
    out = Path(default_out(checkpoint, ".int8.onnx") if out is None else out)
    form.require_suffix(out)
    loaded, origin = load_source(checkpoint, builder)
    dataset = open_own_data(loaded, data)
    made = quantize_network(
        loaded,
        dataset,
        uint8=uint8,
        finetune=finetune,
        origin=origin | describe_versions(loaded, form),
        log=log,
    )
    check_drop(made, max_drop)
    save_int8(made, out)
    return made


def check_drop(made: Int8Network, max_drop: float | None) -> None:
    """Check that an int8 network has not lost too much.

    Raises:
        UserError: it has lost more than `max_drop` points.
    """
    if max_drop is not None and made.drop > max_drop:
        raise UserError(
            f"int8 loses {made.drop:.2f} points on {made.images} ({100 * made.float_val:.2f} to"
            f" {100 * made.val:.2f} %), more than max_drop = {max_drop:g}"
        )


def save_int8(made: Int8Network, out: str | Path) -> None:
    """Write an int8 network, completely or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    with staged_files(out) as path:
        path.write_bytes(made.model.SerializeToString())
        seal_file(path)


def quantize_network(
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    uint8: bool = False,
    finetune: bool | None = None,
    origin: dict[str, Any] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Int8Network:
    """Quantize a network, with ranges measured on training images of `dataset`.

    Args:
        uint8, finetune, log: as for `quantize`.
        origin: provenance in the file.

    Raises:
        UserError: an image cannot be read, or ONNX cannot express the network.
    """
    size = checkpoint.input_size
    task = make_plain_task(checkpoint.labels, len(checkpoint.classes))
    # A third of these chooses.
    most = 3 * max(CHOICE_LOGITS // math.prod(checkpoint.logits_shape), 1)
    training = take_samples(dataset, "train", min(CALIBRATION_IMAGES + CHOICE_IMAGES, most), size)
    validation = take_samples(dataset, "val", VALIDATION_IMAGES, size)
    _, description = prepare_network(checkpoint, uint8=uint8, grey=training.grey)
    described = replace(description, int8=True, origin=origin or {})
    float_val = _score(partial(network_logits, checkpoint), validation, task)
    expected = network_logits(checkpoint, _choice(training))

    def calibrated(network: Checkpoint, steps: int) -> Int8Network:
        model, ranges = _calibrate(network, training, expected, described)
        runner = _open(model)
        val = _score(partial(runner_logits, runner, checkpoint), validation, task)
        source, metric = validation.source, task.metric
        return Int8Network(model, val, float_val, 0, 0, ranges, source, steps, metric)

    tuned = checkpoint

    def finetuned(attempt: int) -> Int8Network:
        nonlocal tuned
        tuned = finetune_for_int8(checkpoint, tuned, dataset, seed=attempt)
        return calibrated(tuned, (attempt + 1) * STEPS)

    made = finetune_while_worse(calibrated(checkpoint, 0), finetuned, finetune, log)
    full = to_onnx(prepare_network(checkpoint, uint8=uint8, grey=training.grey)[0], description)
    # Else only classifiers are opened.
    set_description(full, description)
    ours, theirs = measure_latencies(
        [
            (RuntimeModel(_open(each).infer, description, uint8), description.input_size)
            for each in (made.model, full)
        ],
        TIMED_IMAGES,
    )
    return replace(made, seconds=ours, float_seconds=theirs)


def finetune_while_worse(
    made: Int8Network,
    finetuned: Callable[[int], Int8Network],
    finetune: bool | None,
    log: Callable[[str], None] = lambda line: None,
) -> Int8Network:
    """Return the most accurate of an int8 network and those fine-tuned until little is lost.

    Args:
        made: without fine-tuning.
        finetuned: maps the number of a round of fine-tuning, 0 for the first, to its network.
        finetune: True for one round at least, False for none.
    """
    for attempt in range(0 if finetune is False else ROUNDS):
        if made.drop <= TOLERATED_DROP and not (finetune and attempt == 0):
            break
        log(f"int8 loses {made.drop:.2f} points: fine-tuning for int8, {STEPS} steps")
        made = max(made, finetuned(attempt), key=lambda each: (each.val, each.steps))
    return made


def _calibrate(
    checkpoint: Checkpoint, training: Samples, expected: Tensor, description: Description
) -> tuple[onnx.ModelProto, str]:
    """Quantize with each kind of ranges, and return the best with the name of its ranges.

    Args:
        expected: logits of the float32 network on the `_choice` of the training images.
    """
    network, taken = prepare_network(checkpoint, uint8=description.uint8, grey=training.grey)
    full, choice = to_onnx(network, taken), _choice(training)
    images = _as_taken(_select(training, ~_chooses(training)), checkpoint, taken)
    best: tuple[float, onnx.ModelProto, str] | None = None
    for kind, ranges in measure_ranges(full, images).items():
        model = slim(quantize_static(full, ranges))
        set_description(model, description)
        found = runner_logits(_open(model), checkpoint, choice)
        divergence = float(
            F.kl_div(
                found.log_softmax(1),
                expected.log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
        )
        if best is None or divergence < best[0]:
            best = divergence, model, kind
    assert best is not None
    return best[1:]


def _chooses(training: Samples) -> Tensor:
    # Every third image chooses, so that both parts are spread over all classes.
    return torch.arange(len(training)) % 3 == 0


def _choice(training: Samples) -> Samples:
    return _select(training, _chooses(training))


def measure_int8_bytes(checkpoint: Checkpoint, origin: dict[str, Any] | None = None) -> int:
    """Return the size of a network's int8 file, in bytes; the values of its weights do not matter.

    Args:
        origin: provenance in the file.
    """
    network, description = prepare_network(checkpoint)
    model = slim(quantize_static(to_onnx(network, description), {}))
    set_description(model, replace(description, int8=True, origin=origin or {}))
    return int(model.ByteSize()) + ENTRY_BYTES


def _open(model: onnx.ModelProto) -> Runner:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return open_file(path, 1)


def _select(samples: Samples, rows: Tensor) -> Samples:
    return replace(samples, pixels=samples.pixels[rows], targets=samples.targets[rows])


def _as_taken(samples: Samples, checkpoint: Checkpoint, description: Description) -> NDArray[Any]:
    """Return images as the file takes them."""
    pixels = samples.pixels[:, : description.input_size[0]]
    return (pixels if description.uint8 else normalize(pixels, checkpoint)).numpy()


def _score(answer: Callable[[Samples], Tensor], samples: Samples, task: Task) -> float:
    """Return the score of logits, batch by batch: those of pixels are many."""
    parts = torch.split(torch.arange(len(samples)), BATCH_SIZE)
    batches = [_select(samples, rows) for rows in parts]
    counts = torch.stack([task.count(answer(each), each.targets) for each in batches])
    # As exact as a mean of float32.
    return torch.tensor(task.score(counts.sum(0))[0]).item()
