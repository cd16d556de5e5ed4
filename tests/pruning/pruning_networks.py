"""Networks to prune, and a check that a pruned network keeps every promise of `prune`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchinfo
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.models.build import build
from compress.models.cost import measure_cost
from compress.pruning.allocate import MIN_UNITS, TARGET_USAGE, get_floors, get_lowest_floors
from compress.pruning.pruner import prune, prune_to_minimum
from compress.pruning.structure import Structure
from compress.recipe.budget import Axis, Limits
from compress.recipe.model_spec import ModelSpec, Stem


def randomize_batch_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Set batch norms as training leaves them, with no scale or mean at zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


@functools.cache
def build_network(name: str, stem: Stem = "imagenet") -> nn.Module:
    """Build a network of 10 classes with random weights. It is shared: copy it before a change."""
    torch.manual_seed(0)
    model = build(ModelSpec(name, stem), 10)
    # The head of a vision transformer starts at zero, and so would all logits.
    if isinstance(model, torchvision.models.VisionTransformer):
        nn.init.normal_(model.heads.head.weight)
    return randomize_batch_norms(model)


def count_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def count_independently(model: nn.Module, image_size: int) -> tuple[int, int]:
    """Count parameters by torchinfo and multiply-adds by torch, without the code under test."""
    found = torchinfo.summary(model, input_size=(1, 3, image_size, image_size), verbose=0)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, image_size, image_size))
    return found.total_params, counter.get_total_flops() // 2


def list_out_channels(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def prune_and_check(
    model: nn.Module,
    image_size: int,
    budget: int,
    axis: Axis = "params",
    log: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> nn.Module:
    """Prune `model`, and check the result against the promises of `prune`.

    It is within the budget, and by less than one per cent, or by less than the smallest step, which
    is then logged.
    """
    example, limits = torch.zeros(1, 3, image_size, image_size), Limits(**{axis: budget})
    lines: list[str] = []
    pruned = prune(model, example, **{axis: budget}, log=lines.append, **options)
    for line in lines:
        log(line)
    params, macs = count_independently(pruned, image_size)
    assert params == count_params(pruned)

    unpruned = Structure(copy.deepcopy(model), example)
    kept = []
    for group in unpruned.groups:
        root: Any = pruned.get_submodule(group.name)
        width = root.out_features if isinstance(root, nn.Linear) else root.out_channels
        assert width % group.units.shape[1] == 0
        kept.append(width // group.units.shape[1])
    predicted = unpruned.predict_cost(kept)
    assert predicted.params == params
    # Attention's products of activations are predicted from above.
    attention = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    assert macs <= predicted.macs if attention else macs == predicted.macs
    assert limits.fits(predicted)
    unit_counts = unpruned.unit_counts()
    floors = get_floors(unpruned, MIN_UNITS)
    if not limits.fits(unpruned.predict_cost(floors)):
        floors = get_lowest_floors(unpruned)
    assert all(keep >= floor for keep, floor in zip(kept, floors, strict=True))
    if limits.usage(predicted) < TARGET_USAGE:
        assert "smallest step" in lines[-1]
        for i, units in enumerate(unit_counts):
            if kept[i] < units:
                one_more = [keep + (i == j) for j, keep in enumerate(kept)]
                assert not limits.fits(unpruned.predict_cost(one_more))

    images = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        assert pruned.eval()(images).shape == model(images).shape
    return pruned


def choose_budget(model: nn.Module, image_size: int, fraction: float, axis: Axis = "params") -> int:
    """Return a budget between the minimum of the network (0) and 90 % of it (1)."""
    lowest = getattr(prune_to_minimum(model, torch.zeros(1, 3, image_size, image_size))[1], axis)
    full = getattr(measure_cost(model, (3, image_size, image_size)), axis)
    return int(lowest * (0.9 * full / lowest) ** fraction)


class Squeeze(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()  # type: ignore[no-any-return]


class Block(nn.Module):
    """A block of one of the kinds that networks are commonly built from."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)
        narrow, act = width // 2, nn.ReLU()
        if kind == "concat":
            self.body = conv(width, narrow)
            self.join = nn.Conv2d(width + narrow, width, 1)
        else:
            self.body = {
                "plain": lambda: nn.Sequential(conv(width, width), nn.BatchNorm2d(width), act),
                "residual": lambda: nn.Sequential(
                    conv(width, narrow), nn.BatchNorm2d(narrow), act, conv(narrow, width)
                ),
                "grouped": lambda: nn.Sequential(
                    conv(width, width, groups=4), nn.BatchNorm2d(width), act
                ),
                "regrouped": lambda: nn.Sequential(
                    conv(width, width, groups=2), act, conv(width, width, groups=4)
                ),
                "depthwise": lambda: nn.Sequential(
                    conv(width, width, groups=width), nn.Conv2d(width, width, 1), act
                ),
                "squeeze": lambda: nn.Sequential(conv(width, width), Squeeze(width)),
                "shared_slope": lambda: nn.Sequential(conv(width, width), nn.PReLU()),
                "slopes": lambda: nn.Sequential(conv(width, width), nn.PReLU(width)),
                "groupnorm": lambda: nn.Sequential(conv(width, width), nn.GroupNorm(4, width), act),
            }[kind]()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "concat":
            return self.join(torch.cat([x, self.body(x)], 1))  # type: ignore[no-any-return]
        return x + self.body(x) if self.kind in ("residual", "squeeze") else self.body(x)  # type: ignore[no-any-return]


BLOCK_KINDS = [
    "plain",
    "residual",
    "grouped",
    "regrouped",
    "depthwise",
    "squeeze",
    "concat",
    "groupnorm",
    "shared_slope",
    "slopes",
]


def build_from_blocks(kinds: list[str], width: int = 32, flatten_maps: bool = False) -> nn.Module:
    """Build a network of 7 classes. With `flatten_maps`, its linear layer reads 2×2 maps."""
    torch.manual_seed(0)
    positions = 4 if flatten_maps else 1
    return randomize_batch_norms(
        nn.Sequential(
            nn.Conv2d(3, width, 3),
            *(Block(kind, width) for kind in kinds),
            nn.AdaptiveAvgPool2d(2 if flatten_maps else 1),
            nn.Flatten(),
            nn.Linear(width * positions, 7),
        )
    )
