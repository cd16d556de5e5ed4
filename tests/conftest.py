"""Shared fixtures: the tiny data set with networks and a recipe, and the command line.

Commands run in real processes.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests are of what a CPU computes, to the bit
# As many processes run tests as there are cores: those that they start have one thread, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import torchvision.models as zoo
from tiny import (
    CLASSES,
    NETWORKS,
    RECIPE,
    Command,
    Compress,
    Published,
    Tiny,
    command_line,
    copy_screen,
    write_folder,
    write_mislabelled,
)

import compress
from compress.data.open_dataset import open_dataset
from compress.models import checkpoint
from compress.models.build import build, import_builder
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_sync() -> Iterator[None]:
    """Do not wait for the disk in this process; what that is for is tested with real processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators() -> Iterator[None]:
    """Let torch list the operators of ONNX once, not for every network that it exports.

    The list is torch's own affair: a version that keeps it elsewhere only takes longer.
    """
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError, AttributeError):
            module = importlib.import_module("torch.onnx._internal.exporter._registration")
            list_operators = staticmethod(functools.cache(module.ONNXRegistry.from_torchlib))
            patch.setattr(module.ONNXRegistry, "from_torchlib", list_operators)
        yield


@pytest.fixture(scope="session", autouse=True)
def forkserver() -> None:
    """Fork processes from one that has imported torch already: each import would take seconds."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [
            "compress.pipeline.run",
            "compress.cli.terminal",
            "compress.deployment.predict",
            "compress.experiments.experiment",
            "compress.experiments.sweep",
            "pytest",
        ]
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    root = tmp_path_factory.mktemp("tiny")
    (root / "tinynets.py").write_text(NETWORKS)
    data = write_folder(root / "images")
    recipe = root / "tiny.toml"
    recipe.write_text(RECIPE.format(data=data))
    sys.path.insert(0, str(root))
    yield Tiny(root, data, recipe)
    sys.path.remove(str(root))


@pytest.fixture(scope="session")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    compress.run(str(tiny.recipe), out=out)
    return out


@pytest.fixture(scope="session")
def untrained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file of a small network with random weights, `tinynets:student`."""
    torch.manual_seed(0)
    spec, path = ModelSpec("tinynets:student"), tmp_path_factory.mktemp("untrained") / "model.pth"
    model = import_builder(spec.name)(num_classes=4).eval()
    data = f"folder:{tiny.data}"
    made = Checkpoint(model, spec, CLASSES, (3, 16, 16), (0.4,) * 3, (0.25,) * 3, data)
    checkpoint.save(made, path)
    return path


@pytest.fixture(scope="session")
def mislabelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Data on which no network is right too often to be calibrated."""
    return f"folder:{write_mislabelled(tmp_path_factory.mktemp('mislabelled') / 'images')}"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    """Replace the weights that torchvision would download for any network by random ones."""
    names = {zoo.get_model_weights(name): name for name in zoo.list_models(module=zoo)}

    def weights(name: str) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return dict(zoo.get_model(name, weights=None).state_dict())

    download = "torchvision.models._api.WeightsEnum.get_state_dict"
    monkeypatch.setattr(download, lambda which, *_, **__: weights(names[type(which)]))
    return weights


@pytest.fixture
def start(tiny: Tiny, tmp_path: Path) -> Iterator[Compress]:
    """Start `compress ARGUMENTS…` in a process of its own, with its output in files."""
    context = multiprocessing.get_context("forkserver")
    started: list[Command] = []
    handles: list[int] = []  # of terminals, kept open: what is shown on a closed one may be lost

    def begin(
        *arguments: object,
        tty: bool = False,
        both: bool = False,
        columns: int = 80,
        env: dict[str, str] | None = None,
        code: int = 0,
        target: Callable[..., None] = command_line,
    ) -> Command:
        folder = tmp_path / f"command-{len(started)}"
        folder.mkdir()
        words = [str(argument) for argument in arguments]
        screen, keyboard, handle = "out", -1, -1
        if tty:
            keyboard, handle = os.openpty()
            termios.tcsetwinsize(handle, (50, columns))
            screen = os.ttyname(handle)
        process = context.Process(
            target=target,
            args=(words, folder, tiny.root, (screen, screen if both else "err"), env or {}),
        )
        process.start()
        started.append(Command(process, folder, keyboard))
        if tty:
            threading.Thread(
                target=copy_screen, args=(keyboard, folder / "out"), daemon=True
            ).start()
            handles.append(handle)
        return started[-1]

    yield begin
    for command in started:
        if command.process.is_alive():
            command.process.kill()
            command.process.join()
    for handle in handles:
        os.close(handle)


@pytest.fixture
def run(start: Compress) -> Compress:
    """Run `compress ARGUMENTS…` to its end; `code` is the exit status due."""

    def to_the_end(*arguments: object, code: int = 0, **options: Any) -> Command:
        command = start(*arguments, **options)
        assert command.wait() == code, command.out + command.err
        assert "Traceback" not in command.err
        return command

    return to_the_end


@pytest.fixture(scope="session")
def weights(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file whose network is torchvision's, and has learned nothing."""
    torch.manual_seed(0)
    data = open_dataset(f"folder:{tiny.data}", image_size=16)
    network = ModelSpec("resnet18", "small")
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    model = build(network, 4).eval()
    checkpoint.save(
        Checkpoint(model, network, CLASSES, (3, 16, 16), data.mean, data.std, data.name), path
    )
    return path
