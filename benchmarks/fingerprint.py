"""Print the SHA-256 of every tensor that a set of small runs computes.

    python benchmarks/fingerprint.py > after.txt        # four minutes on two CPU cores

Run it before and after a change that must not alter the computation: on one machine, with one
version of torch, both outputs must be the same. The runs are a pipeline, a sweep, an experiment and
single cuts. They use real images (Fashion-MNIST) and cover every kind of stage, KD from cached
logits, Muon, moving averages, every distillation method, and both modes of pruning.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import compress
from compress.experiments.experiment import run_experiment
from compress.experiments.sweep import sweep
from compress.models.build import build
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import Stem

RECIPE = """
title = "fingerprint"
data = "fashion-mnist"
max_images = 480
budget = "40k"
batch_size = 64

[teacher]
name = "resnet18"

[student]
name = "resnet10"
stem = "small"

[[stages]]
kind = "teach"
epochs = 1
optimizer = "adamw"
lr = 1e-3
weight_decay = 0.05
crop = [0.8, 1.0]
compile = false

[[stages]]
kind = "distill"
epochs = 1.5
scale = 0.5
optimizer = "adamw"
lr = 1e-3
crop = [0.7, 1.0]
mixup = 0.2
cutmix = 1.0
mix_prob = 0.5
erase_prob = 0.25
alpha = 0.5
fade = true
compile = false

[[stages]]
kind = "prune"
scale = 0.5
samples = 256
round_to = 8

[[stages]]
kind = "finetune"
epochs = 2
scale = 0.5
lr = 0.05
alpha = 0.5
views = 1
compile = false

[[stages]]
kind = "prune"
samples = 256

[[stages]]
kind = "finetune"
epochs = 3
optimizer = "muon"
lr = 0.1
ema = 0.99
crop = [0.75, 1.0]
alpha = 0.5
stop_at_teacher = true
views = 2
label_smoothing = 0.1
compile = false

[[stages]]
kind = "finetune"
epochs = 0.5
optimizer = "muon"
lr = 0.02
warmup = 0.05
distill_from = "previous"
ema = 0.99
compile = false
"""

METHODS = """
recipe = "{recipe}"

[keys]
max_images = 256
"distill.epochs" = 2
"finetune.epochs" = 1
"stages.5.importance" = "magnitude"

[[rows]]
name = "hessian"
"prune.importance" = "hessian"

[[rows]]
name = "weights"
"stages.5.mode" = "weights"
"""

METHOD = (
    "labels",
    "kd",
    "dkd",
    "simultaneous",
    "stagewise",
    "fitnets",
    "attention",
    "fsp",
    "overhaul",
)
CUTS: tuple[tuple[str, Stem, str], ...] = (
    ("resnet18", "imagenet", "20%"),
    ("mobilenet_v2", "imagenet", "30%"),
    ("vgg11", "imagenet", "10%"),
)


def digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors, regardless of their layout in memory."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def tell(name: str, folder: Path) -> None:
    """Print a line for each weights file of a run."""
    for file in [*sorted(folder.glob("stages/*.pth")), folder / "model.pth"]:
        print(
            f"{name:24} {file.stem:16} {digest(compress.load(file).model.state_dict())}", flush=True
        )


def main() -> None:
    torch.set_num_threads(2)
    with TemporaryDirectory() as aside:
        here = Path(aside)
        recipe = here / "recipe.toml"
        recipe.write_text(RECIPE)

        result = compress.run(str(recipe), out=here / "run")
        tell("run", here / "run")
        for stage in result.results:
            print(
                f"{'run':24} {stage.name:16} {stage.params} {stage.macs}"
                f" {stage.val:.6f} {stage.test:.6f}"
            )

        small = load_recipe(str(recipe), {"max_images": 256})
        sweep(small, ["60k", "30k"], out=here / "sweep")
        for budget in ("60k", "30k"):
            tell(f"sweep {budget}", here / "sweep" / budget)

        (here / "rows.toml").write_text(METHODS.format(recipe=recipe))
        for trial in run_experiment(here / "rows.toml", out=here / "rows"):
            tell(f"experiment {trial.label['name']}", trial.folder)

        for method in METHOD:
            alpha = 0.0 if method == "labels" else 0.3
            keys: dict[str, Any] = {"finetune.epochs": 0.5, "distill.method": method}
            keys |= {"distill.scale": 1.0, "distill.alpha": alpha}
            compress.run(str(recipe), out=here / method, max_images=192, **keys)
            tell(f"method {method}", here / method)

        for name, stem, budget in CUTS:
            torch.manual_seed(0)
            model = build(ModelSpec(name, stem), 10)
            pruned = compress.prune(model, torch.zeros(1, 3, 64, 64), budget)
            print(f"{'cut':24} {name:16} {digest(pruned.state_dict())}", flush=True)


if __name__ == "__main__":
    main()
