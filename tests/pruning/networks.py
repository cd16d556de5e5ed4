"""Networks to be pruned, and what every one of them has to stand."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F
import torchinfo
import torchvision
from torch import Tensor, nn

from compress.models.build import build
from compress.models.cost import measure_cost
from compress.pruning.pruner import FLOOR, narrowest, prune
from compress.pruning.structure import Structure
from compress.recipe.budget import Axis, Limits
from compress.recipe.model_spec import ModelSpec, Stem


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in evaluation mode, with batch norms as training leaves them: no scale zero, no mean zero."""
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
def network(name: str, stem: Stem = "imagenet") -> nn.Module:
    torch.manual_seed(0)
    if name == "densenet":  # a small one
        return seeded(torchvision.models.DenseNet(16, (2, 3), num_init_features=32, num_classes=10))
    model = build(ModelSpec(name, stem), 10)
    if isinstance(
        model, torchvision.models.VisionTransformer
    ):  # its head begins with zeros, and would answer nothing
        nn.init.normal_(model.heads.head.weight)
    return seeded(model)


def torchinfos(model: nn.Module, side: int) -> tuple[int, int]:
    found = torchinfo.summary(model, input_size=(1, 3, side, side), verbose=0)
    return found.total_params, int(found.total_mult_adds)


def check(
    model: nn.Module,
    side: int,
    budget: int,
    axis: Axis = "params",
    said: list[str] | None = None,
    **options: Any,
) -> nn.Module:
    """Prune, and hold the result against the promise: within the budget, and by less than one per cent, or by less than
    the smallest step, which is said then."""
    example, limits, said = (
        torch.zeros(1, 3, side, side),
        Limits(**{axis: budget}),
        [] if said is None else said,
    )
    pruned = prune(model, example, **{axis: budget}, note=said.append, **options)
    params, macs = torchinfos(pruned, side)
    assert params == sum(p.numel() for p in pruned.parameters())

    original = Structure(copy.deepcopy(model), example)
    kept = []
    for coupling in original.couplings:
        root: Any = pruned.get_submodule(coupling.name)
        width = root.out_features if isinstance(root, nn.Linear) else root.out_channels
        assert width % coupling.units.shape[1] == 0
        kept.append(width // coupling.units.shape[1])
    counted = original.size(kept)
    assert (counted.params, counted.macs) == (params, macs) and limits.fits(counted)
    assert all(keep >= min(size, FLOOR) for keep, size in zip(kept, original.sizes(), strict=True))
    if limits.usage(counted) < 0.99:
        assert "the smallest step left is" in said[-1]
        for i, size in enumerate(original.sizes()):
            if kept[i] < size:
                assert not limits.fits(
                    original.size([keep + (i == j) for j, keep in enumerate(kept)])
                )

    with torch.no_grad():
        assert (
            pruned.eval()(torch.randn(2, 3, side, side)).shape
            == model(torch.randn(2, 3, side, side)).shape
        )
    return pruned


def between(model: nn.Module, side: int, where: float, axis: Axis = "params") -> int:
    """A budget between the least that the network can be pruned to (0) and 90 % of it (1), evenly in ratio."""
    low = getattr(narrowest(model, torch.zeros(1, 3, side, side))[1], axis)
    return int(low * (0.9 * getattr(measure_cost(model, (3, side, side)), axis) / low) ** where)


class Squeeze(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()  # type: ignore[no-any-return]


class Block(nn.Module):
    """A block of one of many kinds: what people build networks from."""

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
                "slope": lambda: nn.Sequential(conv(width, width), nn.PReLU()),
                "slopes": lambda: nn.Sequential(conv(width, width), nn.PReLU(width)),
                "groupnorm": lambda: nn.Sequential(conv(width, width), nn.GroupNorm(4, width), act),
            }[kind]()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "concat":
            return self.join(torch.cat([x, self.body(x)], 1))  # type: ignore[no-any-return]
        return x + self.body(x) if self.kind in ("residual", "squeeze") else self.body(x)  # type: ignore[no-any-return]


KINDS = [
    "plain",
    "residual",
    "grouped",
    "regrouped",
    "depthwise",
    "squeeze",
    "concat",
    "groupnorm",
    "slope",
    "slopes",
]


def made_of(kinds: list[str], width: int, flat: bool) -> nn.Module:
    torch.manual_seed(0)
    head = [
        nn.AdaptiveAvgPool2d(2 if flat else 1),
        nn.Flatten(),
        nn.Linear(width * (4 if flat else 1), 7),
    ]
    return seeded(
        nn.Sequential(nn.Conv2d(3, width, 3), *(Block(kind, width) for kind in kinds), *head)
    )
