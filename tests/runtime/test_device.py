"""The device of this machine, and its abilities."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from compress.runtime import device, distributed
from compress.runtime.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_without_a_gpu_the_cpu_is_picked() -> None:
    assert device.pick_device("auto") == device.pick_device("cpu") == CPU
    with pytest.raises(UserError, match=r"'cuda'.*--device cpu"):
        device.pick_device("cuda")
    with pytest.raises(UserError, match=r"'tpu'.*auto, cpu or cuda"):
        device.pick_device("tpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretend that there are two GPUs; return the ones that are made current."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_one_process_takes_the_default_gpu(two_gpus: list[int]) -> None:
    assert device.pick_device("auto") == device.pick_device("cuda") == GPU
    assert device.pick_device("cpu") == CPU and two_gpus == []


def test_each_process_has_a_gpu_of_its_own(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "local_rank", lambda: 1)
    assert device.pick_device("auto") == torch.device("cuda", 1) and two_gpus == [1]
    assert device.pick_device("cpu") == CPU
    monkeypatch.setattr(distributed, "local_rank", lambda: 2)
    with pytest.raises(UserError, match="2 GPUs: start at most 2 processes"):
        device.pick_device("auto")


def test_full_precision_turns_tf32_off_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.backends.cudnn.allow_tf32
    with torch.backends.cudnn.flags(allow_tf32=True):
        with device.full_precision():
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize(
    ("abilities", "fast"),
    [((), False), (("avx512_f",), False), (("avx512_bf16",), True), (("amx_bf16",), True)],
)
def test_bfloat16_is_fast_where_the_processor_multiplies_it(
    abilities: tuple[str, ...], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict.fromkeys(abilities, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert device.has_fast_bfloat16(CPU) is fast


def test_an_older_torch_knows_no_abilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not device.has_fast_bfloat16(CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert device.device_name(CPU).endswith(", 2 threads")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device.device_name(CPU).endswith(", 1 thread")


@pytest.mark.parametrize(
    ("where", "installed", "expected"),
    [
        (CPU, ["g++"], True),
        (CPU, ["clang++"], True),
        (CPU, ["gcc", "clang"], False),
        (CPU, [], False),
        (GPU, ["gcc"], True),
        (GPU, ["clang"], True),
        (GPU, ["mycc"], False),
        (GPU, ["g++"], False),
    ],
)
def test_compiling_needs_a_compiler(
    where: torch.device, installed: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in installed else None)
    assert device.can_compile(where) is expected


def test_the_c_compiler_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "mycc")
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "mycc" else None)
    assert device.can_compile(GPU) and not device.can_compile(CPU)


def test_a_distributed_run_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert device.can_compile(CPU)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert not device.can_compile(CPU)


def test_a_cpu_is_named_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"cpu_name": "A Processor"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert device.device_name(CPU) == "A Processor, 7 threads"


def test_versions_are_those_of_the_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = device.package_versions()
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == metadata.version("torch")

    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    assert device.package_versions()["torch"] == "not installed"


def test_on_the_cpu_tensors_stay_where_they_are() -> None:
    tensor = torch.ones(3)
    assert device.to_device(tensor, CPU) is tensor


def test_importing_the_room_does_not_import_torch() -> None:
    rooms = "errors, files, device, distributed"
    code = f"import sys; from compress.runtime import {rooms}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
