"""Rounding as int8 does, and networks that learn to live with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_checkpoints import make_checkpoint
from torch import nn

from compress.deployment.prepare import prepare_network
from compress.deployment.samples import normalize, open_own_data, take_samples
from compress.models.checkpoint import Checkpoint, load
from compress.quantization.fake_quantize import (
    RoundActivation,
    RoundWeight,
    fake_quantize,
    set_measuring,
)
from compress.quantization.finetune import finetune_for_int8


@pytest.mark.parametrize("low", [0.0, -3.0])
def test_activations_are_rounded_to_256_steps_and_zero_is_exact(low: float) -> None:
    rounding = RoundActivation()
    values = torch.linspace(low, 2.0, 5001)
    assert rounding(values) is values
    rounding.measuring = False
    rounded = rounding(values)
    step = (2.0 - low) / 255
    assert len(rounded.unique()) <= 256 and 0.0 in rounded
    assert (rounded - values).abs().max() <= step
    assert rounding(torch.tensor([99.0])) <= 2.0 + step


def test_large_values_in_one_batch_are_clipped() -> None:
    rounding = RoundActivation()
    for largest in (1.0, 1.0, 1.0, 9.0):
        rounding(torch.tensor([0.0, largest]))
    assert rounding.high == 3.0


@pytest.mark.parametrize("largest", [127, 64])
def test_weights_are_rounded_by_channel_and_gradients_pass(largest: int) -> None:
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1e-3, 1.0, 50.0, 0.0]).view(4, 1, 1, 1)
    weight.requires_grad_()
    rounded = RoundWeight(largest)(weight)
    step = weight.detach().flatten(1).abs().amax(1) / largest
    error = (rounded - weight).detach().flatten(1).abs().amax(1)
    assert (error <= 0.51 * step + 1e-12).all()
    rounded.sum().backward()
    assert weight.grad is not None and (weight.grad == 1).all()


class Flat(nn.Module):
    """Flattens by `view`, has two outputs of one layer, and a batch norm that is not fused."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2), nn.Linear(4 * 13 * 13, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(self.norm(images))
        maps = maps.relu() + maps
        logits: torch.Tensor = self.head(maps.view(maps.size(0), -1))
        return logits


def networks() -> list[Checkpoint]:
    flat = make_checkpoint("resnet18", "small", 28, 0.0005)
    kinds = [make_checkpoint("mobilenet_v3_small", side=32), flat]
    for checkpoint in kinds:
        # Without statistics of batches, the logits of a deep network vanish.
        norms = [each for each in checkpoint.model.modules() if isinstance(each, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        checkpoint.model.train()(torch.randn(64, *checkpoint.input_size))
        checkpoint.model.eval()
    return [*kinds, Checkpoint(**(vars(flat) | {"model": Flat().eval()}))]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_rounded_network_is_near_and_every_parameter_learns(number: int) -> None:
    checkpoint = networks()[number]
    network, description = prepare_network(checkpoint)
    rounded = fake_quantize(network, description, 127)
    images = torch.randn(16, *checkpoint.input_size)
    expected = network(images)
    # The first images are measured.
    rounded(images)
    set_measuring(rounded, False)
    parameters = [parameter.requires_grad_() for parameter in rounded.parameters()]
    logits = rounded(images)
    assert not torch.equal(logits, expected)
    assert (logits - expected).square().mean() < 0.2 * expected.var()
    torch.autograd.backward(logits.square().sum())
    assert parameters and all(parameter.grad is not None for parameter in parameters)
    names = {name for name, _ in network.named_parameters()}
    assert {name for name, _ in rounded.named_parameters()} == names


@pytest.mark.slow
def test_network_comes_nearer_to_itself_and_stays_as_it_is() -> None:
    path = Path(__file__).parents[2] / "weights" / "sweep" / "fashion-mnist-10k.pth"
    checkpoint = load(path)
    dataset = open_own_data(checkpoint)
    # Within fewer steps, chance decides.
    tuned = finetune_for_int8(checkpoint, checkpoint, dataset, steps=200, seed=0)
    images = normalize(take_samples(dataset, "val", 256).pixels, checkpoint)
    expected = checkpoint.model(images).detach()

    def error(candidate: Checkpoint) -> float:
        rounded = fake_quantize(*prepare_network(candidate), 127)
        rounded(images)
        set_measuring(rounded, False)
        return float((rounded(images) - expected).square().mean())

    assert error(tuned) < error(checkpoint)
    assert torch.equal(load(path).model.eval()(images), expected)
