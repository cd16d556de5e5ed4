"""Time a burst of training in all processes that torchrun starts, for `speed.py`.

    torchrun --nproc-per-node 2 benchmarks/by_processes.py RECIPE WEIGHTS DEVICE STEPS BATCH KIND

Each process trains on its shard of every batch; the main process prints the images a second of all
processes together. KIND is the kind of a stage of RECIPE. WEIGHTS is the pruned network that is
fine-tuned, on the labels alone.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bursts import Setting, for_bursts

from compress.recipe.load import load_recipe
from compress.runtime import distributed
from compress.runtime.device import pick_device


def main() -> None:
    name, weights, device, steps, batch, kind = sys.argv[1:]
    recipe = for_bursts(load_recipe(name, {"batch_size": int(batch)}), int(steps))
    with distributed.process_group(), TemporaryDirectory() as folder:
        on = pick_device(device)
        setting = Setting(name, recipe, Path(weights), on, int(steps), 1, 0, False, Path(folder))
        stage = setting.stage(kind)
        rate = setting.rate(
            setting.ours(replace(stage, alpha=0.0) if kind == "finetune" else stage)
        )
        total = distributed.all_reduce_sum(torch.tensor(rate, dtype=torch.float64, device=on))
        if distributed.is_main():
            print("images/s", float(total))


if __name__ == "__main__":
    main()
