"""Compare `compress run` with a plain training script on few images, in equal processor time.

    python benchmarks/few_images.py --data folder:icons --image-size 64 --budget 50k
    python benchmarks/few_images.py --data fashion-mnist --max-images 1500 --budget 50k

For each seed, `compress run` runs in a process of its own, with one thread. Its processor time,
from its start to its end, is what the plain script then gets for its training alone: a narrow
ResNet18 from random weights, AdamW, one cycle of a cosine, random crops that torchvision cuts one
by one, smoothed labels, no mirroring. It trains on the validation images too, unless `--max-images`
leaves more of them than there are training images. Processor time does not depend on what else the
machine does, and with one thread it is the time that an idle core takes.

The result of each seed is written to `--out` when it is done; the same command does what is
missing.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rivals import narrow, resnet18
from torch import Tensor, nn
from torchvision.transforms import v2

from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.data.photo import Framing
from compress.data.pool import open_pool
from compress.data.source import Images
from compress.models.cost import measure_cost
from compress.recipe.budget import parse_amount
from compress.recipe.model_spec import ModelSpec, settle_stem
from compress.reporting.tables import Table
from compress.runtime.files import write_text

# The plain script's settings, and the ratio of its stages' widths.
BATCH, RATE, WEIGHT_DECAY, SMOOTHING = 64, 3e-3, 0.05, 0.1
SHAPE = (256, 384, 448, 512)
# Side of the images from which crops are cut, relative to the training size.
LARGER = 5 / 4
HEADINGS = ["seed", "CPU s", "ours: parameters", "test %", "balanced %"]
HEADINGS += ["plain: parameters", "test %", "balanced %"]


@dataclass(frozen=True)
class Scored:
    """A network's parameters and its accuracies on the test split, 0 to 1."""

    params: int
    top1: float
    balanced: float


def run_ours(words: list[str], out: Path) -> tuple[Scored, float]:
    """Run `compress run`, and return its network's scores and its processor time in seconds."""
    command = [sys.executable, "-m", "compress", "run", *words, "--out", str(out), "--fresh"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = json.loads((out / "run.json").read_text())["stages"][-1]
    balanced = last["test"] if last["test_balanced"] is None else last["test_balanced"]
    return Scored(last["params"], last["test"], balanced), seconds


def train_plainly(data: Dataset, budget: int, seconds: float, seed: int) -> Scored:
    """Train a narrow ResNet18 for so many seconds of processor time, and score it."""
    torch.manual_seed(seed)
    classes, side = len(data.classes), data.image_size
    stem = settle_stem(ModelSpec("resnet18", stem="auto"), side).stem
    model = resnet18(narrow(SHAPE, budget, stem, classes), stem, classes)
    model = model.to(memory_format=torch.channels_last)
    images, targets = load(data, data.train_images)
    if data.val_count < data.train_count:
        more, others = load(data, data.val_images)
        images, targets = torch.cat([images, more]), torch.cat([targets, others])
    mean = images.float().mean((0, 2, 3))[:, None, None]
    std = images.float().std((0, 2, 3))[:, None, None]
    crop = v2.RandomResizedCrop(side, scale=(0.6, 1.0), antialias=True)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    began = time.process_time()
    while time.process_time() - began < seconds:
        for rows in torch.split(torch.randperm(len(images)), BATCH):
            done = min((time.process_time() - began) / seconds, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, done / 0.1) * (1 + math.cos(math.pi * done)) / 2
            batch = torch.stack([crop(images[row]) for row in rows])
            logits = model((batch.float() - mean) / std)
            loss = F.cross_entropy(logits, targets[rows], label_smoothing=SMOOTHING)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    pixels, truth = load(data, data.test_images())
    return score(model, (pixels, truth), (mean, std), side, classes)


def load(data: Dataset, images: Images) -> tuple[Tensor, Tensor]:
    """Return images larger than the training size, uint8 (N, 3, H, H), and their classes (N,)."""
    larger = Framing(round(LARGER * data.image_size))
    pool = open_pool(images, larger, background=data.background)
    (pixels,) = pool.batches([torch.arange(len(pool))])
    return pixels.expand(-1, 3, -1, -1), pool.targets


@torch.inference_mode()
def score(
    model: nn.Module,
    shown: tuple[Tensor, Tensor],
    normalization: tuple[Tensor, Tensor],
    side: int,
    classes: int,
) -> Scored:
    """Score `model` on centre crops of nearly the whole image."""
    model.eval()
    mean, std = normalization
    answers = []
    for some in torch.split(shown[0], 200):
        whole = v2.functional.center_crop(some, [round(1.1 * side)])
        whole = v2.functional.resize(whole, [side], antialias=True)
        answers.append(model((whole.float() - mean) / std).argmax(1))
    right = (torch.cat(answers) == shown[1]).double()
    recalls = [right[shown[1] == each].mean() for each in range(classes) if each in shown[1]]
    top1, balanced = float(right.mean()), float(torch.stack(recalls).mean())
    return Scored(measure_cost(model, (3, side, side)).params, top1, balanced)


def spread(values: list[float]) -> str:
    """Return the mean and the sample standard deviation of accuracies, as percentages."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", default="fashion-mnist", show_default=True)
@click.option("--image-size", type=int, help="Side of the images, in pixels.")
@click.option("--max-images", type=int, help="Train on at most this many images.")
@click.option("--budget", default="50k", show_default=True, help="Parameters.")
@click.option("--recipe", default="default", show_default=True)
@click.option("--minutes", type=float, help="Minutes of `compress run`, in place of its lengths.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option(
    "--out", default="runs/few_images", show_default=True, type=click.Path(path_type=Path)
)
def main(
    data: str,
    image_size: int | None,
    max_images: int | None,
    budget: str,
    recipe: str,
    minutes: float | None,
    seeds: str,
    out: Path,
) -> None:
    torch.set_num_threads(1)
    options: dict[str, object] = {"--data": data, "--image-size": image_size}
    options |= {"--max-images": max_images, "--budget": budget, "--minutes": minutes}
    words = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    ours, plain, rows = [], [], []
    for seed in map(int, seeds.split(",")):
        file = out / f"seed{seed}.json"
        if not file.is_file():
            made, seconds = run_ours([recipe, *words, "--seed", str(seed)], out / f"seed{seed}")
            opened = open_dataset(data, image_size=image_size, max_images=max_images, seed=seed)
            other = train_plainly(opened, parse_amount(budget).number or 0, seconds, seed)
            write_text(file, json.dumps([asdict(made), asdict(other), seconds]) + "\n")
        first, second, seconds = json.loads(file.read_text())
        ours.append(Scored(**first))
        plain.append(Scored(**second))
        cells = [f"{seed}", f"{seconds:.0f}"]
        for each in (ours[-1], plain[-1]):
            cells += [f"{each.params:,}", f"{100 * each.top1:.2f}", f"{100 * each.balanced:.2f}"]
        rows.append(cells)
    mean = ["all", ""]
    for some in (ours, plain):
        mean += ["", spread([s.top1 for s in some]), spread([s.balanced for s in some])]
    table = Table(HEADINGS, rows, left=1, footer=mean)
    Console().print(table.as_rich())
    write_text(out / "few_images.md", table.as_markdown())


if __name__ == "__main__":
    main()
