"""A cut takes out just the channels it says it takes out, and leaves a plain network."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import made_of, network, seeded, torchinfos
from torch import Tensor, nn

from compress.pruning.importance import worths
from compress.pruning.pruner import COMFORT, prune, reestimate_batchnorm
from compress.pruning.structure import Structure
from compress.recipe.model_spec import Stem


def silence_odd_channels(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[1::2] = 0
            module.bias.data[1::2] = 0


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", "small"),
        ("densenet", "imagenet"),
        ("mobilenet_v2", "imagenet"),
        ("regnet_x_400mf", "imagenet"),
        ("resnext50_32x4d", "half"),
        ("googlenet", "imagenet"),
    ],
)
def test_channels_that_carry_nothing_go_first_and_are_not_missed(name: str, stem: Stem) -> None:
    model = copy.deepcopy(network(name, stem))
    silence_odd_channels(model)
    example = torch.zeros(1, 3, 32, 32)
    structure = Structure(copy.deepcopy(model), example)
    scored = [(worth < 1e-6).sum().item() for worth in worths("bn-scale", model, structure)]
    kept = [
        max(size - dead, min(size, COMFORT))
        for size, dead in zip(structure.sizes(), scored, strict=True)
    ]
    assert sum(scored) >= 0.4 * sum(structure.sizes())
    pruned = prune(model, example, structure.size(kept).params, importance="bn-scale")
    assert torchinfos(pruned, 32)[0] == structure.size(kept).params
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), rtol=1e-3, atol=1e-4)


def test_the_model_is_left_as_it_was_bit_for_bit() -> None:
    model = made_of(["residual", "depthwise", "groupnorm"], 32, False)
    model[0].requires_grad_(False)
    model[1].train()
    kept = copy.deepcopy(model)
    images = torch.randn(4, 3, 12, 12)
    losses = [lambda m: F.cross_entropy(m(images), torch.tensor([0, 1, 2, 3]))]
    pruned = prune(model, torch.zeros(1, 3, 12, 12), 4000, importance="taylor", losses=losses)
    assert model.state_dict().keys() == kept.state_dict().keys()
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), kept.state_dict().values(), strict=True)
    )
    for ours in (model, pruned):
        pairs = list(zip(ours.modules(), kept.modules(), strict=True))
        assert [a.training for a, _ in pairs] == [b.training for _, b in pairs]
        flags = [(a.requires_grad, a.grad) for a in ours.parameters()]
        assert flags == [(b.requires_grad, None) for b in kept.parameters()]


def test_batch_norms_measured_anew_are_those_of_the_data() -> None:
    model = seeded(made_of(["plain"], 16, False))
    batches = [torch.randn(8, 3, 12, 12) * 3 + i for i in range(4)]
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    before = [module.training for module in model.modules()]
    reestimate_batchnorm(model, model, batches)
    handle.remove()
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, means)
    assert [module.training for module in model.modules()] == before and norm.momentum == 0.1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batch_norms_are_measured_with_nothing_dropped() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3)).eval()
    batches = [torch.randn(8, 3, 12, 12) + i for i in range(4)]
    reestimate_batchnorm(model, model, batches)
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and not norm.training
    torch.testing.assert_close(
        norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    )


def test_what_is_left_is_a_plain_torchvision_network() -> None:
    pruned = prune(network("resnet18", "small"), torch.zeros(1, 3, 28, 28), 100_000)
    assert type(pruned) is torchvision.models.ResNet
    assert all(
        not module._forward_hooks and not module._forward_pre_hooks for module in pruned.modules()
    )
