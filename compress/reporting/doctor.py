"""What this installation and machine are, and what would be slow or missing here."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import InvalidRequirement, Requirement

from compress.data.cache import (
    DATA_FOLDERS,
    REMADE,
    SYSTEM_FASHION_MNIST,
    cache_root,
    count_bytes,
)
from compress.recipe.registry import DATA_SOURCES
from compress.reporting.tables import Table
from compress.runtime.device import (
    can_compile,
    count_cores,
    count_threads,
    count_usable_cores,
    device_name,
    free_memory,
    has_fast_bfloat16,
    package_versions,
    pick_device,
)
from compress.runtime.files import format_size

# Below these, runs get slow, or fail half-way.
LITTLE_MEMORY, LITTLE_DISK = 2 * 10**9, 2 * 10**9


def versions_table() -> Table:
    """Return the versions of Python and of the packages that determine a result."""
    rows = [[name, version] for name, version in package_versions().items()]
    return Table(["package", "version"], [*rows, ["system", platform.platform()]], left=2)


def extras_table(requirements: Iterable[str] | None = None) -> Table | None:
    """Return the extras of this package, and whether what they need is installed.

    Args:
        requirements: as a package's metadata lists them; this package's if left out.

    Returns:
        None if there are no extras, as for a checkout that is not installed.
    """
    if requirements is None:
        requirements = _own_requirements()
    wanted: dict[str, list[str]] = {}
    for text in requirements:
        with suppress(InvalidRequirement):
            found = Requirement(text)
            extra = re.search(r"extra == ['\"]([\w-]+)", str(found.marker))
            # Some extras are made of others.
            if extra and found.name != "compress":
                wanted.setdefault(extra[1], []).append(found.name)
    rows = []
    for name, packages in wanted.items():
        missing = [package for package in packages if not _is_installed(package)]
        hint = f"no {', '.join(missing)}: pip install 'compress[{name}]'"
        rows.append([name, hint if missing else "installed"])
    return Table(["extra", "state"], rows, left=2) if rows else None


def _own_requirements() -> list[str]:
    try:
        return metadata.requires("compress") or []
    except metadata.PackageNotFoundError:
        return []


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def machine_table() -> Table:
    """Return what this machine computes with."""
    device = pick_device("auto")
    free, root = free_memory(), _existing(cache_root())
    yes = {True: "yes", False: "no"}
    rows = {
        "device": device_name(device),
        "threads": f"{torch.get_num_threads()} of torch, {count_usable_cores()} cores usable",
        "memory free": "not known" if free is None else format_size(free),
        "disk free": f"{format_size(shutil.disk_usage(root).free)} at {root}",
        "bfloat16 in hardware": yes[has_fast_bfloat16(device)],
        "torch.compile": yes[can_compile(device)],
    }
    if device.type == "cuda":
        rows["GPU memory"] = format_size(torch.cuda.get_device_properties(device).total_memory)
    return Table(["machine", ""], list(map(list, rows.items())), left=2)


def data_table() -> Table:
    """Return the data sets that have a name, with place and size of those that are here."""
    places = {name: cache_root() / folder for name, folder in DATA_FOLDERS.items()}
    if not places["fashion-mnist"].is_dir() and SYSTEM_FASHION_MNIST.is_dir():
        places["fashion-mnist"] = SYSTEM_FASHION_MNIST
    here = {name: path for name, path in places.items() if path.is_dir()}
    rows = [[name, str(path), format_size(count_bytes(path))] for name, path in here.items()]
    if others := [name for name in DATA_SOURCES.names() if name not in here]:
        rows.append([", ".join(others), "not here; read or downloaded when first used", ""])
    return Table(["data set", "place", "size"], rows, left=2)


def caches_table() -> Table:
    """Return the caches with their sizes, and which of them `--clear-cache` clears."""
    rows = [
        [what, str(cache_root() / name), format_size(count_bytes(cache_root() / name)), "yes"]
        for name, what in REMADE.items()
    ]
    for what, path in _other_caches().items():
        rows.append([what, str(path), format_size(count_bytes(path)), "no"])
    return Table(["cache", "place", "size", "--clear-cache"], rows, left=2)


def _other_caches() -> dict[str, Path]:
    """Return the caches that belong to other programs too."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return {
        "published weights": Path(torch.hub.get_dir()) / "checkpoints",
        "Hugging Face": home,
    }


def _existing(path: Path) -> Path:
    """Return the innermost folder of a path that exists."""
    return next(each for each in (path, *path.parents) if each.is_dir())


def find_problems() -> list[str]:
    """Describe what would be slow on this machine, or fail: a line for each, with what to do."""
    return [*_processor_problems(), *_room_problems()]


def _processor_problems() -> list[str]:
    device = pick_device("auto")
    threads, cores = torch.get_num_threads(), count_usable_cores()
    found = []
    if device.type == "cpu":
        has_gpu = shutil.which("nvidia-smi") is not None
        if has_gpu and torch.version.cuda is None:
            found.append(
                f"torch {torch.__version__} is built without CUDA, so the GPU is idle; install the"
                " CUDA build (pytorch.org has the command)"
            )
        else:
            found.append(
                "no GPU: large teachers and photos take long to train; begin with --quick, or set"
                " --minutes"
            )
    if not can_compile(device):
        found.append(
            "no C++ compiler: training is not compiled; install one (apt-get install g++)"
            if device.type == "cpu"
            else "no C compiler: training is not compiled; install one (apt-get install gcc)"
        )
    # By itself, torch leaves out the second thread of each core.
    if threads < cores and "OMP_NUM_THREADS" in os.environ:
        found.append(
            f"torch has {count_threads(threads)} for {cores} cores; unset OMP_NUM_THREADS, or set"
            f" it to {cores}"
        )
    if threads > cores:
        found.append(
            f"torch starts {threads} threads on {cores} cores, which wait for each other; set"
            f" OMP_NUM_THREADS={cores}"
        )
    with suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
        if load > count_cores():
            found.append(
                f"other programs use the cores (load {load:.1f} on {count_cores()}): times come out"
                " too long; measure --latency and bench when they are done"
            )
    return found


def _room_problems() -> list[str]:
    found, free, root = [], free_memory(), _existing(cache_root())
    if free is not None and free < LITTLE_MEMORY:
        found.append(
            f"{format_size(free)} of memory are free: many photos stay on the disk and are decoded"
            " in each epoch; close other programs, or train on fewer by --max-images"
        )
    if (room := shutil.disk_usage(root).free) < LITTLE_DISK:
        found.append(
            f"{format_size(room)} are free on the disk of {root}: data sets may not fit; make room"
            " (--clear-cache), or name another folder in COMPRESS_DATA"
        )
    if not os.access(root, os.W_OK):
        found.append(
            f"{root} cannot be written: data sets are not downloaded, and nothing is remembered;"
            " name another folder in COMPRESS_DATA"
        )
    return found
