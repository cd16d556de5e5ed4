"""Temperatures: fitted to validation images, kept in files, used by predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_checkpoints import small_checkpoint
from tiny import Tiny, own_model

import compress
from compress.deployment.description import parse_description
from compress.deployment.export import export
from compress.deployment.load_model import load_model
from compress.deployment.prepare import prepare_network
from compress.models import checkpoint
from compress.models.checkpoint import to_dict
from compress.pruning.prune_file import prune_file
from compress.recipe.budget import parse_budgets
from compress.reporting.calibration import fit_temperature
from compress.reporting.evaluation import name_images
from compress.runtime.errors import UserError


def draw(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 4) whose probabilities are true, and labels drawn from these."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 4, generator=random)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 5), st.integers(0, 1000))
def test_the_temperature_undoes_a_scale_of_the_logits(scale: float, seed: int) -> None:
    logits, targets = draw(300, seed)
    plain = fit_temperature(logits, targets)
    assert fit_temperature(scale * logits, targets) == pytest.approx(scale * plain, rel=2e-3)
    # A constant for each image changes no probability.
    assert fit_temperature(logits + 5, targets) == pytest.approx(plain, rel=1e-3)


def test_the_temperature_has_the_least_cross_entropy_and_the_true_one_is_found() -> None:
    logits, targets = draw(20_000)
    found = fit_temperature(3 * logits, targets)
    assert found == pytest.approx(3, rel=0.03)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(3 * logits.double() / temperature, targets))

    assert loss(found) <= min(loss(found * 0.999), loss(found * 1.001), loss(1), loss(3))


def test_images_that_determine_no_temperature_are_refused() -> None:
    logits, _ = draw(50)
    with pytest.raises(UserError, match="correctly"):
        fit_temperature(logits, logits.argmax(1))
    with pytest.raises(UserError, match="chance"):
        fit_temperature(logits, logits.argmin(1))


def test_a_calibrated_file_gives_calibrated_probabilities(
    finished: Path, tiny: Tiny, mislabelled: str, tmp_path: Path
) -> None:
    network = own_model(finished / "model.pth")
    calibrated = compress.calibrate(network, mislabelled)
    assert network.temperature == 1 and calibrated.temperature != 1
    before, after = (
        compress.evaluate(each, mislabelled, split="val") for each in (network, calibrated)
    )
    assert after.log_loss < before.log_loss and after.confusion == before.confusion
    assert after.temperature == calibrated.temperature

    file = tmp_path / "calibrated.pth"
    compress.save(calibrated, file)
    loaded = own_model(file)
    assert loaded.temperature == calibrated.temperature
    images = sorted((tiny.data / "test").rglob("*.png"))[::20]
    expected = list(compress.predict(loaded, images, top=4))
    for image, prediction in zip(images, expected, strict=True):
        logits = network.model(compress.prepare(image, network))[0]
        likely = (logits / calibrated.temperature).softmax(0).tolist()
        named = dict(zip(network.classes, likely, strict=True))
        assert dict(prediction.top) == pytest.approx(named, abs=1e-5)


def test_only_images_that_training_held_out_are_called_validation_images(
    finished: Path, untrained: Path, mislabelled: str
) -> None:
    known, unknown = own_model(finished / "model.pth"), own_model(untrained)
    own = known.data
    assert name_images(known, None, 9, "val") == "9 validation images"
    assert name_images(known, own, 9, "val") == "9 validation images"
    assert name_images(unknown, None, 9, "val") == f"9 images of {own}"
    assert name_images(known, mislabelled, 9, "val") == f"9 images of {mislabelled}"
    assert name_images(known, None, 9, "test") == "9 test images"
    lines: list[str] = []
    compress.calibrate(known, mislabelled, log=lines.append)
    assert "validation" not in lines[-1] and mislabelled in lines[-1]


@pytest.mark.slow
def test_an_exported_file_has_the_temperature(
    finished: Path, tiny: Tiny, mislabelled: str, tmp_path: Path
) -> None:
    known = replace(own_model(finished / "model.pth"), temperature=2.5)
    onnx = export(known, out=tmp_path / "calibrated.onnx").file
    assert load_model(onnx).temperature == 2.5
    images = sorted((tiny.data / "test").rglob("*.png"))[::20]
    expected = compress.predict(known, images, top=4)
    for ours, theirs in zip(compress.predict(onnx, images, top=4), expected, strict=True):
        assert dict(ours.top) == pytest.approx(dict(theirs.top), abs=1e-4)
    # It says how its validation images were chosen, and cannot be changed.
    lines: list[str] = []
    found = compress.evaluate(onnx, split="val", log=lines.append)
    assert found.confusion == compress.evaluate(known, split="val").confusion and lines == []
    with pytest.raises(UserError, match="weights file"):
        compress.calibrate(onnx, mislabelled)


def test_files_that_are_not_calibrated_are_as_they_were() -> None:
    known = small_checkpoint()
    assert "temperature" not in to_dict(known)
    _, description = prepare_network(known)
    assert "temperature" not in json.loads(description.to_json())
    calibrated = replace(description, temperature=2.0)
    assert parse_description(calibrated.to_json()) == calibrated


def test_a_cut_network_is_not_calibrated_any_more(tmp_path: Path) -> None:
    calibrated = replace(small_checkpoint(), temperature=2.0)
    prune_file(calibrated, parse_budgets({"budget": "90%"}), tmp_path / "cut.pth", mode="weights")
    assert checkpoint.load(tmp_path / "cut.pth").temperature == 1


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e9, "2", None])
def test_a_temperature_that_is_none_is_refused(value: object) -> None:
    content = to_dict(small_checkpoint()) | {"temperature": value}
    with pytest.raises(UserError, match="temperature"):
        checkpoint.from_dict(content)
