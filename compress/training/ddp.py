"""Data parallelism: processes that share a training step compute what one process would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from compress.data.batches import Batch
from compress.runtime import distributed
from compress.training.objective import Forward, Losses, Objective, total_loss


def share_step(
    model: nn.Module, student: Forward, objective: Objective
) -> Callable[[Batch, float], tuple[Tensor, Losses]]:
    """Return a training step on this process's shard of a batch: the loss, and its named parts.

    The backward pass leaves the gradients of the whole batch, in every process, in the model's
    parameters and in the objective's own. All processes start from the main one's weights.

    Args:
        student: the forward pass of `model`.
    """
    # Objectives with phases leave some parameters out, and so may any network: DDP must look for
    # unused ones.
    step = DistributedDataParallel(
        _ShardedLoss(model, student, objective),
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
    )
    with_buffers = [m for m in model.modules() if list(m.buffers(recurse=False))]
    if all(isinstance(module, _BatchNorm) for module in with_buffers):
        # Their statistics are those of the whole batch, the same in all processes.
        step.broadcast_buffers = False
    return step


class _ShardedLoss(nn.Module):
    """The loss as a module. DDP wraps it, and not the network, for the objective's parameters."""

    def __init__(self, model: nn.Module, student: Forward, objective: Objective) -> None:
        super().__init__()
        self.model, self.student, self.objective = model, student, objective

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, Losses]:
        with _WholeBatchNorm():
            losses = self.objective(self.student, batch, progress)
        # Losses are means over images, and DDP averages over processes.
        images = len(batch.images)
        weight = distributed.world_size() * images / (images + batch.elsewhere)
        scaled = {name: loss.detach() * weight for name, loss in losses.items()}
        return total_loss(losses) * weight, scaled


class _WholeBatchNorm(TorchFunctionMode):
    """Context in which batch norms in training mode use the statistics of the whole batch."""

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
    """Compute `torch.nn.functional.batch_norm` on this process's shard (B, C, …) of a batch.

    torch's SyncBatchNorm has no CPU kernel, and on a GPU it waits at each layer to find out which
    shards are empty.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    values = input.float()
    var, mean = torch.var_mean(values, [d for d in range(input.dim()) if d != 1], correction=0)
    # In float64, so that subtracting the square of a mean leaves enough digits.
    mean, var = mean.double(), var.double()
    number = input.numel() // input.shape[1] * torch.ones_like(mean)
    moments: Tensor = _AllReduceSum.apply(
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


class _AllReduceSum(torch.autograd.Function):
    """`distributed.all_reduce_sum` with gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return distributed.all_reduce_sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return distributed.all_reduce_sum(gradient)
