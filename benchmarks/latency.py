"""Budgets on time: do they hold, and what do they bring over multiply-adds at equal time?

python benchmarks/latency.py hold -w weights/fashion-mnist-1m.pth  # five cuts, timed together
python benchmarks/latency.py accuracy --recipe adopted --max-images 6000 --speedup 3x \
    -w weights/fashion-mnist-300k.pth                          # cut by time, and by multiply-adds
python benchmarks/latency.py accuracy --speedup 8x --minutes 25
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from torch import nn

import compress
from compress.deployment.stopwatch import Stopwatch, open_stopwatch
from compress.models import checkpoint
from compress.models.build import build
from compress.models.cost import measure_cost
from compress.pipeline.run import RunResult
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import settle_stem
from compress.runtime.files import write_text

SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)
# Halvings of the interval in which the multiply-adds of equal time are searched.
HALVINGS = 6
# Runs to equal time, and the difference that counts as equal.
ATTEMPTS, EQUAL = 3, 0.03

Size = tuple[int, int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mode", choices=("hold", "accuracy"))
    parser.add_argument("-w", "--weights", type=Path, help="network to cut")
    parser.add_argument("--recipe", default="default", help="recipe to run (accuracy)")
    parser.add_argument("--speedup", default="8x", help="budget of the runs (accuracy)")
    parser.add_argument("--max-images", type=int, help="training images (accuracy)")
    parser.add_argument("--minutes", type=float, help="time of each run (accuracy)")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the runs (accuracy)")
    parser.add_argument("--out", type=Path, default=Path("runs/latency"), help="run directories")
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.mode == "hold":
        if arguments.weights is None:
            parser.error("hold needs --weights")
        check_budgets(arguments.weights, arguments.runtime, arguments.threads)
    else:
        compare_accuracy(arguments)


def check_budgets(weights: Path, runtime: str, threads: int) -> None:
    """Cut a network to five speedups and five latencies, then time all of them in turns."""
    loaded = checkpoint.load(weights)
    uncut, size = loaded.model.eval(), loaded.input_size
    watch = open_stopwatch(runtime, threads)
    example = torch.zeros(1, *size)
    cut = partial(compress.prune, uncut, example, runtime=runtime, threads=threads)
    by_speedup = [cut(speedup=speedup) for speedup in SPEEDUPS]
    full = statistics.median(watch.networks([uncut], size)[0])
    limits = [full / speedup for speedup in SPEEDUPS]
    by_time = [cut(latency=f"{limit * 1e9:.0f}ns") for limit in limits]
    first, *times = watch.networks([uncut, *by_speedup, *by_time], size)
    ratios = [
        statistics.median(uncut_time / time for uncut_time, time in zip(first, each, strict=True))
        for each in times[: len(SPEEDUPS)]
    ]
    medians = [statistics.median(each) for each in times[len(SPEEDUPS) :]]
    print("| speedup | measured | latency | measured |\n|--:|--:|--:|--:|")
    for wanted, ratio, limit, time in zip(SPEEDUPS, ratios, limits, medians, strict=True):
        print(f"| {wanted:g}x | {ratio:.2f}x | {1e3 * limit:.3f} ms | {1e3 * time:.3f} ms |")
    held = sum(ratio >= wanted for ratio, wanted in zip(ratios, SPEEDUPS, strict=True))
    in_time = sum(time <= limit for time, limit in zip(medians, limits, strict=True))
    print(f"held: {held} of {len(SPEEDUPS)} speedups, {in_time} of {len(SPEEDUPS)} latencies")


def compare_accuracy(arguments: argparse.Namespace) -> None:
    """Run a recipe with a budget on time and with one on multiply-adds that takes as long.

    The multiply-adds are first those at which a single cut takes as long. If the network of the
    whole run does not, they are scaled by the ratio of the two times, and the recipe is run again.
    With `--weights`, that network is cut, and teaches itself.
    """
    watch = open_stopwatch(arguments.runtime, arguments.threads)
    print("| seed | budget | multiply-adds | parameters | ms | val % | test % |")
    print("|--:|:--|--:|--:|--:|--:|--:|")
    for seed in map(int, arguments.seeds.split(",")):
        common = {"seed": seed, "minutes": arguments.minutes, "max_images": arguments.max_images}
        if arguments.weights is not None:
            common |= {"student": str(arguments.weights), "teacher": str(arguments.weights)}
        runtime = {"runtime": arguments.runtime, "threads": arguments.threads}
        out = arguments.out / f"speedup-{seed}"
        timed = compress.run(
            arguments.recipe, out=out, speedup=arguments.speedup, **common, **runtime
        )
        fast, size = timed.load().model, timed.load().input_size
        # Times differ from sitting to sitting: what was tried is kept, so that runs can resume.
        kept = arguments.out / f"macs-{seed}.json"
        tried = json.loads(kept.read_text()) if kept.is_file() else []
        macs = 0
        for attempt in range(ATTEMPTS):
            if attempt == len(tried):
                tried.append(macs or find_equal_macs(watch, arguments, fast, size))
                write_text(kept, json.dumps(tried) + "\n")
            out = arguments.out / f"macs-{seed}-{attempt}"
            counted = compress.run(arguments.recipe, out=out, macs=tried[attempt], **common)
            turns = watch.networks([fast, counted.load().model], size)
            ours, theirs = (statistics.median(each) for each in turns)
            if not attempt:
                print_row(seed, f"speedup {arguments.speedup}", timed, ours)
            print_row(seed, f"macs {tried[attempt]:,}", counted, theirs)
            ratio = statistics.median(b / a for a, b in zip(*turns, strict=True))
            if abs(ratio - 1) <= EQUAL:
                break
            macs = round(tried[attempt] / ratio)
        else:
            print(f"seed {seed}: {ATTEMPTS} runs, none of them within {EQUAL:.0%} of the time")


def print_row(seed: int, budget: str, result: RunResult, seconds: float) -> None:
    """Print a row of the table: the result of a run, and the time of its network."""
    last = result.results[-1]
    print(
        f"| {seed} | {budget} | {last.macs:,} | {last.params:,} | {1e3 * seconds:.3f}"
        f" | {100 * last.val:.2f} | {100 * (last.test or 0):.2f} |",
        flush=True,
    )


def find_equal_macs(
    watch: Stopwatch, arguments: argparse.Namespace, fast: nn.Module, size: Size
) -> int:
    """Return the multiply-adds at which a cut of the recipe's student takes as long as `fast`."""
    student = load_student(arguments, fast, size)
    example = torch.zeros(1, *size)
    low, high = 0, measure_cost(student, size).macs
    for _ in range(HALVINGS):
        # Evenly spaced in ratio, since times are.
        middle = int((max(low, high // 100) * high) ** 0.5)
        cut = compress.prune(student, example, macs=middle)
        ours, theirs = watch.networks([fast, cut], size)
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        low, high = (middle, high) if ratio <= 1 else (low, middle)
    return low or high


def load_student(arguments: argparse.Namespace, fast: nn.Module, size: Size) -> nn.Module:
    """Return the network that is cut, with its own weights or random ones."""
    if arguments.weights is not None:
        return checkpoint.load(arguments.weights).model.eval()
    spec = settle_stem(load_recipe(arguments.recipe).student, size[-1])
    classes = next(m for m in reversed(list(fast.modules())) if isinstance(m, nn.Linear))
    return build(spec, classes.out_features, input_size=size).eval()


if __name__ == "__main__":
    main()
