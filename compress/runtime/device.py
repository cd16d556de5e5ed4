"""The device of this machine, its abilities, and the versions of installed packages.

torch is imported inside the functions, so that importing this module stays cheap.
"""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from compress.runtime import distributed
from compress.runtime.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def pick_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda`` to a device of this machine.

    Raises:
        UserError: there is no such device, or there are fewer GPUs than processes.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': torch finds no GPU here; use --device cpu")
    use_gpu = name in ("auto", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    if use_gpu and distributed.world_size() > 1:
        # Each process has a GPU of its own.
        if distributed.local_rank() >= (gpus := torch.cuda.device_count()):
            raise UserError(
                f"this machine has {gpus} GPUs: start at most {gpus} processes, or use --device cpu"
            )
        torch.cuda.set_device(distributed.local_rank())
        return torch.device("cuda", distributed.local_rank())
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move `tensor` to `device`, through pinned memory if the device is a GPU.

    A copy from pageable memory would wait until the GPU has done all queued work.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def full_precision() -> AbstractContextManager[None]:
    """Return a context in which a GPU does not round the inputs of float32 convolutions to TF32."""
    import torch

    if not torch.cuda.is_available():
        return nullcontext()
    now = torch.backends.cudnn
    return now.flags(
        now.enabled, benchmark=now.benchmark, deterministic=now.deterministic, allow_tf32=False
    )


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return True if `device` multiplies bfloat16 in hardware."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def can_compile(device: torch.device) -> bool:
    """Return True if torch.compile has a compiler here: C++ for CPU code, C for Triton on a GPU.

    Always False in a distributed run: its batch norms communicate, and each would break the graph.
    """
    if distributed.world_size() > 1:
        return False
    compilers = (
        (os.environ.get("CC", "gcc"), "clang") if device.type == "cuda" else ("g++", "clang++")
    )
    return any(shutil.which(compiler) for compiler in compilers)


def device_name(device: torch.device) -> str:
    """Return the name of the processor, for a CPU with the number of threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    name = has.get("cpu_name") or platform.processor() or platform.machine()
    return f"{name}, {count_threads(torch.get_num_threads())}"


def count_threads(threads: int) -> str:
    """Return a number of threads in words: 1 thread, 2 threads."""
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_usable_cores() -> int:
    """Return the number of cores that this process may keep busy, within the limit of a container.

    More threads than that take turns, and wait for each other.
    """
    cores = count_cores()
    # Linux alone has this file, and the first word is "max" where there is no limit.
    with suppress(OSError, ValueError):
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        cores = min(cores, max(1, round(quota / period)))
    return cores


def free_memory() -> int | None:
    """Return the memory that is free for use, in bytes; None where that is not known.

    In a container, it is what the container may still take.
    """
    free = []
    # Linux alone has these files, and the second only in a container.
    with suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(1024 * int({words[0]: words[1] for words in lines}["MemAvailable:"]))
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free.append(max(0, limit - int((group / "memory.current").read_text())))
    return min(free, default=None)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine a run's result."""
    packages = ("compress", "torch", "torchvision", "torch-pruning", "torchinfo")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
