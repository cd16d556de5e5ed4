"""A step of training shared by several processes, so that it comes to what one would do with the
whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from compress.data.batches import Batch
from compress.runtime import distributed

if TYPE_CHECKING:
    from compress.training.trainer import Forward, Objective


def shared(
    model: nn.Module, student: Forward, objective: Objective
) -> Callable[[Batch, float], Tensor]:
    """The loss of `student`, the forward pass of `model`, on this process's share of a batch, at a
    progress (0 to 1).

    The gradients that its backward pass leaves, in the model's parameters and in the objective's
    own, are those of the whole batch, in every process. `model` is left as it is, but has the first
    process's weights.
    """
    # Objectives of several phases leave a part of the parameters out, and so may anyone's network:
    # DDP has to look which.
    shares = _Share(model, student, objective)
    step = DistributedDataParallel(
        shares, find_unused_parameters=True, gradient_as_bucket_view=True
    )
    if all(
        isinstance(module, _BatchNorm)
        for module in model.modules()
        if list(module.buffers(recurse=False))
    ):
        step.broadcast_buffers = (
            False  # batch norms' statistics are of the whole batch, the same in all processes
        )
    return step


class _Share(nn.Module):
    """DDP wraps the loss, not the network: an objective may look into the network and has
    parameters of its own."""

    def __init__(self, model: nn.Module, student: Forward, objective: Objective) -> None:
        super().__init__()
        self.model, self.student, self.objective = model, student, objective

    def forward(self, batch: Batch, progress: float) -> Tensor:
        with _WholeBatchNorm():
            loss = self.objective(self.student, batch, progress)
        # losses are means over images, and DDP takes the plain mean over processes
        return loss * (
            distributed.world_size() * len(batch.images) / (len(batch.images) + batch.elsewhere)
        )


class _WholeBatchNorm(TorchFunctionMode):
    """Within this, batch norms that learn take their statistics from the whole batch; no module is
    touched."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Any = None,
    ) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `torch.nn.functional.batch_norm`, of this process's share (B, C, …) of a batch.

    torch's own SyncBatchNorm has no code for CPUs, and on a GPU it waits at each layer to see which
    shares are empty.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    values = input.float()
    var, mean = torch.var_mean(values, [d for d in range(input.dim()) if d != 1], correction=0)
    mean, var = (
        mean.double(),
        var.double(),
    )  # so that subtracting the square of a mean leaves enough digits
    number = input.numel() // input.shape[1] * torch.ones_like(mean)
    moments: Tensor = _Added.apply(
        torch.stack([number, number * mean, number * (var + mean.square())])
    )
    number, mean, var = moments.unbind()
    mean = mean / number
    var = var / number - mean.square()
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * number / (number - 1)).to(running_var.dtype), momentum)
    scale = (var + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    shape = (-1, *[1] * (input.dim() - 2))
    return (values * scale.float().view(shape) + shift.float().view(shape)).to(input.dtype)


class _Added(torch.autograd.Function):
    """`processes.added`, through which gradients flow."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return distributed.all_reduce_sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return distributed.all_reduce_sum(gradient)
