"""Other ways to a small network: cuts by torch-pruning and ModelOpt, and narrow ResNet18s."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from compress.models.build import build
from compress.models.cost import measure_cost
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import Stem
from compress.runtime.errors import one_line

RESNET18 = (64, 128, 256, 512)
# 94,866 parameters with a 3×3 stem and ten classes.
HAND_SHAPED = (16, 24, 28, 32)
# Halvings of the pruning ratio's interval: finer than one channel in ResNet18's 4,800.
HALVINGS = 16


class Refused(Exception):
    """Raised when a tool does not do what is asked of it; the text is its reason."""


def resnet18(widths: tuple[int, ...], stem: Stem, classes: int) -> ResNet:
    """Return torchvision's ResNet18 with stages of the given `widths`.

    It is initialized as `compress` does it.
    """
    model = build(ModelSpec("resnet18", stem), classes)
    assert isinstance(model, ResNet)
    first = model.conv1
    model.inplanes = widths[0]
    model.conv1 = nn.Conv2d(
        3, widths[0], first.kernel_size, first.stride, first.padding, bias=False
    )
    model.bn1 = nn.BatchNorm2d(widths[0])
    for number, width in enumerate(widths, start=1):
        setattr(
            model,
            f"layer{number}",
            model._make_layer(BasicBlock, width, 2, stride=1 if number == 1 else 2),
        )
    model.fc = nn.Linear(widths[-1], classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
    return model


def narrow(shape: tuple[int, ...], budget: int, stem: Stem, classes: int) -> tuple[int, ...]:
    """Narrow the widths in `shape` by one ratio until ResNet18 fits into `budget` parameters.

    The result is the largest that fits.

    Raises:
        Refused: ResNet18 is too large even with one channel in every layer.
    """

    def widths(last: int) -> tuple[int, ...]:
        return tuple(max(1, width * last // shape[-1]) for width in shape)

    def params(last: int) -> int:
        with torch.random.fork_rng(devices=[]):
            return measure_cost(resnet18(widths(last), stem, classes), (3, 32, 32)).params

    last = bisect_right(range(1, shape[-1] + 1), budget, key=params)
    if last == 0:
        raise Refused(f"no ratio brings ResNet18 to {budget:,} parameters")
    return widths(last)


def torch_pruning_cut(model: nn.Module, example: Tensor, budget: int, classes: int) -> nn.Module:
    """Cut `model` by torch-pruning, as in its README.

    Channels are ranked globally by the L2 norm of their group, and the classifier is left alone.
    The pruning ratio is found by bisection: the result comes as near to `budget` parameters as the
    tool can without exceeding it.

    Raises:
        Refused: no ratio brings the model to the budget.
    """

    def cut(ratio: float) -> nn.Module:
        pruned = copy.deepcopy(model).eval()
        tp.pruner.BasePruner(
            pruned,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=[
                m
                for m in pruned.modules()
                if isinstance(m, nn.Linear) and m.out_features == classes
            ],
        ).step()
        return pruned

    size = (example.shape[1], example.shape[2], example.shape[3])
    low, high, best, landed = 0.0, 1.0, None, 0
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        pruned = cut(ratio)
        params = measure_cost(pruned, size).params
        if landed < params <= budget:
            best, landed = pruned, params
        low, high = (low, ratio) if params <= budget else (ratio, high)
    if best is None:
        raise Refused(
            f"torch-pruning has no ratio that brings this network to {budget:,} parameters"
        )
    return best


def fastnas(
    model: nn.Module,
    example: Tensor,
    budget: int,
    calibrate: Callable[[nn.Module], None],
    score: Callable[[nn.Module], float],
) -> tuple[nn.Module, str]:
    """Cut `model` by NVIDIA ModelOpt's FastNAS, and return it with a note.

    If FastNAS refuses `budget`, the budget is doubled until it is accepted; the note says so. It is
    empty otherwise.

    Args:
        calibrate: runs a network on training images to update its batch norms.
        score: maps a network to its accuracy, 0 to 1.

    Raises:
        Refused: ModelOpt cannot be imported, fails, or accepts no budget below the model's size.
    """
    try:
        import modelopt.torch.prune as mtp
    except ImportError as error:
        raise Refused(f"nvidia-modelopt cannot be imported: {one_line(error)}") from error
    asked, note = budget, ""
    whole = measure_cost(model, (example.shape[1], example.shape[2], example.shape[3])).params
    while asked < whole:
        try:
            pruned, _ = mtp.prune(
                # FastNAS accepts no other memory format.
                model=copy.deepcopy(model).to(memory_format=torch.contiguous_format),
                mode="fastnas",
                constraints={"params": asked},
                dummy_input=example,
                config={"forward_loop": calibrate, "score_func": score, "verbose": False},
            )
            return pruned, note and f"{note}; asked for {asked:,}"
        except ValueError as error:
            # Tables come before the reason.
            reason = str(error).strip().splitlines()[-1]
            note = note or f"refuses {budget:,}: {reason}"
            asked *= 2
        # Any other failure ends this row only.
        except Exception as error:
            raise Refused(f"fails: {one_line(error)}") from error
    raise Refused(note or f"the model has {whole:,} parameters, within the budget")
