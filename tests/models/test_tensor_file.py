"""Files of training scripts: what may lie beside the tensors, and what is refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from compress.models.tensor_file import EXPORTED, read_tensors, read_training_file
from compress.runtime.errors import UserError

BESIDE: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=0.1, out=Path("/runs/1"), device=torch.device("cpu")),
    "simple namespace": types.SimpleNamespace(a=1),
    "numpy scalars": (np.float64(93.1), np.float32(1), np.int64(4), np.bool_(True), np.str_("a")),
    "numpy arrays": (np.arange(3.0), np.array(["a", "bc"]), np.array([1, None], dtype=object)),
    "random state": np.random.get_state(),
    "dtype": np.dtype("float32"),
    "paths": (pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("c:/a")),
    "times": (datetime.datetime.now(datetime.UTC), datetime.date.today(), datetime.timedelta(3)),
    "collections": (collections.OrderedDict(a=1), collections.Counter("aab"), {1}, frozenset({2})),
    "deque": collections.deque([1.0, 2.0], maxlen=5),
    "others": (1 + 2j, slice(1, 2), b"bytes"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_values_beside_tensors_are_read(name: str, tmp_path: Path) -> None:
    torch.save({"net": torch.ones(2), "beside": BESIDE[name]}, tmp_path / "mine.pt")
    found = read_training_file(tmp_path / "mine.pt")
    assert torch.equal(found["net"], torch.ones(2))
    if name != "numpy arrays" and name != "random state":
        expected = BESIDE[name]
        if name == "namespace":
            assert found["beside"].lr == 0.1 and str(found["beside"].out) == str(expected.out)
        else:
            assert found["beside"] == (list(expected) if name == "deque" else expected)


def test_dictionaries_of_other_packages_become_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of Lightning, by name; the package need not be there to read them."""
    made = types.ModuleType("lightning_fabric.utilities.data")
    made.AttributeDict = type("AttributeDict", (dict,), {"__module__": made.__name__})
    parameters = made.AttributeDict(lr=0.1)
    parameters.note = "an attribute"
    default: dict[str, list[int]] = collections.defaultdict(list, {"a": [1]})
    with monkeypatch.context() as patch:
        for name in ("lightning_fabric", "lightning_fabric.utilities", made.__name__):
            patch.setitem(sys.modules, name, made)
        torch.save({"hyper_parameters": parameters, "log": default}, tmp_path / "a.ckpt")
    found = read_training_file(tmp_path / "a.ckpt")
    assert found == {"hyper_parameters": {"lr": 0.1}, "log": {"a": [1]}}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("was-run",)


class Reaching:
    """Calls a function by way of allowed ones."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return getattr, (argparse.Namespace, "__init__")


@pytest.mark.parametrize(
    ("content", "old", "message"),
    [
        ({"a": Evil()}, False, "posix.mkdir.*nothing was executed"),
        ({"a": Evil()}, True, "nothing was executed"),
        ({"a": [Reaching()]}, False, "getattr"),
        (argparse.Namespace(a=Evil()), False, "nothing was executed"),
        (torchvision.models.squeezenet1_1(), False, "a whole network.*model.state_dict()"),
        (torchvision.models.squeezenet1_1(), True, "squeezenet.SqueezeNet.*model.state_dict()"),
    ],
)
def test_code_is_refused_and_not_run(
    content: Any, old: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "mine.pt", _use_new_zipfile_serialization=not old)
    for read in (read_training_file, read_tensors):
        with pytest.raises(UserError, match=f"^mine.pt: .*{message}"):
            read("mine.pt")
    assert not Path("was-run").exists()


def test_a_namespace_is_not_read_from_weights_files(tmp_path: Path) -> None:
    torch.save(argparse.Namespace(a=1), tmp_path / "mine.pt")
    read_training_file(tmp_path / "mine.pt")
    with pytest.raises(UserError, match=r"argparse\.Namespace"):
        read_tensors(tmp_path / "mine.pt")


def test_torchscript_and_pickles_are_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "script.pt")
    with pytest.raises(UserError, match=r"TorchScript.*state_dict"):
        read_training_file(tmp_path / "script.pt")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(UserError):
        read_training_file(tmp_path / "a.pkl")


@pytest.mark.parametrize("suffix", EXPORTED)
def test_an_exported_file_is_refused_by_its_name(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="an exported file; pass the weights file"):
        read_tensors(file)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "download"),
        (b"<HTML><body>", "download"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_files_of_other_kinds_are_named(
    content: bytes, remedy: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*{remedy}"):
        read_training_file(tmp_path / name)


def test_safetensors(tmp_path: Path) -> None:
    first, second = {"a.weight": torch.rand(3)}, {"b.weight": torch.rand(2, 2)}
    save_file(first, tmp_path / "one.safetensors")
    save_file(second, tmp_path / "two.safetensors")
    found = read_training_file(tmp_path / "one.safetensors")
    assert torch.equal(found["a.weight"], first["a.weight"])
    index = tmp_path / "model.safetensors.index.json"
    files = {"a.weight": "one.safetensors", "b.weight": "two.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    assert read_training_file(index).keys() == {"a.weight", "b.weight"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.safetensors", b"\x00" * 20),
        ("a.safetensors", b""),
        ("a.safetensors.index.json", b"{}"),
        ("a.safetensors.index.json", b"not JSON"),
        ("a.safetensors.index.json", b'{"weight_map": {"a": "../secret.safetensors"}}'),
        ("a.safetensors.index.json", b'{"weight_map": {"a": "missing.safetensors"}}'),
    ],
)
def test_damaged_safetensors_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"safetensors"):
        read_training_file(tmp_path / name)
