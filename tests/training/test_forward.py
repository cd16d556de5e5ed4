"""Forward passes are fast: bfloat16 and channels last where they help, batch norms fused."""

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
from compress.models.memory_format import to_channels_last
from compress.recipe.model_spec import ModelSpec
from compress.training.classification import Classification
from compress.training.evaluate import measure_accuracy
from compress.training.forward import make_forward, make_teacher
from compress.training.trainer import Trainer

IMAGES = torch.ones(8, 3, 16, 16)
TASK = Classification(4)


def make_batches() -> list[Batch]:
    return [Batch(IMAGES, torch.eye(4)[torch.arange(8) % 4], torch.arange(8), 0)]


def record(network: nn.Module, images: list[Tensor], logits: list[Tensor]) -> None:
    """Record the input of the first layer of `network`, and the output of its last."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    layers[0].register_forward_pre_hook(lambda module, inputs: images.append(inputs[0]))
    layers[-1].register_forward_hook(lambda module, inputs, output: logits.append(output))


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


USES: dict[str, Callable[[nn.Module], Any]] = {
    "training": lambda model: make_forward(model)(IMAGES),
    "teacher": lambda model: make_teacher(model)(IMAGES),
    "validation": lambda model: measure_accuracy(model, make_batches(), TASK, exact=False),
    "exact": lambda model: make_forward(model, exact=True)(IMAGES),
    "test": lambda model: measure_accuracy(model, make_batches(), TASK),
}


@pytest.mark.parametrize("abilities", [(), ("avx512_bf16",), ("amx_bf16",)])
@pytest.mark.parametrize("use", USES)
def test_bfloat16_is_used_where_it_is_fast_and_rounding_is_allowed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, use: str, abilities: tuple[str, ...]
) -> None:
    found = dict.fromkeys(abilities, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    network, images, logits = build(ModelSpec("tinynets:student"), 4), [], []
    record(network, images, logits)
    output = USES[use](network)
    low = bool(abilities) and use not in ("exact", "test")
    assert [each.dtype for each in logits] == [torch.bfloat16 if low else torch.float32]
    assert not isinstance(output, Tensor) or output.dtype == torch.float32
    assert [is_channels_last(each) for each in images] == [True]


def test_weights_of_convolutions_are_channels_last() -> None:
    model = to_channels_last(build(ModelSpec("resnet18"), 4))
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    large = [kernel for kernel in kernels if kernel.shape[2] > 1]
    assert len(large) == 17 and all(map(is_channels_last, large))


def test_images_are_resized_on_the_way_into_the_network() -> None:
    images: list[Tensor] = []
    network = build(ModelSpec("resnet18"), 4)
    record(network, images, [])
    for size in (8, 16, 32):
        make_forward(network, size)(IMAGES)
    assert [tuple(each.shape[2:]) for each in images] == [(8, 8), (16, 16), (32, 32)]


@pytest.mark.slow
def test_every_stage_trains_in_bfloat16_and_channels_last(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes stages that train pruned networks."""
    monkeypatch.setattr("compress.training.forward.has_fast_bfloat16", lambda device: True)
    found: list[tuple[bool, set[torch.dtype]]] = []
    original = Trainer.fit

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        if module.training:
            found[-1][1].add(output.dtype)

    def fit(trainer: Trainer) -> Any:
        convolutions = [m for m in trainer.model.modules() if isinstance(m, nn.Conv2d)]
        found.append((all(is_channels_last(m.weight) for m in convolutions), set()))
        hook = list(trainer.model.children())[-1].register_forward_hook(keep)
        try:
            return original(trainer)
        finally:
            hook.remove()

    monkeypatch.setattr(Trainer, "fit", fit)
    compress.run(str(tiny.recipe), out=tmp_path / "run", max_images=40)
    # teach, distill, and finetune twice
    assert found == [(True, {torch.bfloat16})] * 4


def test_evaluation_fuses_batch_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(ModelSpec("resnet18"), 4).eval()

    def refuse(*arguments: object, **options: object) -> Tensor:
        raise AssertionError("a batch norm runs")

    monkeypatch.setattr("torch.nn.functional.batch_norm", refuse)
    with pytest.raises(AssertionError, match="a batch norm runs"):
        make_forward(network)(IMAGES)
    assert 0 <= measure_accuracy(network, make_batches(), TASK) <= 1


def test_images_are_made_smaller_with_antialiasing() -> None:
    """Noise averages out only if every pixel counts."""
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    small = make_forward(lambda images: images.flatten(1), 8)(noise)
    assert small.shape == (2, 3 * 8 * 8) and float(small.std()) < 0.3 * float(noise.std())
