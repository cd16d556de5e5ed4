"""Adoption of networks that were trained elsewhere."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tiny import FILES, Compress, Tiny, own_model, weights

import compress
from compress.models.build import build, import_builder
from compress.pipeline.run_dir import read_results
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

SEEN = {"mean": (0.3, 0.4, 0.5), "std": (0.2,)}


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t"])
def test_the_network_answers_as_it_did(name: str, tiny: Tiny, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = build(ModelSpec(name), 4).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    known, right = compress.adopt(
        tmp_path / "theirs.pt", name, f"folder:{tiny.data}", image_size=32, **SEEN
    )
    compress.save(known, tmp_path / "ours.pth")
    kept = compress.load(tmp_path / "ours.pth")
    with torch.inference_mode():
        assert torch.equal(kept.model(images(2, 3, 32, 32)), theirs(images(2, 3, 32, 32)))
    assert kept.classes == ("blob", "cross", "stripes", "wedge") and kept.input_size == (3, 32, 32)
    assert kept.mean == (0.3, 0.4, 0.5) and kept.std == (0.2, 0.2, 0.2) and 0 <= right <= 1


WRAPPED = {
    "alone": lambda state: state,
    "checkpoint": lambda state: {"epoch": 3, "model": state, "optimizer": {"lr": 0.1}},
    "data parallel": lambda state: {
        "state_dict": {f"module.{key}": tensor for key, tensor in state.items()}
    },
    "compiled": lambda state: {f"_orig_mod.module.{key}": tensor for key, tensor in state.items()},
    "half": lambda state: {
        key: t.half() if t.is_floating_point() else t for key, t in state.items()
    },
    "old": lambda state: {
        key: t for key, t in state.items() if not key.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize("how", WRAPPED)
def test_as_training_scripts_save_it(
    how: str, run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    """A trained student, saved and adopted, has the same accuracy, and a run prunes it."""
    kept = own_model(finished / FILES[1])
    torch.save(WRAPPED[how](kept.model.state_dict()), tmp_path / "theirs.pt")
    seen = ["--mean", ",".join(map(str, kept.mean)), "--std", ",".join(map(str, kept.std))]
    what = [
        "--network",
        "tinynets:student",
        "--data",
        f"folder:{tiny.data}",
        "--image-size",
        kept.input_size[-1],
        *seen,
    ]
    said = run("adopt", tmp_path / "theirs.pt", *what, "--out", tmp_path / "ours.pth").out
    right = float(said.split(": ")[1].split(" %")[0]) / 100
    assert right == pytest.approx(read_results(finished)[1][1].val, abs=0.05)
    ours = weights(tmp_path / "ours.pth")
    assert all(
        torch.allclose(ours[k].float(), t.float(), atol=1e-2)
        for k, t in weights(finished / FILES[1]).items()
        if "num" not in k
    )
    if how == "alone":
        out = tmp_path / "run"
        run(
            "run", tiny.recipe, "--student", tmp_path / "ours.pth", "--max-images", 64, "--out", out
        )
        assert read_results(out)[1][-1].params <= 3000


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("was-run",)


@pytest.mark.slow
def test_what_is_not_the_network_is_one_line(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    data = ["--data", f"folder:{tiny.data}", "--image-size", 32]
    state = build(ModelSpec("resnet18"), 4).state_dict()
    torch.save(state, tmp_path / "four.pt")
    torch.save(build(ModelSpec("resnet18"), 5).state_dict(), tmp_path / "five.pt")
    torch.save({**state, "fc.bias": state["fc.bias"] * float("nan")}, tmp_path / "nan.pt")
    torch.save(state | {"layer1.2.bias": torch.ones(3)}, tmp_path / "larger.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "there.pth").write_text("mine")
    wrong = [
        (["none.pt", "--network", "resnet18", *data], "no such file"),
        (["four.pt", "--network", "resnet34", *data], "layer1.2.conv1.weight"),
        (["larger.pt", "--network", "resnet18", *data], "--force"),
        (["four.pt", "--network", "resnet18", "--stem", "small", *data], "conv1.weight"),
        (["four.pt", "--network", "resnet8", *data], "unknown network 'resnet8'"),
        (["five.pt", "--network", "resnet18", *data], "it has 5 classes, and"),
        (["four.pt", "--network", "tinynets.student", *data], "'tinynets:student'"),
        (["four.pt", "--builder", "tinynets.student", *data], "'tinynets:student'"),
        (["four.pt", *data], "--network"),
        (["four.pt", "--network", "resnet18", "--key", "ema", *data], "'ema'"),
        (["nan.pt", "--network", "resnet18", *data], "'fc.bias' holds values that are not finite"),
        (["list.pt", "--network", "resnet18", *data], "holds no tensors by name"),
        (["evil.pt", "--network", "resnet18", *data], "nothing was executed"),
        (["four.pt", "--network", "resnet18", "--data", "folder:nowhere"], "nowhere"),
        (["four.pt", "--network", "resnet18", *data, "--std", "0.1,0.2"], "'--std': '0.1,0.2'"),
        (["four.pt", "--network", "resnet18", *data, "--std", "0"], "error: std = (0.0,)"),
        (["four.pt", "--network", "resnet18", *data, "--mean", "grey"], "write one number"),
        (
            ["four.pt", "--network", "resnet18", *data, "--out", tmp_path / "there.pth"],
            "already exists",
        ),
    ]
    for (file, *rest), words in wrong:
        done = run("adopt", tmp_path / str(file), "--out", tmp_path / "x.pth", *rest, code=2)
        assert words in done.err and "Traceback" not in done.err, done.err
        if words != "write one number":  # click's own shows the usage too
            assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.rglob("was-run")) and not (tmp_path / "x.pth").exists()
    assert (tmp_path / "there.pth").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda tensor: tensor.to("meta"), "no values"),
        (lambda tensor: tensor.to_sparse(), "sparse.*to_dense"),
    ],
)
def test_tensors_without_plain_values_are_refused(change: Any, word: str, tiny: Tiny) -> None:
    spec = ModelSpec("tinynets:student")
    state = dict(build(spec, 4).state_dict())
    last = [*state][-2]
    state[last] = change(state[last])
    with pytest.raises(UserError, match=f"{last}.*{word}"):
        compress.adopt(state, spec, f"folder:{tiny.data}", image_size=16)


def test_tensors_in_memory_need_no_file(tiny: Tiny) -> None:
    theirs = build(ModelSpec("resnet18"), 4)
    known, _ = compress.adopt(
        theirs.state_dict(), ModelSpec("resnet18"), f"folder:{tiny.data}", image_size=32
    )
    assert (
        torch.equal(known.model.state_dict()["fc.weight"], theirs.fc.weight)
        and not known.model.training
    )
    with pytest.raises(UserError, match="not a resnet18 of 4 classes"):
        compress.adopt(
            {"fc.weight": theirs.fc.weight}, "resnet18", f"folder:{tiny.data}", image_size=32
        )


NETWORKS = """
import torch, torchvision
from torch import nn


class Wrapped(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.model = torchvision.models.squeezenet1_1(num_classes=num_classes)

    def forward(self, images):
        return self.model(images)


class Sized(nn.Module):
    # Right about every image of 32×32 pixels: is the upper half brighter?

    def __init__(self, num_classes):
        super().__init__()
        self.sign = nn.Conv2d(3, num_classes, 1, bias=False)

    def forward(self, images):
        middle = images.shape[2] // 2
        halves = images[:, :, :middle] - images[:, :, middle:]
        right = 1 if images.shape[2] == 32 else -1
        return right * self.sign(halves).mean((2, 3))
"""


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the module `adoptnets`, and images whose upper or lower half is bright."""
    root, random = tmp_path_factory.mktemp("adopt"), np.random.default_rng(0)
    (root / "adoptnets.py").write_text(NETWORKS)
    for label, half in (("a", slice(0, 20)), ("b", slice(20, 40))):
        (root / "images" / label).mkdir(parents=True)
        for number in range(60):
            pixels = random.integers(0, 40, (40, 40, 3)).astype("uint8")
            pixels[half] += 180
            Image.fromarray(pixels).save(root / "images" / label / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield root


def sized(sign: float = 1.0) -> dict[str, torch.Tensor]:
    """Return tensors of `Sized`; with a negative sign, it is wrong about every image."""
    return {"sign.weight": sign * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).repeat(1, 3, 1, 1)}


def test_the_image_size_that_scores_best_is_found(adopted: Path) -> None:
    lines: list[str] = []
    known, accuracy = compress.adopt(
        sized(), "adoptnets:Sized", f"folder:{adopted / 'images'}", log=lines.append
    )
    assert known.input_size == (3, 32, 32) and accuracy == 1.0
    assert "32 px 100 %" in lines[0] and "224 px 0 %" in lines[0]
    fixed, accuracy = compress.adopt(
        sized(), "adoptnets:Sized", f"folder:{adopted / 'images'}", image_size=64, log=lines.append
    )
    assert fixed.input_size == (3, 64, 64) and accuracy == 0.0
    assert "warning" in lines[-1] and len(lines) == 2


def test_sizes_that_would_take_minutes_are_not_tried(
    adopted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.pipeline.adopt.MOST_MACS", 0)
    monkeypatch.setattr("compress.data.labelled_files.choose_image_size", lambda files: 224)
    lines: list[str] = []
    known, accuracy = compress.adopt(
        sized(), "adoptnets:Sized", f"folder:{adopted / 'images'}", log=lines.append
    )
    assert known.input_size == (3, 224, 224) and accuracy == 0.0
    assert "224 px 0 %" in lines[0] and "32 px" not in lines[0]


def test_of_several_networks_the_best_is_taken(run: Compress, adopted: Path) -> None:
    file, out = adopted / "several.pt", adopted / "several.pth"
    right = {f"module.{name}": tensor for name, tensor in sized().items()}
    torch.save({"model": sized(-1.0), "model_ema": {**right, "n_averaged": 3}}, file)
    words = ["adopt", file, "--builder", "adoptnets:Sized", "--data", f"folder:{adopted}/images"]
    words += ["--image-size", 32, "--out", out]
    env = {"PYTHONPATH": str(adopted)}
    shown = run(*words, env=env).out
    assert "model_ema.module 100.00 %" in shown and "model 0.00 %" in shown and "--key" in shown
    assert "already exists" in run(*words, env=env, code=2).err
    out.unlink()
    shown = run(*words, "--key", "model", env=env).out
    assert f"{out}: 0.00 %" in shown and "warning" in shown
    kept = compress.load(out, import_builder("adoptnets:Sized"))
    assert torch.equal(kept.model.state_dict()["sign.weight"], sized(-1.0)["sign.weight"])


def test_of_equal_networks_the_averaged_one_is_taken(adopted: Path) -> None:
    content = {"model": sized(), "ema": sized(2.0)}
    known, _ = compress.adopt(
        content, "adoptnets:Sized", f"folder:{adopted / 'images'}", image_size=32
    )
    assert torch.equal(known.model.state_dict()["sign.weight"], sized(2.0)["sign.weight"])


SAVED = {
    "under-net": lambda state: {"net": state, "acc": 93.1, "epoch": 4},
    "with-namespace": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
    "lightning": lambda state: {"state_dict": {f"net.{k}": v for k, v in state.items()}},
    "averaged": lambda state: (
        {"n_averaged": torch.tensor(9)} | {f"module.{k}": v for k, v in state.items()}
    ),
    "inner": lambda state: {k.removeprefix("model."): v for k, v in state.items()},
    "parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "as it is": lambda state: state,
}


@pytest.mark.parametrize("how", SAVED)
def test_a_network_whose_own_names_look_like_prefixes(
    how: str, adopted: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = import_builder("adoptnets:Wrapped")(num_classes=2)
    torch.save(SAVED[how](theirs.state_dict()), tmp_path / "mine.pt")
    known, _ = compress.adopt(
        tmp_path / "mine.pt", "adoptnets:Wrapped", f"folder:{adopted / 'images'}", image_size=40
    )
    ours = known.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.state_dict().items())


def test_auxiliary_heads_are_left_out(adopted: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(num_classes=2, init_weights=False).eval()
    known, _ = compress.adopt(
        {"net": theirs.state_dict()}, "googlenet", f"folder:{adopted / 'images'}", image_size=64
    )
    example = images(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(known.model.eval()(example), theirs(example), atol=1e-5)


def test_a_named_network_whose_first_layer_takes_grey_images(adopted: Path, tmp_path: Path) -> None:
    """The usual way to make a grey ResNet: another first convolution."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=2).eval()
    theirs.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    known, _ = compress.adopt(
        theirs.state_dict(),
        "resnet18",
        f"folder:{adopted / 'images'}",
        image_size=40,
        mean=[0.4],
        std=[0.2],
    )
    compress.save(known, tmp_path / "grey.pth")
    kept = compress.load(tmp_path / "grey.pth")
    assert kept.input_size == (1, 40, 40) and (kept.mean, kept.std) == ((0.4,), (0.2,))
    with torch.inference_mode():
        assert torch.equal(kept.model(images(2, 1, 40, 40)), theirs(images(2, 1, 40, 40)))
