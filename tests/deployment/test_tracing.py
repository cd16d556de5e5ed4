"""Tracing: networks that can be traced, and the lines about those that cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.deployment.description import Description
from compress.deployment.tracing import trace
from compress.runtime.errors import UserError

DESCRIPTION = Description(classes=("a", "b"), input_size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


class Starred(Net):
    def forward(self, *images: Tensor) -> Tensor:
        return super().forward(images[0])


class ByLength(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.view(len(images), 3, 8, 8))


class ByValue(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.mean() > 0 else -images)


@pytest.mark.parametrize("network", [Net(), Starred()], ids=["one argument", "starred"])
def test_a_traced_network_takes_any_number_of_images(network: nn.Module) -> None:
    traced = trace(network.eval(), DESCRIPTION).module()
    for count in (1, 5):
        images = torch.rand(count, 3, 8, 8)
        torch.testing.assert_close(traced(images), network(images))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (ByLength(), r"number of images.*x\.size\(0\)"),
        (ByValue(), r"values of the images, at .*images\.mean\(\) > 0"),
    ],
    ids=["length", "value"],
)
def test_the_line_says_what_cannot_be_traced_and_nothing_else_is_shown(
    network: nn.Module, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message):
        trace(network.eval(), DESCRIPTION)
    assert capfd.readouterr() == ("", "")
