"""What makes training fast, and changes no more than the last digits: that it is done where it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny
from torch import Tensor, nn

import compress
from compress.data.batches import Batch
from compress.models.build import build
from compress.pipeline import train_stage as learning
from compress.pipeline.context import on_device
from compress.recipe.model_spec import ModelSpec
from compress.training.trainer import accuracy, forward, teach

CPU = torch.device("cpu")
IMAGES = torch.ones(8, 3, 16, 16)


def batches() -> list[Batch]:
    return [Batch(IMAGES, torch.eye(4)[torch.arange(8) % 4], torch.arange(8), 0)]


def listened(network: nn.Module, images: list[Tensor], logits: list[Tensor]) -> None:
    """Keep what comes into the first layer of `network`, and what comes out of the last."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    layers[0].register_forward_pre_hook(lambda module, inputs: images.append(inputs[0]))
    layers[-1].register_forward_hook(lambda module, inputs, output: logits.append(output))


USES: dict[str, Callable[[nn.Module], Any]] = {
    "learning": lambda model: forward(model)(IMAGES),
    "teaching": lambda model: teach(model)(IMAGES),
    "validation": lambda model: accuracy(model, batches(), exact=False),
    "exact": lambda model: forward(model, exact=True)(IMAGES),
    "test": lambda model: accuracy(model, batches()),
}


@pytest.mark.parametrize("has", [(), ("avx512_bf16",), ("amx_bf16",)])
@pytest.mark.parametrize("use", USES)
def test_bfloat16_where_the_processor_has_it(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, use: str, has: tuple[str, ...]
) -> None:
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True), raising=False
    )
    network, images, logits = build(ModelSpec("tinynets:student"), 4), [], []
    listened(network, images, logits)
    answer = USES[use](network)
    low = bool(has) and use not in ("exact", "test")
    assert [each.dtype for each in logits] == [torch.bfloat16 if low else torch.float32]
    assert not isinstance(answer, Tensor) or answer.dtype == torch.float32
    assert [channels_last(each) for each in images] == [True]


def channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_weights_lie_with_channels_last() -> None:
    kernels = [
        m.weight
        for m in on_device(build(ModelSpec("resnet18"), 4), CPU).modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert all(channels_last(kernel) for kernel in kernels if kernel.shape[2] > 1)


def test_every_stage_learns_so(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut network too, and with bfloat16."""
    monkeypatch.setattr("compress.training.trainer.has_fast_bfloat16", lambda device: True)
    found: list[tuple[bool, set[torch.dtype]]] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        if module.training:
            found[-1][1].add(output.dtype)

    def train(model: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
        kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
        found.append((all(map(channels_last, kernels)), set()))
        hook = list(model.children())[-1].register_forward_hook(keep)
        try:
            return trained(model, *arguments, **options)
        finally:
            hook.remove()

    trained = learning.train
    monkeypatch.setattr("compress.pipeline.train_stage.train", train)
    compress.run(str(tiny.recipe), out=tmp_path / "run", limit=40)
    assert found == [(True, {torch.bfloat16})] * 4  # teach, distill, two times finetune


def test_answers_are_had_without_batch_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(ModelSpec("resnet18"), 4).eval()

    def refuse(*arguments: object, **options: object) -> Tensor:
        raise AssertionError("a batch norm is at work")

    monkeypatch.setattr("torch.nn.functional.batch_norm", refuse)
    with pytest.raises(AssertionError, match="at work"):
        forward(network)(IMAGES)
    accuracy(network, batches())
