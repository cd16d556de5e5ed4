"""The machine at hand: its device, what that can do and is called, and the versions of what runs on it."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata

import torch
from torch import Tensor

from compress.runtime import distributed as processes
from compress.runtime.errors import UserError


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` as a device that is there."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': torch finds no GPU here; use --device cpu")
    device = torch.device("cuda" if name in ("auto", "cuda") and torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and processes.count() > 1:  # a GPU for each
        if processes.place() >= (gpus := torch.cuda.device_count()):
            raise UserError(f"there are {gpus} GPUs here: start as many processes at most, or use --device cpu")
        torch.cuda.set_device(processes.place())
        return torch.device("cuda", processes.place())
    return device


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. A GPU gets it from pinned memory: from any other, the copy waits for all work so far."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def all_digits() -> AbstractContextManager[None]:
    """Within this, float32 is float32: convolutions on a GPU otherwise round what they multiply to 10 bits (TF32)."""
    if not torch.cuda.is_available():
        return nullcontext()
    now = torch.backends.cudnn
    return now.flags(now.enabled, benchmark=now.benchmark, deterministic=now.deterministic, allow_tf32=False)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs here: a compiler of C++ for the CPU's code, of C for Triton's on a GPU.

    Not among several processes: every batch norm is a meeting, which breaks the network into parts.
    """
    if processes.count() > 1:
        return False
    compilers = (os.environ.get("CC", "gcc"), "clang") if device.type == "cuda" else ("g++", "clang++")
    return any(shutil.which(compiler) for compiler in compilers)


def device_name(device: torch.device) -> str:
    """The processor's own name, and for a CPU how many threads are used of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else None
    return f"{name or platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Of Python and the packages that decide what a run computes."""
    packages = ("compress", "torch", "torchvision", "torch-pruning", "torchinfo")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
