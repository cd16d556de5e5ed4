"""Feature maps taken from a network on their way: which modules to tap, by path, and what these give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compress.models.head import find_head
from compress.runtime.errors import UserError, did_you_mean

RESIDUAL = (
    "layer1",
    "layer2",
    "layer3",
    "layer4",
)  # the stages of torchvision's ResNet, ResNeXt and Wide ResNet


@contextmanager
def tapped(
    network: nn.Module, paths: Sequence[str], before_relu: bool = False
) -> Iterator[dict[str, Tensor]]:
    """A dictionary of what the modules at `paths` last gave, in that order in time, as long as this is open.

    With `before_relu`, where a module ends in a ReLU, what went into that. The tensors are copies: what comes after
    may work in place. Maps with channels last, as Swin's, are turned to (B, C, H, W). The hooks are gone afterwards.
    """
    modules = dict(network.named_modules())
    kept: dict[str, Tensor] = {}
    relu: dict[str, Tensor] = {}  # of the last one: what went in, what came out
    handles: list[RemovableHandle] = []

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        relu["in"] = inputs[0].clone()

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        relu["out"] = output

    def keep(path: str) -> RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                kept.pop(path, None)
                kept[path] = _channels_first(
                    relu["in"] if output is relu.get("out") else output.clone()
                )

        handle: RemovableHandle = modules[path].register_forward_hook(hook)
        return handle

    try:
        if before_relu:
            for module in {
                m
                for path in paths
                for m in modules[path].modules()
                if isinstance(m, nn.ReLU | nn.ReLU6)
            }:
                handles += [
                    module.register_forward_pre_hook(enter),
                    module.register_forward_hook(leave),
                ]
        handles += [keep(path) for path in paths]
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def pair_up(
    taps: Sequence[str],
    teacher: nn.Module,
    student: nn.Module,
    teacher_size: int,
    student_size: int,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules to tap in the teacher, and their partners in the student.

    Args:
        taps: module paths that both networks have, or pairs ``teacher=student``; none for `default_taps`, of which
            the last are paired if one network has more of them than the other.
        teacher_size, student_size: the side of the images that each takes, in pixels.

    Raises:
        UserError: a path is not one of the network's, or gives no feature maps (B, C, H, W), or comes too early.
    """
    if not taps:
        theirs, ours = default_taps(teacher, teacher_size), default_taps(student, student_size)
        pairs = min(len(theirs), len(ours))
        if pairs < 2:
            poor = "teacher" if len(theirs) < 2 else "student"
            raise UserError(
                f"taps: the {poor} has no feature maps of several resolutions; name the layers to tap"
            )
        return theirs[-pairs:], ours[-pairs:]
    split = [tap.partition("=") for tap in taps]
    theirs = tuple(first.strip() for first, _, _ in split)
    ours = tuple((second if sign else first).strip() for first, sign, second in split)
    _check(theirs, teacher, teacher_size, "teacher")
    _check(ours, student, student_size, "student")
    return theirs, ours


def default_taps(network: nn.Module, size: int) -> tuple[str, ...]:
    """The stages of a residual network; of any other, the last module at each resolution, found with one image.

    Only modules that follow one another count, none within a block, none of the head, and none that only pools.
    """
    if all(hasattr(network, name) for name in RESIDUAL):
        return tuple(
            name for name in RESIDUAL if not isinstance(getattr(network, name), nn.Identity)
        )
    head = find_head(network)
    trunk = {
        path: module
        for path, module in _trunk(network)
        if path != head and not path.startswith(f"{head}.")
    }
    last: dict[int, str] = {}
    for path, image in _maps(network, list(trunk), size).items():
        end = trunk[path]
        while isinstance(end, nn.Sequential) and len(end):
            end = end[-1]
        if isinstance(
            end, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d
        ):  # with this the maps are over
            break
        square = image.dim() == 4 and image.shape[2] == image.shape[3]
        if square and not isinstance(end, nn.MaxPool2d | nn.AvgPool2d):
            last[image.shape[3]] = path
    return tuple(last.values())


def _trunk(network: nn.Module, at: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_children():
        yield at + name, module
        if isinstance(module, nn.Sequential | nn.ModuleList):
            yield from _trunk(module, f"{at}{name}.")


def _channels_first(maps: Tensor) -> Tensor:
    """Of square images the maps are square: the sides that are equal are height and width."""
    last = maps.dim() == 4 and maps.shape[1] == maps.shape[2] != maps.shape[3]
    return maps.movedim(3, 1) if last else maps


def _check(paths: Sequence[str], network: nn.Module, size: int, who: str) -> None:
    known = [path for path, _ in network.named_modules() if path]
    for path in paths:
        if path not in known:
            raise UserError(f"taps: the {who} has no layer {path!r}{did_you_mean(path, known)}")
    if len(set(paths)) < len(paths):
        raise UserError(f"taps: {', '.join(paths)}: a layer of the {who} comes twice")
    maps = _maps(network, paths, size)
    for path in paths:
        if path not in maps or maps[path].dim() != 4:
            gives = f"{tuple(maps[path].shape)} for one image" if path in maps else "nothing"
            raise UserError(
                f"taps: {path!r} of the {who} gives {gives}, where feature maps (1, C, H, W) are due"
            )
    if list(maps) != list(paths):
        raise UserError(
            f"taps: the {who}'s layers are passed in the order {', '.join(maps)}: name them so"
        )


@torch.no_grad()
def _maps(network: nn.Module, paths: Sequence[str], size: int) -> dict[str, Tensor]:
    with tapped(network.eval(), paths) as kept:
        network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    return kept
