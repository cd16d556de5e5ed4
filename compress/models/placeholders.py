"""Tensors without values: those of lazy layers, and those on the meta device."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def has_lazy_parameters(model: nn.Module) -> bool:
    """Return True if the shape of a parameter depends on the first images that `model` gets."""
    return any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()])


def materialize(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Give the lazy layers of `model` the shapes that images of `input_size`, (C, H, W), need."""
    training = model.training
    device = next((p.device for p in model.parameters() if not is_lazy(p)), None)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *input_size, device=device))
    model.train(training)


def has_unsaved_tensors(model: nn.Module) -> bool:
    """Return True if modules hold tensors that are not in their state_dict."""
    return any(
        module._non_persistent_buffers_set
        or any(isinstance(value, torch.Tensor) for value in vars(module).values())
        for module in model.modules()
    )


def without_values(model: nn.Module) -> nn.Module:
    """Move all tensors of the state_dict of `model` to the meta device, in place."""
    moved: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                # A shared parameter stays shared.
                moved.setdefault(parameter, nn.Parameter(parameter.data.to("meta")))
                module._parameters[name] = moved[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = buffer.to("meta")
    return model
