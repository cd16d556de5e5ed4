"""Adoption of networks that were trained elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny import FILES, Compress, Tiny, own_model, weights

import compress
from compress.models.build import build
from compress.pipeline.run_dir import read_results
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

SEEN = {"mean": (0.3, 0.4, 0.5), "std": (0.2,)}


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_the_network_answers_as_it_did(name: str, tiny: Tiny, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, size = build(ModelSpec(name), 4).eval(), 32
    if name == "vit_b_32":
        size = 224
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    known, right = compress.adopt(
        tmp_path / "theirs.pt", name, f"folder:{tiny.data}", image_size=size, **SEEN
    )
    compress.save(known, tmp_path / "ours.pth")
    kept = compress.load(tmp_path / "ours.pth")
    with torch.inference_mode():
        assert torch.equal(kept.model(images(2, 3, size, size)), theirs(images(2, 3, size, size)))
    assert kept.classes == ("blob", "cross", "stripes", "wedge") and kept.input_size == (
        3,
        size,
        size,
    )
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
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "there.pth").write_text("mine")
    wrong = [
        (["none.pt", "--network", "resnet18", *data], "no such file"),
        (["four.pt", "--network", "resnet34", *data], "not a resnet34 of 4 classes"),
        (["four.pt", "--network", "resnet18", "--stem", "small", *data], "conv1.weight"),
        (["four.pt", "--network", "resnet8", *data], "unknown network 'resnet8'"),
        (["five.pt", "--network", "resnet18", *data], "not a resnet18 of 4 classes"),
        (["nan.pt", "--network", "resnet18", *data], "'fc.bias' holds values that are not finite"),
        (["list.pt", "--network", "resnet18", *data], "holds no tensors by name"),
        (["evil.pt", "--network", "resnet18", *data], "nothing was executed"),
        (["four.pt", "--network", "resnet18", "--data", "folder:nowhere"], "nowhere"),
        (
            ["four.pt", "--network", "resnet18", *data, "--std", "0.1,0.2"],
            "give one value, or three",
        ),
        (["four.pt", "--network", "resnet18", *data, "--std", "0"], "std"),
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
