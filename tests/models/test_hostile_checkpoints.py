"""What is no weights file, or no longer one, is refused in one line, and nothing in it is run."""

from __future__ import annotations

import functools
import io
import os
import pickle
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed import small

from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.runtime.errors import UserError

Plain = dict[str, Any]


@functools.cache
def small_bytes() -> bytes:
    return as_bytes(small())


def as_bytes(kept: Checkpoint) -> bytes:
    path = Path(os.environ["PYTEST_TMP"]) / "as_bytes.pth"
    checkpoint.save(kept, path)
    return path.read_bytes()


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PYTEST_TMP"] = str(tmp_path_factory.mktemp("weights"))


def plain_data() -> Plain:
    data: Plain = torch.load(io.BytesIO(small_bytes()), weights_only=True)
    return data


class Code:
    """Pickled, it is a command; the marker file tells whether anybody ran it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def refused(path: Path, marker: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    line = str(caught.value)
    assert (
        line.startswith(f"{path}: ")
        and len(line.splitlines()) == 1
        and len(line) < len(str(path)) + 300
    )
    assert marker is None or not marker.exists()
    return line


def test_what_is_no_weights_file_is_refused_and_nothing_is_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pth", tmp_path / "marker"
    assert "no such file" in refused(path)
    assert "not a file" in refused(tmp_path)
    files: list[bytes] = [
        b"",
        b"hello, this is text\n",
        random.Random(0).randbytes(5000),
        pickle.dumps(Code(marker)),
    ]
    for holder in (
        Code(marker),
        {**plain_data(), "origin": Code(marker)},
        small().model,
        small().model.state_dict(),
    ):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(holder, buffer, _use_new_zipfile_serialization=zipped)
            files.append(buffer.getvalue())
    for content in [*files, pickle.dumps({"format": "compress.weights", "version": 1})]:
        path.write_bytes(content)
        refused(path, marker)
    os.system(Code(marker).__reduce__()[1][0])
    assert marker.exists()  # the command does what the test watches for


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "model.pth", small_bytes()
    for length in [1, 2, 3, 4, 100, *range(1000, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(small_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    try:
        kept = checkpoint.load(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        logits = kept.model(torch.zeros(1, *kept.input_size))
        assert logits.shape == (1, len(kept.classes)) and bool(torch.isfinite(logits).all())


def put(*path: Any, to: Any) -> Callable[[Plain], None]:
    def change(plain: Plain) -> None:
        *outer, leaf = path
        for part in outer:
            plain = plain[part]
        plain[leaf] = to

    return change


def tensor(
    change: Callable[[torch.Tensor], Any], key: str = "conv1.weight"
) -> Callable[[Plain], None]:
    def apply(plain: Plain) -> None:
        plain["state_dict"][key] = change(plain["state_dict"][key])

    return apply


def width(value: Any, name: str = "out_channels", path: str = "conv1") -> Callable[[Plain], None]:
    return put("widths", path, name, to=value)


def without(*path: str) -> Callable[[Plain], None]:
    def change(plain: Plain) -> None:
        *outer, leaf = path
        for part in outer:
            plain = plain[part]
        del plain[leaf]

    return change


def swap_key(plain: Plain) -> None:
    plain["state_dict"]["conv9.weight"] = plain["state_dict"].pop("conv1.weight")


def nan(values: torch.Tensor) -> torch.Tensor:
    values.view(-1)[-1] = float("nan")
    return values


TAMPERED: dict[str, Callable[[Plain], None]] = {
    **{
        f"width {value!r}": width(value)
        for value in (0, -4, True, "4", 10**30, 65, 4.0, None, [4], (4, 4), [])
    },
    "width of a layer it does not fit": width(3),
    "width of no layer": put("widths", "conv9", to={"out_channels": 4}),
    "an attribute that is no width": width(1, "kernel_size"),
    "an attribute with side effects": width(1, "__class__"),
    "widths of groups": width(2, "groups"),
    "widths not a table": put("widths", to=[1, 2]),
    "one layer's widths not a table": put("widths", "conv1", to=3),
    "no widths": put("widths", to={}),
    "a tensor of another shape": tensor(lambda t: t[:, :2]),
    "a tensor transposed": tensor(lambda t: t.transpose(0, 1)),
    "an empty tensor": tensor(lambda t: t[:0]),
    "a scalar tensor": tensor(lambda t: torch.tensor(1.0)),
    "NaN": tensor(nan),
    "infinity": tensor(lambda t: t / 0),
    "NaN in a buffer": tensor(nan, "bn1.running_var"),
    "a negative variance": tensor(lambda t: t - 100, "bn1.running_var"),
    "another dtype": tensor(lambda t: t.double()),
    "integers": tensor(lambda t: t.long()),
    "complex numbers": tensor(lambda t: t.to(torch.complex64)),
    "a sparse tensor": tensor(lambda t: t.to_sparse()),
    "a quantized tensor": tensor(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "a tensor of no values": tensor(lambda t: t.to("meta")),
    "a tensor that repeats one value": tensor(lambda t: torch.zeros(1).expand(t.shape)),
    "a number for a tensor": tensor(lambda t: 3),
    "nothing for a tensor": tensor(lambda t: None),
    "a list for a tensor": tensor(lambda t: t.tolist()),
    "a tensor missing": without("state_dict", "conv1.weight"),
    "a tensor too many": put("state_dict", "conv9.weight", to=torch.zeros(3)),
    "a tensor under another name": swap_key,
    "no tensors": put("state_dict", to={}),
    "tensors in a list": put("state_dict", to=[torch.zeros(3)]),
    "a class too few": put("classes", to=["a"]),
    "no classes": put("classes", to=[]),
    "classes as text": put("classes", to="abcde"),
    "classes as numbers": put("classes", to=[1, 2, 3, 4, 5]),
    "a class twice": put("classes", to=["a", "a", "b", "c", "d"]),
    "a mean too few": put("mean", to=[0.5]),
    "a mean that is NaN": put("mean", to=[0.5, 0.5, float("nan")]),
    "a mean as text": put("mean", to=["0.5", "0.5", "0.5"]),
    "mean as one number": put("mean", to=0.5),
    "a deviation of zero": put("std", to=[0.5, 0.0, 0.5]),
    "a negative deviation": put("std", to=[0.5, -1.0, 0.5]),
    "an infinite deviation": put("std", to=[0.5, float("inf"), 0.5]),
    "huge images": put("input_size", to=[3, 4096, 4096]),
    "no images": put("input_size", to=[3, 0, 28]),
    "negative images": put("input_size", to=[3, -28, 28]),
    "images of one channel": put("input_size", to=[1, 28, 28]),
    "flat images": put("input_size", to=[3, 28]),
    "images of text": put("input_size", to=["3", "28", "28"]),
    "images too small for the network": put(
        "network", to={"name": "alexnet", "stem": "imagenet", "pretrained": False}
    ),
    "another network": put("network", "name", to="resnet34"),
    "no such network": put("network", "name", to="resnet19"),
    "a network that is a number": put("network", "name", to=18),
    "a network that is a list": put("network", "name", to=["resnet18"]),
    "a module for a network": put("network", "name", to="os:system"),
    "another stem": put("network", "stem", to="imagenet"),
    "no such stem": put("network", "stem", to="tiny"),
    "a stem that cannot be a key": put("network", "stem", to=["small"]),
    "pretrained perhaps": put("network", "pretrained", to=1),
    "a network too full": put("network", "extra", to=1),
    "a head as text": put("network", "head", to="8"),
    "a head as a number": put("network", "head", to=8),
    "another head": put("network", "head", to=(8,)),
    "a huge head": put("network", "head", to=(10**9,)),
    "a head of text": put("network", "head", to=("8",)),
    "a network as text": put("network", to="resnet18"),
    "an unfinished network": put("network", to={}),
    "another format": put("format", to="other"),
    "a format that is a tensor": put("format", to=torch.ones(2)),
    "another version": put("version", to=2),
    "a version that is a tensor": put("version", to=torch.ones(2)),
    "a version as text": put("version", to="1\n2"),
    "origin as a number": put("origin", to=3),
    **{
        f"no {name}": without(name)
        for name in ("format", "version", "network", "state_dict", "classes", "input_size")
    },
    **{f"without {name}": without(name) for name in ("mean", "std", "widths", "data", "origin")},
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    plain, path = plain_data(), tmp_path / "model.pth"
    TAMPERED[name](plain)
    torch.save(plain, path)
    started = time.monotonic()
    refused(path)
    assert time.monotonic() - started < 5


def test_the_file_that_the_tampering_starts_from_is_good(tmp_path: Path) -> None:
    torch.save(plain_data(), tmp_path / "model.pth")
    checkpoint.load(tmp_path / "model.pth")


def test_a_small_file_cannot_ask_for_gigabytes(tmp_path: Path) -> None:
    with torch.device("meta"):
        huge = torchvision.models.vit_h_14(weights=None, num_classes=5).state_dict()
    plain = plain_data() | {
        "network": {"name": "vit_h_14", "stem": "imagenet", "pretrained": False},
        "widths": {},
    }
    plain["state_dict"] = {
        key: torch.zeros(1, dtype=value.dtype).expand(value.shape) for key, value in huge.items()
    }
    torch.save(plain, tmp_path / "model.pth")
    assert (tmp_path / "model.pth").stat().st_size < 10**6
    assert "larger than what the file holds" in refused(tmp_path / "model.pth")


def test_a_persons_own_network_is_never_imported_on_the_files_word(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("open(__file__ + '.ran', 'w')\ndef net(num_classes): pass\n")
    plain = plain_data()
    plain["network"]["name"] = "mine:net"
    plain["network"]["stem"] = "imagenet"
    torch.save(plain, tmp_path / "model.pth")
    sys.path.insert(0, str(tmp_path))
    try:
        assert "pass that function" in refused(
            tmp_path / "model.pth", marker=tmp_path / "mine.py.ran"
        )
    finally:
        sys.path.remove(str(tmp_path))
    assert "mine" not in sys.modules
