"""Networks as int8: size, accuracy, what they are calibrated on, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from compress.cli.main import main
from compress.data.dataset import Dataset
from compress.deployment import samples
from compress.deployment.load_model import load_model
from compress.deployment.prepare import prepare_network
from compress.models.checkpoint import load
from compress.quantization import quantize as module
from compress.quantization.quantize import Int8Network, measure_int8_bytes, quantize
from compress.quantization.static import multiplies_unsigned_exactly
from compress.reporting.evaluation import score_test_split
from compress.runtime.errors import UserError

WEIGHTS = Path(__file__).parents[2] / "weights" / "fashion-mnist-100k.pth"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Int8Network]:
    path = tmp_path_factory.mktemp("int8") / "model.int8.onnx"
    return path, quantize(WEIGHTS, path, max_drop=0.5)


@pytest.mark.slow
def test_shipped_network_is_as_accurate_and_a_quarter_as_large(
    made: tuple[Path, Int8Network],
) -> None:
    path, network = made
    assert path.stat().st_size <= 140_000
    assert network.drop <= 0.1 and network.images.startswith("6,000 validation images")
    correct, total = score_test_split(load_model(path))
    assert correct.sum() / total.sum() >= 0.947


@pytest.mark.slow
def test_convolutions_run_on_integers(made: tuple[Path, Int8Network], tmp_path: Path) -> None:
    path, _ = made
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert {"QLinearConv", "QLinearAdd"} <= kinds and not {"Conv", "Relu", "Add"} & kinds


@pytest.mark.slow
def test_pixels_are_normalized_in_float32(tmp_path: Path) -> None:
    network = quantize(WEIGHTS, tmp_path / "pixels.onnx", uint8=True)
    (given,) = onnxruntime.InferenceSession(tmp_path / "pixels.onnx").get_inputs()
    assert given.type == "tensor(uint8)" and given.shape[1:] == [1, 28, 28]
    assert network.drop <= 0.3


@pytest.mark.slow
def test_predicted_size_is_the_size(made: tuple[Path, Int8Network]) -> None:
    """Of the network with other weights, and of its description: the file's own."""
    path, _ = made
    known = load(WEIGHTS)
    for parameter in known.model.parameters():
        nn.init.normal_(parameter, std=0.1)
    assert abs(measure_int8_bytes(known, load_model(path).origin) - path.stat().st_size) < 100


@pytest.mark.parametrize("name", ["small.int8", "model.pth", "model"])
def test_a_file_that_would_not_be_known_as_onnx_is_refused(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    with pytest.raises(UserError, match=rf"{name}: .*end in \.onnx"):
        quantize(WEIGHTS, out, data="folder:/nowhere")
    done = CliRunner().invoke(main, ["quantize", "-w", str(WEIGHTS), "--out", str(out)])
    assert done.exit_code == 2 and f"{out}: " in done.stderr and ".onnx" in done.stderr


def quantize_small(monkeypatch: pytest.MonkeyPatch, out: Path, **options: Any) -> list[str]:
    """Quantize a network on a few images, and return which splits were read before validation."""
    read: list[str] = []
    take = samples.take_samples

    def few(dataset: Dataset, split: Any, count: int, *size: Any) -> Any:
        read.append(split)
        return take(dataset, split, min(count, 48), *size)

    monkeypatch.setattr(module, "take_samples", few)
    small = Path(__file__).parents[2] / "weights" / "sweep" / "fashion-mnist-10k.pth"
    quantize(small, out, **{"finetune": False} | options)
    return read


@pytest.mark.slow
def test_ranges_are_measured_on_training_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fed: list[torch.Tensor] = []
    original: Callable[..., Any] = module.measure_ranges

    def watch(model: Any, images: Any) -> Any:
        fed.append(torch.from_numpy(images))
        return original(model, images)

    monkeypatch.setattr(module, "measure_ranges", watch)
    small = quantize_small(monkeypatch, tmp_path / "a.onnx")
    assert small == ["train", "val"] and len(fed[0]) == 32
    known = load(WEIGHTS.parent / "sweep" / "fashion-mnist-10k.pth")
    dataset = samples.open_own_data(known)
    trained = samples.normalize(samples.take_samples(dataset, "train", 48).pixels, known)
    for images in fed:
        assert all(bool((trained == image).flatten(1).all(1).any()) for image in images)


def test_network_that_loses_too_much_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worse = Int8Network(onnx.ModelProto(), 0.88, 0.9, 1, 1, "extremes", "9 images")
    monkeypatch.setattr(module, "quantize_network", lambda *_, **__: worse)
    with pytest.raises(UserError, match=r"2\.00 points.*max_drop = 1\.5"):
        quantize_small(monkeypatch, tmp_path / "new" / "a.onnx", max_drop=1.5)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "exact"), [("fma avx2", False), ("avx2 avx_vnni", True), ("avx512_vnni x", True)]
)
def test_weights_have_seven_bits_where_sums_saturate(
    flags: str, exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert multiplies_unsigned_exactly(tmp_path / "cpuinfo") is exact
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert multiplies_unsigned_exactly(tmp_path / "cpuinfo")


def test_prepared_network_says_what_it_is() -> None:
    _, description = prepare_network(load(WEIGHTS), uint8=True, grey=True)
    assert description.input_size == (1, 28, 28) and description.params == 99_938


def test_description_has_signs_and_steps() -> None:
    network = Int8Network(onnx.ModelProto(), 0.9, 0.9, 1e-3, 2e-3, "extremes", "9 images")
    assert "(+0.00 points)" in network.describe() and "in 200 steps" not in network.describe()
    assert "(-1.00 points)" in replace(network, val=0.89, steps=200).describe()
    assert "in 200 steps" in replace(network, val=0.89, steps=200).describe()


@pytest.mark.parametrize(
    ("finetune", "drops", "rounds"),
    [
        (None, [0.2], 0),
        (None, [0.5, 0.1], 1),
        (None, [5, 4, 3, 2], 3),
        (True, [0.0, 0.1], 1),
        (False, [5], 0),
    ],
)
def test_fine_tuning_stops_when_little_is_lost(
    finetune: bool | None, drops: list[float], rounds: int
) -> None:
    """`drops` are the points lost without fine-tuning and after each round of it."""
    empty = onnx.ModelProto()
    made = [
        Int8Network(empty, 0.9 - drop / 100, 0.9, 1, 1, "extremes", "9 images", steps)
        for steps, drop in enumerate(drops)
    ]
    done: list[int] = []

    def finetuned(attempt: int) -> Int8Network:
        done.append(attempt)
        return made[attempt + 1]

    best = module.finetune_while_worse(made[0], finetuned, finetune)
    assert done == list(range(rounds)) and best.drop == pytest.approx(min(drops))
