"""Hostile and damaged weights files are refused in one line, and no code in them is executed."""

from __future__ import annotations

import io
import os
import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_checkpoints import small_checkpoint
from torch import nn

from compress.models import checkpoint
from compress.models.file_content import VERSION
from compress.runtime.errors import UserError

Plain = dict[str, Any]


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a weights file that is as it should be."""
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    checkpoint.save(small_checkpoint(), path)
    return path.read_bytes()


def read_plain(content: bytes) -> Plain:
    data: Plain = torch.load(io.BytesIO(content), weights_only=True)
    return data


class Code:
    """An object whose pickle runs a command, which leaves a marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def load_refused(path: Path, marker: Path | None = None) -> str:
    """Return the message of a refusal: one line that names the file."""
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and len(line.splitlines()) == 1
    assert len(line) < len(str(path)) + 300
    assert marker is None or not marker.exists()
    return line


def test_other_files_are_refused_and_no_code_is_executed(small_file: bytes, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pth", tmp_path / "marker"
    assert "no such file" in load_refused(path)
    assert "not a file" in load_refused(tmp_path)
    files: list[bytes] = [
        b"",
        b"hello, this is text\n",
        random.Random(0).randbytes(5000),
        pickle.dumps(Code(marker)),
        pickle.dumps({"format": "compress.weights", "version": VERSION}),
    ]
    model = small_checkpoint().model
    for content in (
        Code(marker),
        {**read_plain(small_file), "origin": Code(marker)},
        model,
        model.state_dict(),
    ):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            files.append(buffer.getvalue())
    for file in files:
        path.write_bytes(file)
        load_refused(path, marker)
    # The command does leave the marker that the test looks for.
    os.system(Code(marker).__reduce__()[1][0])
    assert marker.exists()


def test_truncated_file_is_refused(small_file: bytes, tmp_path: Path) -> None:
    path, size = tmp_path / "model.pth", len(small_file)
    for length in [1, 2, 3, 4, 100, *range(1000, size, size // 40), size - 1]:
        path.write_bytes(small_file[:length])
        load_refused(path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bit_is_refused_or_harmless(
    data: st.DataObject, small_file: bytes, tmp_path: Path
) -> None:
    content = bytearray(small_file)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    try:
        loaded = checkpoint.load(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        logits = loaded.model(torch.zeros(1, *loaded.input_size))
        assert logits.shape == (1, len(loaded.classes)) and bool(torch.isfinite(logits).all())


def put(*path: Any, to: Any) -> Callable[[Plain], None]:
    """Return a function that sets the value at `path`."""

    def change(plain: Plain) -> None:
        *outer, leaf = path
        for part in outer:
            plain = plain[part]
        plain[leaf] = to

    return change


def without(*path: str) -> Callable[[Plain], None]:
    """Return a function that deletes the value at `path`."""

    def change(plain: Plain) -> None:
        *outer, leaf = path
        for part in outer:
            plain = plain[part]
        del plain[leaf]

    return change


def tensor(
    change: Callable[[torch.Tensor], Any], key: str = "conv1.weight"
) -> Callable[[Plain], None]:
    """Return a function that changes one tensor."""

    def apply(plain: Plain) -> None:
        plain["state_dict"][key] = change(plain["state_dict"][key])

    return apply


def width(value: Any, name: str = "out_channels", path: str = "conv1") -> Callable[[Plain], None]:
    """Return a function that changes one width."""
    return put("widths", path, name, to=value)


def swap_key(plain: Plain) -> None:
    plain["state_dict"]["conv9.weight"] = plain["state_dict"].pop("conv1.weight")


def end_in_nan(values: torch.Tensor) -> torch.Tensor:
    values.view(-1)[-1] = float("nan")
    return values


def use_small_images(plain: Plain) -> None:
    model = torchvision.models.squeezenet1_1(weights=None, num_classes=5)
    plain |= {"network": {"name": "squeezenet1_1"}, "widths": {}, "input_size": [3, 8, 8]}
    plain["state_dict"] = model.state_dict()


# Change, by name, and what the message must contain.
TAMPERED: dict[str, tuple[Callable[[Plain], None], str]] = {
    **{
        f"width {value!r}": (width(value), "conv1.out_channels")
        for value in (0, -4, True, "4", 10**30, 65, 4.0, None, [4], (4, 4), [])
    },
    "width of a layer that it does not fit": (width(3), "conv1.weight"),
    "width of an unknown layer": (put("widths", "conv9", to={"out_channels": 4}), "conv9"),
    "attribute that is no width": (width(1, "kernel_size"), "kernel_size"),
    "attribute with side effects": (width(1, "__class__"), "__class__"),
    "width that the layer lacks": (width(1, "num_heads"), "num_heads"),
    "groups": (width(2, "groups"), "groups"),
    "widths as a list": (put("widths", to=[1, 2]), "widths: must be a table"),
    "widths of a layer as a number": (put("widths", "conv1", to=3), "widths.conv1: must be a ta"),
    "widths empty": (put("widths", to={}), "conv1.weight"),
    "tensor of another shape": (tensor(lambda t: t[:, :2]), "conv1.weight"),
    "tensor transposed": (tensor(lambda t: t.transpose(0, 1)), "conv1.weight"),
    "tensor empty": (tensor(lambda t: t[:0]), "conv1.weight"),
    "tensor a scalar": (tensor(lambda t: torch.tensor(1.0)), "conv1.weight"),
    "NaN": (tensor(end_in_nan), "conv1.weight"),
    "infinity": (tensor(lambda t: t / 0), "conv1.weight"),
    "NaN in a buffer": (tensor(end_in_nan, "bn1.running_var"), "bn1.running_var"),
    "negative variance": (tensor(lambda t: t - 100, "bn1.running_var"), "finite logits"),
    "another dtype": (tensor(lambda t: t.double()), "conv1.weight"),
    "integers": (tensor(lambda t: t.long()), "conv1.weight"),
    "complex numbers": (tensor(lambda t: t.to(torch.complex64)), "conv1.weight"),
    "sparse tensor": (tensor(lambda t: t.to_sparse()), "conv1.weight"),
    "quantized tensor": (
        tensor(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
        "conv1.weight",
    ),
    "tensor without values": (tensor(lambda t: t.to("meta")), "conv1.weight"),
    "tensor that repeats one value": (
        tensor(lambda t: torch.zeros(1).expand(t.shape)),
        "conv1.weight",
    ),
    "number for a tensor": (tensor(lambda t: 3), "conv1.weight"),
    "None for a tensor": (tensor(lambda t: None), "conv1.weight"),
    "list for a tensor": (tensor(lambda t: t.tolist()), "conv1.weight"),
    "tensor missing": (without("state_dict", "conv1.weight"), "conv1.weight"),
    "tensor too many": (put("state_dict", "conv9.weight", to=torch.zeros(3)), "conv9.weight"),
    "tensor under another name": (swap_key, "conv1.weight"),
    "tensor under a number": (put("state_dict", 3, to=torch.zeros(3)), "state_dict"),
    "tensors empty": (put("state_dict", to={}), "state_dict"),
    "tensors as a list": (put("state_dict", to=[torch.zeros(3)]), "state_dict: must be a table"),
    "one class": (put("classes", to=["a"]), "fc.weight"),
    "no classes": (put("classes", to=[]), "classes"),
    "classes as text": (put("classes", to="abcde"), "classes: must be a list"),
    "classes as numbers": (put("classes", to=[1, 2, 3, 4, 5]), "classes.1: must be text"),
    "class twice": (put("classes", to=["a", "a", "b", "c", "d"]), "classes: must be distinct"),
    "one mean": (put("mean", to=[0.5]), "mean"),
    "mean NaN": (put("mean", to=[0.5, 0.5, float("nan")]), "mean.3"),
    "mean as text": (put("mean", to=["0.5", "0.5", "0.5"]), "mean.1: must be a number"),
    "mean as one number": (put("mean", to=0.5), "mean: must be a list"),
    "mean as a tensor": (put("mean", to=torch.ones(3)), "mean: must be a list"),
    "deviation zero": (put("std", to=[0.5, 0.0, 0.5]), "std.2"),
    "deviation negative": (put("std", to=[0.5, -1.0, 0.5]), "std.2"),
    "deviation infinite": (put("std", to=[0.5, float("inf"), 0.5]), "std.2"),
    "images huge": (put("input_size", to=[3, 4096, 4096]), "input_size.2"),
    "images empty": (put("input_size", to=[3, 0, 28]), "input_size.2"),
    "images negative": (put("input_size", to=[3, -28, 28]), "input_size.2"),
    "images of one channel": (
        put("input_size", to=[1, 28, 28]),
        "mean: must have a value for each",
    ),
    "images of two channels": (put("input_size", to=[2, 28, 28]), "input_size: must have three"),
    "images of one row": (put("input_size", to=[3, 28]), "input_size"),
    "images as text": (put("input_size", to=["3", "28", "28"]), "input_size.1"),
    "images of half a pixel": (put("input_size", to=[3, 28.5, 28]), "input_size.2"),
    "images too small for the network": (use_small_images, "do not fit together"),
    "another network": (put("network", "name", to="resnet34"), "state_dict"),
    "unknown network": (put("network", "name", to="resnet19"), "'resnet19'"),
    "network of another source": (put("network", "source", to="zoo"), "'resnet18'"),
    "custom network of a plain name": (put("network", "source", to="custom"), "'resnet18'"),
    "unknown source": (put("network", "source", to="hub"), "source: must be"),
    "network name a number": (put("network", "name", to=18), "name: must be text"),
    "network name a list": (put("network", "name", to=["resnet18"]), "name: must be text"),
    "network name a tensor": (put("network", "name", to=torch.ones(2)), "'tensor("),
    "network name a module": (put("network", "name", to="os:system"), "os:system"),
    "another stem": (put("network", "stem", to="imagenet"), "conv1.weight"),
    "unknown stem": (put("network", "stem", to="tiny"), "stem: must be"),
    "stem a list": (put("network", "stem", to=["small"]), "stem: must be"),
    "pretrained a number": (put("network", "pretrained", to=1), "pretrained: must be"),
    "unknown key of the network": (put("network", "extra", to=1), "extra: unknown key"),
    "weights of the network": (put("network", "weights", to="a.pth"), "weights: unknown key"),
    "head as text": (put("network", "head", to="8"), "head: must be a list"),
    "head as a number": (put("network", "head", to=8), "head: must be a list"),
    "another head": (put("network", "head", to=(8,)), "fc.in_features"),
    "huge head": (put("network", "head", to=(10**9,)), "1000000000"),
    "head of text": (put("network", "head", to=("8",)), "head.1: must be a whole number"),
    "network as text": (put("network", to="resnet18"), "network: must be a table"),
    "network empty": (put("network", to={}), "name: is missing"),
    "another format": (put("format", to="other"), "not a weights file"),
    "format a tensor": (put("format", to=torch.ones(2)), "not a weights file"),
    "older version": (put("version", to=1), "version 1"),
    "newer version": (put("version", to=4), "version 4"),
    "background a word": (put("background", to="white"), "background"),
    "crop_ratio above 1": (put("crop_ratio", to=1.5), "crop_ratio"),
    "version a fraction": (put("version", to=2.0), "version 2.0"),
    "version a tensor": (put("version", to=torch.ones(2)), "version"),
    "version as text": (put("version", to="1\n2"), "version"),
    "sparse a number": (put("sparse", to=1), "sparse: must be true or false"),
    "origin a number": (put("origin", to=3), "origin: must be a table"),
    "data a list": (put("data", to=["cifar10"]), "data: must be text"),
    "unknown key": (put("extra", to=1), "extra: unknown key"),
    "key a number": (put(3, to=1), "keywords must be strings"),
    "without format": (without("format"), "not a weights file"),
    "without version": (without("version"), "version None"),
    **{
        f"without {key}": (without(key), f"{key}: is missing")
        for key in (
            "network",
            "widths",
            "state_dict",
            "classes",
            "input_size",
            "mean",
            "std",
            "data",
            "origin",
            "sparse",
        )
    },
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_file_is_refused_in_one_line(name: str, small_file: bytes, tmp_path: Path) -> None:
    change, expected = TAMPERED[name]
    plain, path = read_plain(small_file), tmp_path / "model.pth"
    change(plain)
    torch.save(plain, path)
    assert expected in load_refused(path)


def test_untampered_file_is_accepted(small_file: bytes, tmp_path: Path) -> None:
    torch.save(read_plain(small_file), tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth")
    assert loaded.classes == small_checkpoint().classes


def test_small_file_cannot_ask_for_gigabytes(small_file: bytes, tmp_path: Path) -> None:
    with torch.device("meta"):
        huge = torchvision.models.vit_h_14(weights=None, num_classes=5).state_dict()
    plain = read_plain(small_file) | {"network": {"name": "vit_h_14"}, "widths": {}}
    plain["state_dict"] = {
        key: torch.zeros(1, dtype=value.dtype).expand(value.shape) for key, value in huge.items()
    }
    torch.save(plain, tmp_path / "model.pth")
    assert (tmp_path / "model.pth").stat().st_size < 10**6
    assert "larger than its data in the file" in load_refused(tmp_path / "model.pth")


def test_custom_network_is_not_imported_because_a_file_names_it(
    small_file: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("open(__file__ + '.ran', 'w')\ndef net(num_classes): pass\n")
    path, marker = tmp_path / "model.pth", tmp_path / "mine.py.ran"
    monkeypatch.syspath_prepend(str(tmp_path))
    for spec in ({"name": "mine:net", "source": "custom"}, {"name": "mine:net"}):
        torch.save(read_plain(small_file) | {"network": spec}, path)
        assert "'mine:net' is custom" in load_refused(path, marker)
    for source in ("torchvision", "zoo"):
        spec = {"name": "mine:net", "source": source}
        torch.save(read_plain(small_file) | {"network": spec}, path)
        assert "mine:net" in load_refused(path, marker)
    assert "mine" not in sys.modules


class Guarded(nn.Module):
    """A user's network with a width that is computed, and must not be set."""

    touched = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    @property
    def in_features(self) -> int:
        return 3

    @in_features.setter
    def in_features(self, value: int) -> None:
        type(self).touched = True

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.mean((2, 3)))  # type: ignore[no-any-return]


def test_file_cannot_set_a_property_of_a_custom_network(small_file: bytes, tmp_path: Path) -> None:
    model = Guarded(5)
    plain = read_plain(small_file) | {
        "network": {"name": "mine:net"},
        "widths": {"": {"in_features": 2}},
        "state_dict": model.state_dict(),
    }
    torch.save(plain, tmp_path / "model.pth")
    with pytest.raises(UserError, match="in_features"):
        checkpoint.load(tmp_path / "model.pth", Guarded)
    assert not Guarded.touched
