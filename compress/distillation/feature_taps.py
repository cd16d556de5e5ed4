"""Feature taps: feature maps of a network's layers, captured during a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compress.models.channels import input_channels
from compress.models.head import find_head
from compress.runtime.errors import UserError, did_you_mean

# What networks that label pixels call their encoder.
ENCODERS = ("encoder", "backbone")
# The stages of torchvision's ResNet, ResNeXt and Wide ResNet.
RESIDUAL_STAGES = ("layer1", "layer2", "layer3", "layer4")


@contextmanager
def tap_features(
    network: nn.Module, paths: Sequence[str], before_relu: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Capture the outputs of the modules at `paths` while the context is open.

    Args:
        before_relu: for a module that ends in a ReLU, capture the input of that ReLU.

    Yields:
        A dictionary of path to feature map, in the order of the forward pass. The maps are copies,
        since later layers may work in place. Maps with channels last, such as Swin's, are permuted
        to (B, C, H, W).
    """
    modules = dict(network.named_modules())
    maps: dict[str, Tensor] = {}
    # The input and the output of the last ReLU.
    relu: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        relu["in"] = inputs[0].clone()

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        relu["out"] = output

    def capture(path: str) -> RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                maps.pop(path, None)
                maps[path] = _to_channels_first(
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
        handles += [capture(path) for path in paths]
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def pair_taps(
    taps: Sequence[str], teacher: tuple[nn.Module, int], student: tuple[nn.Module, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the layers to tap in the teacher, and their partners in the student.

    Args:
        taps: module paths that both networks have, or pairs ``teacher=student``. If empty,
            `default_taps` of both networks; if one network has more, its last ones.
        teacher, student: each a network and the side of the images that it takes, in pixels.

    Raises:
        UserError: a path does not exist, returns no feature maps (B, C, H, W), or is out of order.
    """
    if not taps:
        theirs, ours = default_taps(*teacher), default_taps(*student)
        pairs = min(len(theirs), len(ours))
        if pairs < 2:
            poor = "teacher" if len(theirs) < 2 else "student"
            raise UserError(
                f"taps: the {poor} has no feature maps at several resolutions;"
                " name the layers to tap"
            )
        return theirs[-pairs:], ours[-pairs:]
    split = [tap.partition("=") for tap in taps]
    theirs = tuple(first.strip() for first, _, _ in split)
    ours = tuple((second if sign else first).strip() for first, sign, second in split)
    _check_paths(theirs, *teacher, "teacher")
    _check_paths(ours, *student, "student")
    return theirs, ours


def default_taps(network: nn.Module, image_size: int) -> tuple[str, ...]:
    """Return the stages of a residual network, or encoder; else the last module at each resolution.

    Only modules that run one after another count: none inside a block, none of the head, and none
    that only pools.
    """
    for part in ("", *ENCODERS):
        encoder = getattr(network, part, None) if part else network
        if all(hasattr(encoder, name) for name in RESIDUAL_STAGES):
            return tuple(
                f"{part}.{name}" if part else name
                for name in RESIDUAL_STAGES
                if not isinstance(getattr(encoder, name), nn.Identity)
            )
    head = find_head(network)
    trunk = {
        path: module
        for path, module in _iter_trunk(network)
        if path != head and not path.startswith(f"{head}.")
    }
    last: dict[int, str] = {}
    for path, output in _measure_maps(network, list(trunk), image_size).items():
        end = trunk[path]
        while isinstance(end, nn.Sequential) and len(end):
            end = end[-1]
        # Global pooling ends the feature maps.
        if isinstance(end, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            break
        square = output.dim() == 4 and output.shape[2] == output.shape[3]
        if square and not isinstance(end, nn.MaxPool2d | nn.AvgPool2d):
            last[output.shape[3]] = path
    return tuple(last.values())


def _iter_trunk(network: nn.Module, at: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_children():
        yield at + name, module
        if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _iter_trunk(module, f"{at}{name}.")


def _to_channels_first(maps: Tensor) -> Tensor:
    """Permute maps with channels last to (B, C, H, W).

    The maps of square images are square: the two equal sides are height and width.
    """
    last = maps.dim() == 4 and maps.shape[1] == maps.shape[2] != maps.shape[3]
    return maps.movedim(3, 1) if last else maps


def _check_paths(paths: Sequence[str], network: nn.Module, size: int, role: str) -> None:
    known = [path for path, _ in network.named_modules() if path]
    for path in paths:
        if path not in known:
            raise UserError(f"taps: the {role} has no layer {path!r}{did_you_mean(path, known)}")
    if len(set(paths)) < len(paths):
        raise UserError(f"taps: {', '.join(paths)}: a layer of the {role} is listed twice")
    maps = _measure_maps(network, paths, size)
    for path in paths:
        if path not in maps or maps[path].dim() != 4:
            output = f"{tuple(maps[path].shape)} for one image" if path in maps else "no tensor"
            raise UserError(
                f"taps: {path!r} of the {role} outputs {output}, not feature maps (1, C, H, W)"
            )
    if list(maps) != list(paths):
        raise UserError(
            f"taps: the {role}'s layers run in the order {', '.join(maps)}: list them in that order"
        )


@torch.no_grad()
def _measure_maps(network: nn.Module, paths: Sequence[str], size: int) -> dict[str, Tensor]:
    channels = input_channels(network, size)
    with tap_features(network.eval(), paths) as maps:
        network(torch.zeros(1, channels, size, size, device=next(network.parameters()).device))
    return maps
