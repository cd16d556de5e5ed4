"""Networks of timm: built, refused, and kept in files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from compress.models import checkpoint, timm_networks
from compress.models.build import build, has_pretrained_head, pretrained_normalization, skeleton
from compress.models.checkpoint import Checkpoint
from compress.pruning.pruner import prune
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

SMALL = "timm:mobilenetv3_small_050"


@pytest.mark.parametrize("name", [SMALL, "hf-hub:timm/resnet18.a1_in1k"])
def test_the_source_is_inferred_from_the_name(name: str) -> None:
    assert ModelSpec(name).source == "timm" == ModelSpec(name, source="timm").source
    with pytest.raises(ValueError, match="does not suit"):
        ModelSpec(name, source="custom")


def test_a_network_has_as_many_outputs_as_classes() -> None:
    model = build(ModelSpec(SMALL, head=(8,)), 7).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    assert all(tensor.is_meta for tensor in skeleton(ModelSpec(SMALL), 7).state_dict().values())


def test_tables_that_no_file_holds_have_values_in_a_skeleton() -> None:
    model = skeleton(ModelSpec("timm:levit_128s"), 7)
    saved = model.state_dict().keys()
    tables = [buffer for name, buffer in model.named_buffers() if name not in saved]
    assert tables and not any(table.is_meta for table in tables)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:mobilenetv3_smal_050", "did you mean 'timm:mobilenetv3_small_050'"),
        ("convnext_atto", "did you mean 'timm:convnext_atto'"),
        ("timm:local-dir:/etc", "unknown network"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(ModelSpec(name), 7)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'compress\[timm\]'"):
        build(ModelSpec(SMALL), 7)


@pytest.mark.parametrize(
    "spec",
    [ModelSpec("timm:resnet18", pretrained=True), ModelSpec("hf-hub:timm/resnet18.a1_in1k")],
    ids=lambda spec: spec.name,
)
def test_weights_out_of_reach_are_one_line_with_what_works(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(timm_networks, "_is_reachable", lambda url: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"--teacher FILE.*module:function") as caught:
        build(spec, 7)
    assert spec.name in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_unknown_tags_of_weights_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'best'.*a1_in1k"):
        build(ModelSpec("timm:resnet18", pretrained="best"), 7)
    with pytest.raises(UserError, match="no pretrained weights"):
        build(ModelSpec("timm:resnet18d", pretrained="best"), 7)


def test_pretrained_weights_keep_their_classifier_for_as_many_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[dict[str, Any]] = []
    create = timm.create_model

    def without_download(name: str, pretrained: bool = False, **options: Any) -> Any:
        called.append({"name": name, "pretrained": pretrained})
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_download)
    spec = ModelSpec("timm:resnet18", pretrained="a1_in1k")
    build(spec, 7)
    assert called == [{"name": "resnet18.a1_in1k", "pretrained": True}]
    assert has_pretrained_head(spec, 1000) and not has_pretrained_head(spec, 7)
    assert pretrained_normalization(spec) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_pruned_network_comes_back_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, size = ModelSpec(SMALL), (3, 32, 32)
    pruned = prune(build(spec, 4).eval(), torch.zeros(1, *size), "50%")
    kept = Checkpoint(pruned, spec, tuple("abcd"), size, (0.0,) * 3, (1.0,) * 3, "none")
    checkpoint.save(kept, tmp_path / "small.pth")
    loaded, images = checkpoint.load(tmp_path / "small.pth"), torch.rand(2, *size)
    assert loaded.network == spec
    with torch.no_grad():
        assert torch.equal(loaded.model(images), pruned(images))


HUB = "hf-hub:someone/mobile"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the Hub, which has one network; with `offline`, nothing can be reached."""
    create = timm.create_model
    monkeypatch.setattr(timm_networks, "_ARCHITECTURES", {})
    monkeypatch.setattr(timm_networks, "_is_reachable", lambda url: True)
    monkeypatch.setattr(
        timm.models,
        "load_model_config_from_hf",
        lambda name: ({}, SMALL[5:], {"global_pool": "avg"}),
    )
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, pretrained=False, **options: create(name.replace(HUB, SMALL[5:]), **options),
    )


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    timm_networks._ARCHITECTURES.clear()
    monkeypatch.setattr(timm.models, "load_model_config_from_hf", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


def test_a_saved_network_of_the_hub_needs_no_network(
    hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded, cut, saved and loaded again without a connection."""
    torch.manual_seed(0)
    spec, size = ModelSpec(HUB), (3, 32, 32)
    path, images = tmp_path / "a.pth", torch.rand(2, *size)
    model = build(spec, 4).eval()
    kept = Checkpoint(model, spec, tuple("abcd"), size, (0.0,) * 3, (1.0,) * 3, "none")
    checkpoint.save(kept, path)
    go_offline(monkeypatch)
    loaded = checkpoint.load(path)
    assert loaded.network == spec
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model(images))
    pruned = prune(loaded.model, torch.zeros(1, *size), "50%")
    checkpoint.save(replace(loaded, model=pruned), tmp_path / "b.pth")
    go_offline(monkeypatch)
    again = checkpoint.load(tmp_path / "b.pth")
    with torch.no_grad():
        assert torch.equal(again.model(images), pruned(images))


@pytest.mark.parametrize(
    "architecture",
    [
        "resnet18",
        {"name": "nonsense", "options": {}},
        {"name": ["resnet18"], "options": {}},
        {"name": "resnet18", "options": {"checkpoint_path": "/etc/passwd"}},
        {"name": "resnet18", "options": {"img_size": 10**9}},
        {"name": "resnet18", "options": 3},
    ],
)
def test_an_architecture_that_a_file_may_not_have_is_passed_over(
    architecture: object, hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is asked then."""
    torch.manual_seed(0)
    size = (3, 32, 32)
    kept = Checkpoint(
        build(ModelSpec(HUB), 4).eval(),
        ModelSpec(HUB),
        tuple("abcd"),
        size,
        (0.0,) * 3,
        (1.0,) * 3,
        "",
    )
    content = checkpoint.to_dict(kept)
    content["network"]["architecture"] = architecture
    timm_networks._ARCHITECTURES.clear()
    asked: list[str] = []
    found = timm.models.load_model_config_from_hf

    def ask(name: str) -> Any:
        asked.append(name)
        return found(name)

    monkeypatch.setattr(timm.models, "load_model_config_from_hf", ask)
    checkpoint.from_dict(content)
    assert asked[0] == HUB.removeprefix("hf-hub:")
