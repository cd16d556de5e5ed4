"""Real data, networks and processes, so small that a whole pipeline takes seconds.

Helpers read the files that a run leaves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from compress.models import checkpoint
from compress.models.build import import_builder
from compress.models.checkpoint import Checkpoint
from compress.pipeline.events import RunEvents
from compress.pipeline.run_dir import read_results

CLASSES = ("blob", "cross", "stripes", "wedge")
SIDE = 16

NETWORKS = """
from torch import nn


def _block(inner, outer, stride):
    conv = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU())


def _net(width, num_classes):
    return nn.Sequential(
        _block(3, width, 1),
        _block(width, 2 * width, 2),
        _block(2 * width, 2 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(2 * width, num_classes),
    )


def teacher(num_classes):
    return _net(24, num_classes)


def student(num_classes):
    return _net(16, num_classes)


def maps(num_classes):
    return student(num_classes)[:3]


def pair(num_classes):
    network = student(num_classes)
    network.register_forward_hook(lambda module, images, logits: (images, images))
    return network
"""

RECIPE = """
title = "tiny"
data = "folder:{data}"
image_size = 16
budget = 3000
batch_size = 32

[teacher]
name = "tinynets:teacher"

[student]
name = "tinynets:student"

[[stages]]
kind = "teach"
epochs = 3
optimizer = "adamw"
lr = 5e-3

[[stages]]
kind = "distill"
epochs = 3
optimizer = "adamw"
lr = 5e-3
scale = 0.5
fade = true
mixup = 0.2
cutmix = 1.0
mix_prob = 0.5
views = 2

[[stages]]
kind = "prune"
scale = 0.5
samples = 64

[[stages]]
kind = "finetune"
epochs = 2
lr = 0.05
views = 2

[[stages]]
kind = "prune"
samples = 64

[[stages]]
kind = "finetune"
epochs = 3
lr = 0.05
ema = 0.9
"""

NAMES = ["teach", "distill", "prune 1", "finetune 1", "prune 2", "finetune 2"]
TRAINED = [name for name in NAMES if "prune" not in name]
FILES = [f"stages/{n:02}-{name.replace(' ', '-')}.pth" for n, name in enumerate(NAMES, 1)]


def draw(kind: str, random: np.random.Generator) -> np.ndarray:
    """One noisy image of a class: uint8 (SIDE, SIDE, 3)."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + random.uniform(-2, 2, (2, 1, 1))
    shape = {
        "blob": x**2 + y**2 < 16,
        "cross": (abs(x) < 2) | (abs(y) < 2),
        "stripes": np.floor(y / 2) % 2 == 0,
        "wedge": x > y,
    }[kind]
    noise = random.normal(0, 25, (SIDE, SIDE, 3))
    pixels: np.ndarray = (60 + 130 * shape[..., None] + noise).clip(0, 255)
    return pixels.astype(np.uint8)


def write_folder(root: Path, train: int = 220, test: int = 80) -> Path:
    """A data set as `folder:` reads it, with a test split of its own."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            kind = CLASSES[number % len(CLASSES)]
            folder = root / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(kind, random)).save(folder / f"{number:03}.png")
    return root


def write_mislabelled(root: Path) -> Path:
    """A smaller such data set in which a third of the blobs are called crosses."""
    write_folder(root, 120, 60)
    for split in ("train", "test"):
        for file in sorted((root / split / "blob").iterdir())[::3]:
            file.rename(root / split / "cross" / file.name)
    return root


@dataclass(frozen=True)
class Tiny:
    """A place with a data set, two networks and a recipe that goes with them."""

    root: Path
    data: Path
    recipe: Path

    def variant(self, name: str, *changes: tuple[str, str]) -> Path:
        """The recipe with some of its text replaced, as a file called `name`."""
        text = self.recipe.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = self.root / name
        path.write_text(text)
        return path


@dataclass
class Command:
    """The command line in a process of its own, under way or over."""

    process: BaseProcess
    folder: Path
    keyboard: int = -1

    def wait(self, timeout: float = 180) -> int:
        """The exit status; minus the signal's number if one ended it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self.out + self.err)
        return self.process.exitcode

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def press(self, key: str) -> None:
        """Press a key of its terminal, which shows it; a signal is to be sent besides."""
        os.write(self.keyboard, key.encode())

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def screen(self) -> str:
        """What was written to its terminal, carriage returns included."""
        return (self.folder / "out").read_bytes().decode()

    @property
    def err(self) -> str:
        file = self.folder / "err"
        return file.read_text() if file.exists() else ""


Published = Callable[
    [str], dict[str, torch.Tensor]
]  # a network's name to the weights that can be downloaded


class Compress(Protocol):
    """The command line, to be started or run."""

    def __call__(
        self,
        *arguments: object,
        tty: bool = False,
        both: bool = False,
        columns: int = 80,
        env: dict[str, str] | None = None,
        code: int = 0,
        target: Callable[..., None] = ...,
    ) -> Command: ...


def command_line(words: list[str], *place: Any) -> None:
    """The code of a started process; see `enter` for its place."""
    enter(*place)
    from compress.cli.main import main

    main(words, prog_name="compress")


def enter(folder: Path, networks: Path, screens: tuple[str, str], env: dict[str, str]) -> None:
    """Work in `folder` from here on; output and errors go to two files or terminals."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell ignores it for what it runs in the background
    # pytest sets it, for its own help.
    os.environ.pop("COLUMNS", None)
    os.environ.update(env)
    os.chdir(folder)
    sys.path.insert(0, str(networks))
    for number, name in enumerate(screens, start=1):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_NOCTTY, 0o644), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    torch.set_num_threads(1)


def copy_screen(keyboard: int, file: Path) -> None:
    """Write all that a pseudo-terminal shows to `file`, until nobody holds it any more."""
    with file.open("wb") as out, contextlib.suppress(OSError):
        while shown := os.read(keyboard, 65536):
            out.write(shown)
            out.flush()


def own_model(file: Path) -> Checkpoint:
    """A weights file of whatever network, built by the function that the file names."""
    return checkpoint.load(
        file, import_builder(torch.load(file, weights_only=True)["network"]["name"])
    )


def weights(run_or_file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, or of a run's result."""
    file = run_or_file if run_or_file.is_file() else run_or_file / "model.pth"
    return dict(own_model(file).model.state_dict())


def assert_same(run: Path, other: Path) -> None:
    """See that two runs came to the same, bit by bit."""
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    ours, theirs = (
        [replace(r, seconds=0, bytes=0) for r in read_results(path)[1]] for path in (run, other)
    )
    assert ours == theirs


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in `folder`, by its path there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def wait_for(what: Callable[[], Any], seconds: float = 120) -> None:
    """Wait until `what` is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


class Interrupted(Exception):
    """Stands in for a kill."""


class InterruptIn(RunEvents):
    """Interrupts a run when stage `name` has finished its epoch number `epoch`."""

    def __init__(self, name: str, epoch: int) -> None:
        self.name, self.left, self.now = name, epoch, ""

    def on_stage_start(self, number: int, total: int, name: str, about: str) -> None:
        self.now = name

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        self.left -= self.now == self.name
        if self.left == 0:
            raise Interrupted
