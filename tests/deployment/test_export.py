"""Exported files give the network's logits, say what they are, and are never half-written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from code_blocks import read_blocks
from exported_files import Bessel, Exported, own_network
from PIL import Image
from tiny import CLASSES, Compress, Tiny
from torch import Tensor, nn

import compress
from compress.deployment import onnx_format
from compress.deployment.export import export
from compress.deployment.formats import ExportFormat
from compress.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights" / "sweep" / "fashion-mnist-10k.pth"


def test_file_gives_the_logits_of_the_network(exported: Exported, tiny: Tiny) -> None:
    for result in (exported.onnx, exported.pixels):
        assert result.max_difference <= 1e-4 and result.agreement == 1
        # A tenth of the training images is held out.
        assert result.images == f"22 validation images of folder:{tiny.data}"


def test_batch_is_free_and_batch_norms_are_fused(exported: Exported) -> None:
    model = onnx.load(exported.onnx.file)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert model.opset_import[0].version == onnx_format.OPSET
    session = onnxruntime.InferenceSession(exported.onnx.file)
    images = torch.randn(7, 3, 16, 16)
    expected = exported.checkpoint.model(images).detach().numpy()
    for count in (1, 7):
        found = session.run(None, {"images": images[:count].numpy()})[0]
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)


def test_file_says_what_it_takes_and_where_it_comes_from(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(exported.pixels.file)
    about = json.loads(session.get_modelmeta().custom_metadata_map["compress"])
    assert about["classes"] == list(CLASSES) and about["input_size"] == [3, 16, 16]
    assert about["uint8"] and about["background"] == exported.checkpoint.background
    assert about["mean"] == list(exported.checkpoint.mean)
    origin = about["origin"]
    assert origin["weights"] == "model.pth"
    assert origin["weights_sha256"] == hashlib.sha256(exported.weights.read_bytes()).hexdigest()
    assert origin["versions"]["torch"] == torch.__version__.split("+")[0]


class Watched(nn.Sequential):
    """Notes the modules that are moved to another device."""

    moved: ClassVar[list[nn.Module]] = []

    def _apply(self, *rest: Any, **named: Any) -> Watched:
        self.moved.append(self)
        return super()._apply(*rest, **named)


@pytest.mark.parametrize("uint8", [False, True])
def test_the_model_stays_on_its_device_and_in_its_mode(uint8: bool, tmp_path: Path) -> None:
    model = Watched(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).train()
    model[1].eval()
    known = replace(own_network(nn.Identity()), model=model)
    Watched.moved.clear()
    export(known, out=tmp_path / "model.onnx", uint8=uint8)
    assert Watched.moved and all(each is not model for each in Watched.moved)
    assert model.training and [each.training for each in model] == [True, False, True, True]


@pytest.mark.slow
def test_grey_data_becomes_one_channel_of_pixels(tmp_path: Path) -> None:
    result = export(WEIGHTS, out=tmp_path / "grey.onnx", uint8=True)
    assert result.max_difference <= 1e-4 and "1,000 validation images" in result.images
    (given,) = onnxruntime.InferenceSession(result.file).get_inputs()
    assert given.type == "tensor(uint8)" and given.shape == ["batch", 1, 28, 28]


def test_without_the_data_random_images_are_compared(exported: Exported, tmp_path: Path) -> None:
    moved = replace(exported.checkpoint, data="folder:/nowhere")
    assert "random images" in export(moved, out=tmp_path / "a.onnx").images
    with pytest.raises(UserError, match="/nowhere"):
        export(moved, out=tmp_path / "b.onnx", data="folder:/nowhere")


def test_wrong_logits_leave_no_file(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other(network: nn.Module, *rest: Any) -> None:
        last = next(m for m in network.modules() if isinstance(m, nn.Linear))
        last.bias.data += 1
        onnx_format.write(network, *rest)

    wrong = replace(onnx_format.FORMAT, write=write_other)
    monkeypatch.setattr(onnx_format, "FORMAT", wrong)
    with pytest.raises(UserError, match=r"differ.*1\.0e\+00"):
        export(exported.checkpoint, out=tmp_path / "new" / "model.onnx")
    assert list((tmp_path / "new").iterdir()) == []


class Branching(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


def test_operator_that_onnx_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bessel_j0.*'odd'") as refused:
        export(own_network(Bessel()), out=tmp_path / "model.onnx")
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


def test_forward_pass_that_depends_on_values_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images\.sum\(\) > 0") as refused:
        export(own_network(Branching()), out=tmp_path / "model.onnx")
    assert "\n" not in str(refused.value)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking: ExportFormat = replace(onnx_format.FORMAT, packages=("onnx", "no_such_package"))
    monkeypatch.setattr(onnx_format, "FORMAT", lacking)
    with pytest.raises(UserError, match=r"no_such_package.*compress\[onnx\]"):
        compress.export(WEIGHTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "onxn"], "'onxn'.*'onnx'"),
        (["--to", "onnx", "--out", str(WEIGHTS)], "already exists"),
        (["--data", "cifar"], "'cifar'"),
    ],
)
def test_export_refuses(run: Compress, words: list[str], message: str) -> None:
    refused = run("export", "-w", WEIGHTS, *words, code=2)
    assert re.match(f"error: .*{message}.*\n$", refused.err) and refused.out == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "pixels.onnx"])
def test_lines_of_the_readme_need_nothing_but_onnxruntime(
    exported: Exported, tiny: Tiny, tmp_path: Path, name: str
) -> None:
    blocks = read_blocks(ROOT / "README.md", "python")
    (lines,) = [block.text for block in blocks if "onnxruntime" in block.text]
    file = exported.weights.with_name(name)
    images = sorted((tiny.data / "test").rglob("*.png"))[::16]
    # Larger than the network's images, and not square.
    image = Image.open(images[0]).resize((40, 30))
    image.save(tmp_path / "large.png")
    for path in (*images, tmp_path / "large.png"):
        code = lines.replace("model.onnx", str(file)).replace("coat.png", str(path))
        code += "\nimport sys\nassert not {'torch', 'compress'} & set(sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        (expected,) = compress.predict(exported.checkpoint, [path], top=1)
        assert done.stdout.strip() == expected.top[0][0], done.stderr
