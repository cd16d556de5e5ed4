"""Networks of the kinds that people bring are pruned, trained, saved and loaded."""

from __future__ import annotations

import copy
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import odd_networks
import pytest
import torch
from pruning_networks import count_params
from tiny import Compress, Tiny
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.models import checkpoint
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.models.memory_format import to_channels_last
from compress.models.outputs import find_logits
from compress.pruning.pruner import prune
from compress.pruning.structure import Structure
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError
from compress.training.forward import make_forward

SIZE = 16


def build_odd(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    size = (1 if name == "OneChannel" else 3, SIZE, SIZE)
    spec = ModelSpec(f"odd_networks:{name}")
    return build(spec, 4, getattr(odd_networks, name), size).eval(), size


def reload(model: nn.Module, name: str, size: tuple[int, int, int]) -> nn.Module:
    """Save and load a network."""
    spec, channels = ModelSpec(f"odd_networks:{name}"), size[0]
    mean, std = (0.0,) * channels, (1.0,) * channels
    file = io.BytesIO()
    kept = Checkpoint(model, spec, tuple("abcd"), size, mean, std, "none")
    torch.save(checkpoint.to_dict(kept), file)
    file.seek(0)
    plain = torch.load(file, weights_only=True)
    return checkpoint.from_dict(plain, getattr(odd_networks, name)).model


@pytest.mark.parametrize("name", odd_networks.NAMES)
def test_an_odd_network_is_cut_saved_loaded_and_trained(name: str) -> None:
    model, size = build_odd(name)
    pruned = prune(model, torch.zeros(1, *size), "70%")
    assert count_params(pruned) <= 0.7 * count_params(model)
    images = torch.rand(2, *size)
    loaded = reload(pruned, name, size)
    with torch.no_grad():
        assert torch.equal(loaded(images), pruned(images))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pruned(images[:1])
    assert 2 * measure_cost(pruned, size).macs == counter.get_total_flops()
    logits = make_forward(to_channels_last(loaded).train())(images)
    logits.square().sum().backward()  # type: ignore[no-untyped-call]
    assert logits.shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("MapNorm", {"stem": 8}), ("Tied", {"stem": 16, "first": 16, "second": 16})],
)
def test_groups_that_cannot_be_cut_are_left_alone_and_named(
    name: str, kept: dict[str, int]
) -> None:
    (model, size), lines = build_odd(name), list[str]()
    pruned = prune(model, torch.zeros(1, *size), "60%", log=lines.append)
    assert {layer: pruned.get_submodule(layer).out_channels for layer in kept} == kept
    assert all(layer in lines[0] for layer in kept)


def test_a_shared_weight_stays_shared() -> None:
    model, size = build_odd("Tied")
    loaded = reload(prune(model, torch.zeros(1, *size), "60%"), "Tied", size)
    first, second = loaded.get_submodule("first"), loaded.get_submodule("second")
    assert first.weight is second.weight and first.bias is not second.bias


def test_a_network_of_shared_weights_alone_is_refused_by_name() -> None:
    layers = [nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)]
    layers[1].weight = layers[0].weight
    ends = [nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    model = nn.Sequential(ends[0], *layers, *ends[1:]).eval()
    with pytest.raises(UserError, match="1 and 2 share a parameter"):
        prune(model, torch.zeros(1, 3, SIZE, SIZE), "50%")


def test_auxiliary_heads_lose_the_channels_that_they_read() -> None:
    model, size = build_odd("Auxiliary")
    pruned = prune(model, torch.zeros(1, *size), "50%")
    assert pruned.side_head.in_features == pruned.conv1.out_channels < 16  # type: ignore[union-attr,operator]
    structure = Structure(copy.deepcopy(model), torch.zeros(1, *size))
    assert not structure.unresolved_layers


class MoreInTraining(nn.Module):
    """Returns its logits, and in training what `more` makes of its features and logits."""

    def __init__(self, more: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
        self.head, self.more = nn.Linear(32, 5), more

    def forward(self, images: Tensor) -> object:
        features = self.conv2(self.conv1(images).relu()).relu().mean((2, 3))
        logits = self.head(features)
        return self.more(features, logits) if self.training else logits


@pytest.mark.parametrize(
    "more",
    [
        lambda features, logits: {"loss": logits.mean()},
        lambda features, logits: (features[:, :, None, None], logits[:, :, None, None]),
        lambda features, logits: (features, logits),
    ],
)
def test_what_is_returned_in_training_alone_changes_no_cut(
    more: Callable[[Tensor, Tensor], object],
) -> None:
    torch.manual_seed(0)
    model = MoreInTraining(more)
    pruned = prune(model, torch.zeros(1, 3, SIZE, SIZE), "30%")
    assert pruned.conv2.out_channels < 32 and pruned.head.out_features == 5  # type: ignore[union-attr]


def test_logits_are_found_by_name_or_shape() -> None:
    logits, maps = torch.zeros(2, 4), torch.zeros(2, 8, 3, 3)
    for output in ((maps, logits), {"features": maps, "logits": logits}, [None, logits]):
        assert find_logits(output) is logits
    with pytest.raises(UserError, match="no logits"):
        find_logits({"features": maps})


@pytest.mark.slow
@pytest.mark.parametrize("name", odd_networks.NAMES)
def test_an_odd_network_goes_through_a_whole_run(
    name: str, run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copy(Path(odd_networks.__file__), tiny.root)
    # Some of them take images of one size only.
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(re.sub("(?m)^scale = .*", "", tiny.recipe.read_text()))
    budget = int(0.7 * count_params(build_odd(name)[0]))
    flags = ("--student", f"odd_networks:{name}", "--budget", budget)
    run("run", recipe, *flags, "--out", tmp_path / "run")
