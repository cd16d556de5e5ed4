"""A network's tensors are found under any key and prefix, and only the network's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from compress.models.find_tensors import describe_content, describe_parts, find_tensors
from compress.runtime.errors import UserError


def network() -> nn.Module:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return nn.ModuleDict({"model": block, "fc": nn.Linear(4, 2)})


OWN = dict(network().state_dict())


def prefixed(prefix: str, tensors: dict[str, Tensor] = OWN) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_found(content: Any, own: dict[str, Tensor] = OWN, **options: Any) -> str:
    """Check that the best match is the network, and return its prefix."""
    found = find_tensors(content, own, **options)[0]
    assert found.complete and not found.extra, found
    assert all(torch.equal(found.tensors[name], own[name]) for name in own)
    return found.prefix


KEYS = st.sampled_from(["state_dict", "model", "net", "ema", "params", "module", "fc", "0"])


@given(keys=st.lists(KEYS, max_size=3), prefix=st.lists(KEYS, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_keys_and_prefixes(keys: list[str], prefix: list[str]) -> None:
    """Names of the network itself, such as `model` and `fc`, are among the keys and prefixes."""
    content: Any = prefixed("".join(f"{part}." for part in prefix))
    for key in keys:
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}
    assert assert_found(content) == "".join(f"{part}." for part in [*reversed(keys), *prefix])


@pytest.mark.parametrize(
    "content",
    [
        {"n_averaged": torch.tensor(9), **prefixed("module.")},
        {**OWN, "total_ops": torch.zeros(1), "model.0.total_params": torch.zeros(1)},
        {**OWN, "criterion.weight": torch.ones(2), "aux1.fc.weight": torch.ones(2, 2)},
        {"model": network(), "params": OWN},
        {name: np.asarray(tensor) for name, tensor in OWN.items()},
        {name: tensor for name, tensor in OWN.items()} | {"lr": 0.1},
        [{"epoch": 1}, OWN],
        {"model": {"0": {"weight": OWN["model.0.weight"], "bias": OWN["model.0.bias"]}}}
        | {name: tensor for name, tensor in OWN.items() if not name.startswith("model.0")},
    ],
)
def test_what_lies_beside_the_tensors_does_not_matter(content: Any) -> None:
    assert_found(content)


def test_a_network_that_wraps_the_saved_one() -> None:
    wrapper = {f"net.inner.{name}": tensor for name, tensor in OWN.items()}
    found = find_tensors({"state_dict": OWN}, wrapper)[0]
    assert found.complete and found.tensors.keys() == wrapper.keys()


def test_several_networks_in_a_file() -> None:
    averaged = {name: tensor + 1 for name, tensor in OWN.items()}
    content = {"model": OWN, "model_ema": prefixed("module.", averaged)}
    assert {found.prefix for found in find_tensors(content, OWN)} == {"model.", "model_ema.module."}
    [found] = find_tensors(content, OWN, "model_ema")
    assert torch.equal(found.tensors["fc.bias"], averaged["fc.bias"])
    with pytest.raises(UserError, match=r"'model_emma'.*'model_ema'"):
        find_tensors(content, OWN, "model_emma")


def test_a_larger_network_is_not_the_network() -> None:
    larger = OWN | {"model.2.weight": torch.ones(3), "model.2.bias": torch.ones(3)}
    [found] = find_tensors({"net": larger}, OWN)
    assert found.complete and found.extra == ("model.2.weight", "model.2.bias")


def test_incomplete_matches_say_what_differs() -> None:
    content = {"model": {k: v for k, v in OWN.items() if k != "model.1.bias"}, "epoch": 3}
    content["model"]["fc.weight"] = torch.zeros(5, 4)
    [found] = find_tensors(content, OWN)
    assert (found.missing, found.misshapen) == (("model.1.bias",), ("fc.weight",))
    described = describe_content(content)
    assert "model (8 tensors: model.0.weight 4×3×3×3" in described and "epoch" in described
    assert describe_content({"a.b": {"w": torch.ones(2)}}) == "a.b (1 tensor: w 2)"
    assert "and 94 more keys" in describe_content({str(i): 0 for i in range(100)})
    counters = {k: v for k, v in OWN.items() if not k.endswith("num_batches_tracked")}
    assert find_tensors(counters, OWN)[0].complete


@pytest.mark.parametrize("content", [{}, {"lr": 0.1}, [1, 2], None, torch.ones(3), "text"])
def test_no_tensors(content: Any) -> None:
    with pytest.raises(UserError, match="no tensors by name"):
        find_tensors(content, OWN)


def test_containers_that_hold_themselves_end() -> None:
    content: dict[str, Any] = {"net": OWN}
    content["self"] = content
    assert assert_found(content) == "net."


@pytest.mark.parametrize("outer", ["", "state_dict."])
def test_a_head_beside_the_backbone_is_found(outer: str) -> None:
    """As mmpretrain saves a network: ``backbone.*`` and ``head.*``."""
    content = {
        outer + ("" if name.startswith("fc.") else "backbone.") + name: tensor
        for name, tensor in OWN.items()
    }
    found = find_tensors(content, OWN)[0]
    assert found.complete and not found.extra
    assert torch.equal(found.tensors["fc.weight"], OWN["fc.weight"])


def test_a_network_is_not_put_together_of_two() -> None:
    averaged = {name: 2 * tensor for name, tensor in OWN.items() if "running" not in name}
    found = find_tensors({**OWN, **prefixed("ema.", averaged)}, OWN)
    assert len(found) == 1 and torch.equal(found[0].tensors["fc.weight"], OWN["fc.weight"])


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", amount=1), "utils.prune.remove"),
        (nn.utils.weight_norm, "remove_weight_norm"),
        (nn.utils.spectral_norm, "remove_spectral_norm"),
        (nn.utils.parametrizations.weight_norm, "remove_parametrizations"),
        (lambda layer: None, ""),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_parts_of_weights_are_known_by_their_names(change: Any, remedy: str) -> None:
    saved = network()
    change(saved["fc"])
    parts = describe_parts(saved.state_dict().keys() - OWN.keys())
    assert (remedy in parts and parts) if remedy else not parts
