"""Pretrained weights of torchvision's networks."""

from __future__ import annotations

import io
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from tiny import Published

from compress.models.build import (
    build,
    has_pretrained_head,
    pretrained_normalization,
)
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError


def test_pretrained_weights_without_internet_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(UserError, match=r"'resnet18' cannot be downloaded: .*not known") as caught:
        build(ModelSpec("resnet18", pretrained=True), 7)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34_concat", "mobilenet_v2", "squeezenet1_1", "densenet121", "googlenet"],
)
def test_pretrained_network_gets_a_new_classifier(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"init_weights": True} if name == "googlenet" else {}
    original = torchvision.models.get_model(name.removesuffix("_concat"), weights=None, **options)
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url",
        lambda *_, **__: torch.load(io.BytesIO(file.getvalue()), weights_only=True),
    )
    model = build(ModelSpec(name, pretrained=True), 7).eval()
    first = next(iter(original.state_dict()))
    assert torch.equal(model.state_dict()[first], original.state_dict()[first])
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("spec", "last", "kept"),
    [
        (ModelSpec("resnet18", pretrained=True), "fc", True),
        (ModelSpec("squeezenet1_1", pretrained=True), "classifier.1", True),
        (ModelSpec("resnet18", pretrained=True, head=()), "fc", False),
        (ModelSpec("resnet34_concat", pretrained=True), "fc.2", False),
    ],
)
def test_pretrained_classifier_is_kept_for_as_many_classes(
    spec: ModelSpec, last: str, kept: bool, published: Published
) -> None:
    original = published(spec.name.removesuffix("_concat"))
    theirs = [value for key, value in original.items() if key.startswith(last.removesuffix(".2"))]
    ours = [value for key, value in build(spec, 1000).state_dict().items() if key.startswith(last)]
    assert [
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
    ] == [kept] * 2
    assert has_pretrained_head(spec, 1000) == kept and not has_pretrained_head(spec, 10)


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("resnet18"),
        ModelSpec("resnet18", "half", pretrained=True),
        ModelSpec("googlenet", pretrained=True),
        ModelSpec("inception_v3", pretrained=True),
    ],
)
def test_network_with_anything_new_has_no_pretrained_head(spec: ModelSpec) -> None:
    assert not has_pretrained_head(spec, 1000)


def test_normalization_is_that_of_the_pretrained_weights() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert pretrained_normalization(ModelSpec("resnet18", pretrained=True)) == imagenet
    swag = ModelSpec("vit_b_16", pretrained="IMAGENET1K_SWAG_E2E_V1")
    assert pretrained_normalization(swag) == imagenet
    half = ((0.5,) * 3, (0.5,) * 3)
    assert pretrained_normalization(ModelSpec("efficientnet_v2_l", pretrained=True)) == half


def test_pretrained_weights_are_chosen_by_name(published: Published) -> None:
    named = build(ModelSpec("resnet50", pretrained="IMAGENET1K_V1"), 7).state_dict()
    assert torch.equal(named["conv1.weight"], published("resnet50")["conv1.weight"])
    with pytest.raises(UserError, match=r"'IMAGENET1K_V9' of 'resnet18'.*IMAGENET1K_V1"):
        build(ModelSpec("resnet18", pretrained="IMAGENET1K_V9"), 7)


@pytest.mark.parametrize(
    "name", ["resnet10", "resnet26_concat", "densenet40_12", "resnext29_32x8d"]
)
def test_pretrained_weights_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"pretrained.*'{name}'"):
        build(ModelSpec(name, pretrained=True), 7)


@pytest.mark.parametrize("works", [False, True])
def test_a_download_is_announced_once_it_has_begun(
    works: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def download(url: str, file: str, *_: object, **__: object) -> None:
        if not works:
            raise urllib.error.URLError("no network")
        print("0%", file=sys.stderr)
        torch.save(torchvision.models.resnet18().state_dict(), file)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    spec = ModelSpec("resnet18", pretrained=True)
    if works:
        build(spec, 4)
    else:
        with pytest.raises(UserError, match="resnet18"):
            build(spec, 4)
    shown = capsys.readouterr()
    assert shown.out == "" and ("Downloading" in shown.err) == works == ("0%" in shown.err)
