"""Fuzz every file that compress reads, and count what happens.

    python benchmarks/fuzz.py --seconds 3600 --seed 0 --json fuzz.json

Inputs are a good file with a few bytes changed, cut or doubled, or good JSON and TOML with values
replaced (tests/reliability/hostile.py). Each must be accepted, or refused by a `UserError` of one
line; anything else is printed with the seed of its input. The file itself must not change. Each
kind of file has a process of its own, which is started again if an input ends it.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import io
import json
import multiprocessing
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reliability"))

import numpy as np
import torch
from hostile import replaced
from PIL import Image

from compress.deployment.load_model import load_model
from compress.experiments.grid import load_experiment
from compress.experiments.ledger import read_ledger
from compress.models import checkpoint
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.models.tensor_file import read_training_file
from compress.pipeline.manifest import read_results
from compress.recipe.load import load_recipe, recipe_from_dict, recipe_to_dict
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Return `content` with one to eight changes of bytes."""
    found = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(found) or 1)
        length = draw.choice((1, 1, 2, 4, 16, 256))
        match draw.randrange(6):
            case 0:
                found[at : at + 1] = bytes([found[at] ^ 1 << draw.randrange(8)]) if found else b""
            case 1:
                found[at : at + length] = draw.randbytes(length)
            case 2:
                del found[at : at + length]
            case 3:
                found[at:at] = found[at : at + length]
            case 4:
                found[at : at + length] = draw.choice((b"\0", b"\xff", b"\x7f", b"[")) * length
            case 5:
                del found[at:]
    return bytes(found)


def make_network() -> Checkpoint:
    """Return a network so small that it is loaded in milliseconds."""
    torch.manual_seed(0)
    spec = ModelSpec("squeezenet1_1")
    model = build(spec, 3).eval()
    return Checkpoint(model, spec, ("a", "b", "c"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3, "made up")


def tampered(content: dict[str, Any], draw: random.Random) -> bytes:
    """Return a weights file whose plain data is changed, with a checksum that is right."""
    plain = {key: value for key, value in content.items() if key != "state_dict"}
    tensors = dict(content["state_dict"])
    key = draw.choice(list(tensors))
    change = draw.randrange(4)
    if change == 0:
        tensors[key] = draw.choice((tensors[key][:1], tensors[key].double(), 3, None, float("nan")))
    elif change == 1:
        del tensors[key]
    changed = replaced(plain, draw)
    changed = changed | {"state_dict": tensors} if isinstance(changed, dict) else changed
    file = io.BytesIO()
    torch.save(changed, file)
    return file.getvalue()


def structure(table: Any) -> Callable[[random.Random], bytes]:
    def make(draw: random.Random) -> bytes:
        found = table
        for _ in range(draw.choice((1, 1, 2, 5))):
            found = replaced(found, draw)
        return json.dumps(found).encode()

    return make


def bytes_of(content: bytes) -> Callable[[random.Random], bytes]:
    return lambda draw: mutate(content, draw)


def make_image(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


# A kind of file: its name, what makes one, and what reads it.
Kind = tuple[str, Callable[[random.Random], bytes], Callable[[Path], object]]


def list_kinds(folder: Path, exported: bool = True) -> dict[str, Kind]:
    """Return the kinds of files; exported ones take a while to make."""
    from compress.deployment.predict import prepare

    network = make_network()
    plain = checkpoint.to_dict(network)
    checkpoint.save(network, folder / "good.pth")
    good = (folder / "good.pth").read_bytes()
    recipe = json.loads(json.dumps(recipe_to_dict(load_recipe("default"))))
    stage = dict(name="teach", kind="teach", network="resnet18", params=3, macs=4, val=0.5)
    stage |= dict(seconds=1.0, checkpoint="stages/01-teach.pth")
    data = {"name": "a", "checksum": "b"}
    run = dict(recipe=recipe, seed=0, data=data, status="done", stages=[stage, stage])
    toml = Path("pipelines/default.toml").read_bytes()
    grid = b'seeds = 2\n[grid]\ndistill.alpha = [0.0, 0.9]\nbudget = ["30k", "100k"]\n'
    kinds: dict[str, Kind] = {
        "weights, bytes": ("a.pth", bytes_of(good), checkpoint.load),
        "weights, values": ("a.pth", lambda draw: tampered(plain, draw), checkpoint.load),
        "training files": ("a.pt", bytes_of(good), read_training_file),
        "run.json, bytes": (
            "run.json",
            bytes_of(json.dumps(run, indent=1).encode()),
            lambda path: (read_results(path.parent), load_recipe(str(path))),
        ),
        "run.json, values": (
            "run.json",
            structure(run),
            lambda path: (read_results(path.parent), load_recipe(str(path))),
        ),
        "ledgers": (
            "experiment.json",
            structure({"seed=0": {"recipe": recipe, "error": None}}),
            lambda path: read_ledger(path.parent),
        ),
        "recipes, values": (
            "recipe.json",
            structure(recipe),
            lambda path: recipe_from_dict(json.loads(path.read_text())),
        ),
        "recipes, bytes": ("a.toml", bytes_of(toml), lambda path: load_recipe(str(path))),
        "experiments, bytes": ("a.toml", bytes_of(grid), load_experiment),
    }
    for suffix in ("png", "jpeg", "gif", "bmp", "tiff", "webp"):
        kinds[f"images, {suffix}"] = (
            f"a.{suffix}",
            bytes_of(make_image(suffix)),
            lambda path: prepare(path, network),
        )
    return kinds | (list_exported(folder) if exported else {})


def list_exported(folder: Path) -> dict[str, Kind]:
    """Return exported files, if what writes them is installed."""
    try:
        from compress.deployment.export import export

        export(folder / "good.pth", "onnx", folder / "good.onnx")
    except (UserError, ImportError, OSError) as error:
        print(f"without exported files: {error}", file=sys.stderr)
        return {}
    return {"exported, onnx": ("a.onnx", bytes_of((folder / "good.onnx").read_bytes()), load_model)}


def fuzz(kind: str, made: Kind, folder: Path, first: int, until: float, results: Any) -> None:
    """Read inputs of one kind until it is time, and report each."""
    faulthandler.enable()
    torch.set_num_threads(1)
    name, make, read = made
    path = folder / name
    for seed in range(first, sys.maxsize):
        content = make(random.Random(f"{kind}{seed}"))
        path.write_bytes(content)
        results.put((kind, seed, "started"))
        outcome = judge(read, path, content)
        results.put((kind, seed, outcome))
        if time.time() > until:
            return


def judge(read: Callable[[Path], object], path: Path, content: bytes) -> str:
    """Read a file; say how it ended."""
    try:
        read(path)
        outcome = "accepted"
    except UserError as error:
        outcome = "refused" if "\n" not in str(error) else "refused in several lines"
    # What the fuzzer looks for.
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
    unchanged = hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
    return outcome if unchanged else "file changed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kinds", help="only these, with semicolons")
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    with TemporaryDirectory() as root:
        kinds = list_kinds(Path(root), not options.kinds or "exported" in options.kinds)
        chosen = [each for each in kinds if not options.kinds or each in options.kinds.split(";")]
        for number, kind in enumerate(chosen):
            seconds = options.seconds / len(chosen)
            folder = Path(root) / str(number)
            counts[kind] = fuzz_kind(kind, kinds[kind], folder, options.seed, seconds)
            print(json.dumps({kind: counts[kind]}), flush=True)
            if options.json:
                options.json.write_text(json.dumps(counts, indent=1) + "\n")
    total = sum(sum(each.values()) for each in counts.values())
    bad = {
        kind: {k: n for k, n in each.items() if k not in ("accepted", "refused")}
        for kind, each in counts.items()
    }
    print(f"{total:,} inputs; not as they should be: { ({k: v for k, v in bad.items() if v}) }")


def fuzz_kind(kind: str, made: Kind, folder: Path, seed: int, seconds: float) -> Counter[str]:
    """Fuzz one kind of file in processes of their own, for some time."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    found: Counter[str] = Counter()
    until, next_seed = time.time() + seconds, seed * 10**9
    while time.time() < until:
        results = context.SimpleQueue()
        process = context.Process(target=fuzz, args=(kind, made, folder, next_seed, until, results))
        process.start()
        while process.is_alive() or not results.empty():
            if results.empty():
                time.sleep(0.01)
                continue
            _, next_seed, outcome = results.get()
            if outcome == "started":
                continue
            found[outcome] += 1
            if outcome not in ("accepted", "refused") and found[outcome] == 1:
                print(f"{kind}, seed {next_seed}: {outcome}", flush=True)
        process.join()
        next_seed += 1
        if process.exitcode:
            found[f"process ended with {process.exitcode}"] += 1
            print(f"{kind}, seed {next_seed - 1}: ended with {process.exitcode}", flush=True)
    return found


if __name__ == "__main__":
    main()
