"""Prune networks of every family, save them, and load them in another process.

    pip install -e '.[timm]'
    python benchmarks/networks.py            # all of them, about an hour on two cores
    python benchmarks/networks.py --only timm:vit_tiny_patch16_224
    python benchmarks/networks.py --table    # write docs/networks.md from the results so far

Each network has random weights and ten classes. It is pruned to half of its parameters, written to
a file and loaded from it in a fresh process, where its logits must be the same to the bit, and its
multiply-adds those of torch's FlopCounterMode. Every network gets processes of its own, with bounds
on memory and time. Results are kept in runs/networks/, one file each: a second call goes on where
the first one ended.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from compress.models import checkpoint
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pruning.pruner import prune
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError, one_line

# What is found out about a network, as JSON.
Found = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "runs" / "networks", ROOT / "docs" / "networks.md"
# Bounds of one process: seconds, and bytes of memory.
SECONDS, MEMORY = 600, 16 * 2**30
CLASSES = 10

# By family: names, with the side of the images where it is not 64 pixels.
TIMM = {
    "residual": "resnet18 resnext26ts seresnet18 resnetv2_50 skresnet18",
    "mobile": "mobilenetv3_small_100 mobilenetv2_050 lcnet_050 mnasnet_small rexnet_100"
    " ghostnet_050 hardcorenas_a mobileone_s0 repvgg_a0 starnet_s1",
    "EfficientNet": "efficientnet_lite0 tf_efficientnet_b0 mixnet_s",
    "RegNet, NFNet": "regnetx_002 regnety_002 nfnet_l0",
    "several branches": "densenet121 dla34 hrnet_w18_small res2net50_14w_8s selecsls42"
    " cspresnet50 darknet53 inception_v3@96 xception41 vgg11_bn vovnet39a",
    "modern convolutions": "convnext_atto convnextv2_atto inception_next_atto repvit_m0_9"
    " poolformer_s12 fastvit_t8 edgenext_xx_small",
    "transformer": "vit_tiny_patch16_224@224 deit_tiny_patch16_224@224 cait_xxs24_224@224"
    " xcit_nano_12_p16_224@224 pit_ti_224@224 swin_tiny_patch4_window7_224@224"
    " twins_svt_small@224 pvt_v2_b0 volo_d1_224@224 crossvit_tiny_240@240",
    "hybrid": "levit_128s@224 mobilevit_xxs mobilevitv2_050 efficientformer_l1@224"
    " maxvit_pico_rw_256@256 coatnet_pico_rw_224@224 efficientvit_b0 efficientvit_m0@224"
    " tiny_vit_5m_224@224",
    "perceptron": "mixer_s32_224@224 resmlp_12_224@224",
}
TORCHVISION = {
    "residual": "resnet18 resnext50_32x4d wide_resnet50_2",
    "mobile": "mobilenet_v2 mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 squeezenet1_1",
    "EfficientNet": "efficientnet_b0 efficientnet_v2_s",
    "RegNet": "regnet_x_400mf regnet_y_400mf",
    "several branches": "densenet121 googlenet inception_v3@96 vgg11",
    "modern convolutions": "convnext_tiny",
    "transformer": "vit_b_16@224 swin_t maxvit_t@224",
}


def list_networks() -> list[tuple[str, str, int]]:
    """Return name, family and image size of every network."""
    return [
        (f"{prefix}{name}", family, int(size or 64))
        for prefix, families in (("timm:", TIMM), ("", TORCHVISION))
        for family, names in families.items()
        for name, _, size in (each.partition("@") for each in names.split())
    ]


def main() -> None:
    """Try the networks whose results are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="names, tried again even if they have results")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    print(f"timm {timm.__version__}, torch {torch.__version__}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, _, size in [] if options.table else list_networks():
        wanted = name in options.only if options.only else not _file(name, "json").exists()
        if wanted:
            found = try_network(name, size)
            _file(name, "json").write_text(json.dumps(found))
            print(name, found, flush=True)
    PAGE.write_text(make_page())


def try_network(name: str, size: int) -> Found:
    """Prune a network in one process, load it in another, and return what both found."""
    started = time.monotonic()
    found: Found = {}
    for part in PARTS:
        found |= _run_part(part, name, size)
        if "error" in found:
            return found
    _file(name, "pth").unlink()
    _file(name, "logits").unlink()
    return found | {"seconds": round(time.monotonic() - started)}


def _run_part(part: str, name: str, size: int) -> Found:
    """Run a part in a process of its own, which is forked once the libraries are imported."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_child, args=(part, name, size, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(SECONDS):
            found: Found = receiver.recv()
            return found
        return {"error": f"{part}: more than {SECONDS} seconds"}
    except EOFError:
        return {"error": f"{part}: the process was killed"}
    finally:
        process.kill()
        process.join()


def _run_child(part: str, name: str, size: int, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        sender.send(PARTS[part](name, size))
    # A network may raise anything; what is refused is a row of the table.
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        sender.send({"error": f"{part}: {kind}{one_line(error)}"})


def prune_part(name: str, size: int) -> Found:
    """Prune a network and save it with logits for some images."""
    torch.manual_seed(0)
    lines: list[str] = []
    spec, side = ModelSpec(name), (3, size, size)
    model = build(spec, CLASSES, input_size=side).eval()
    pruned = prune(model, torch.zeros(1, *side), "50%", log=lines.append)
    images = torch.rand(2, *side)
    with torch.no_grad():
        torch.save((images, pruned(images)), _file(name, "logits"))
    classes, full = tuple(map(str, range(CLASSES))), measure_cost(model, side).params
    kept = Checkpoint(pruned, spec, classes, side, (0.0,) * 3, (1.0,) * 3, "none")
    checkpoint.save(kept, _file(name, "pth"))
    uncut = next((line.partition(": ")[2] for line in lines if line.startswith("not pruned")), "")
    params = measure_cost(pruned, side).params
    return {"full": full, "params": params, "uncut": uncut}


def load_part(name: str, size: int) -> Found:
    """Load a pruned network; compare its logits and its multiply-adds."""
    loaded = checkpoint.load(_file(name, "pth"))
    # With parameters that want gradients, the counter fails on some networks.
    loaded.model.requires_grad_(False)
    images, logits = torch.load(_file(name, "logits"))
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loaded.model(images[:1])
    with torch.no_grad():
        difference = float((loaded.model(images) - logits).abs().max())
    macs = measure_cost(loaded.model, loaded.input_size).macs
    error = abs(2 * macs / counter.get_total_flops() - 1)
    return {"difference": difference, "macs": macs, "macs_error": error}


PARTS = {"prune": prune_part, "load": load_part}


def make_page() -> str:
    """Return the page of all results."""
    rows, good = [], {"timm": [0, 0], "torchvision": [0, 0]}
    for name, family, size in list_networks():
        file = _file(name, "json")
        if not file.exists():
            continue
        found = json.loads(file.read_text())
        right = not found.get("error") and not found["difference"] and found["macs_error"] <= 0.01
        source = "timm" if name.startswith("timm:") else "torchvision"
        good[source][0] += right
        good[source][1] += 1
        result = f"{found['params']:,} of {found['full']:,}" if right else "refused"
        note = str(found.get("error") or _shorten(found.get("uncut", "")) or "–")
        rows.append(f"| `{name}` | {family} | {size} | {result} | {note.replace('|', '/')} |")
    counts = ", ".join(f"{ok} of {n} of {source}" for source, (ok, n) in good.items() if n)
    return "\n".join([INTRODUCTION.format(counts=counts), *rows, ""])


def _shorten(uncut: object) -> str:
    """Name the first layers of a list, and the number of the others."""
    layers = str(uncut).split(", ") if uncut else []
    more = f" and {len(layers) - 2} more" if len(layers) > 2 else ""
    return "".join(", ".join(f"`{layer}`" for layer in layers[:2])) + more


INTRODUCTION = """# Networks

Written by `python benchmarks/networks.py`: networks with random weights and ten classes are pruned
to half of their parameters, saved, and loaded in a fresh process. {counts} are
pruned, saved and loaded, with a difference of logits of exactly 0 and multiply-adds within 1 % of
torch's own count; the benchmark resumes where it was stopped, and the table has what was tried.

Layers that stay uncut are those whose channels cannot be followed, such as the queries, keys and
values of attention, which are reshaped to heads of a fixed width: other layers, such as the hidden
ones of transformers, are cut instead. `compress prune` and `compress run` name them in a line.

| network | family | image size | parameters | stays uncut, or the reason |
|---|---|---:|---:|---|"""


def _file(name: str, suffix: str) -> Path:
    return RESULTS / f"{name.replace(':', '-')}.{suffix}"


if __name__ == "__main__":
    main()
