"""Verification: is a model a classifier, and did a cut leave its logits unchanged?"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.models.outputs import suggest_flatten
from compress.runtime.device import full_precision
from compress.runtime.errors import UserError, one_line

# Rounding may change a logit by this fraction of the largest logit when a cut is correct. In single
# precision on a CPU it changes them by some 1e-6, and a wrong cut of one channel by some 1e-3. Half
# precision and GPUs round more.
TOLERANCE, COARSE_TOLERANCE = 1e-4, 2e-3


def check_classifier(model: nn.Module, example: Tensor) -> None:
    """Check that `model` maps `example` to finite logits, (B, classes) or (B, classes, H, W).

    The example is (B, C, H, W).

    Raises:
        UserError: it does not.
    """
    try:
        with torch.no_grad():
            logits = model(example)
    except UserError as error:
        # There are no logits in what it returns.
        raise UserError(f"the model is not a classifier: {error}") from error
    except Exception as error:
        raise UserError(
            f"the model does not run on images of shape {tuple(example.shape)}: {one_line(error)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() not in (2, 4) or len(logits) != len(example):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"the model is not a classifier: it returns {found}, not logits of shape"
            f" ({len(example)}, classes), or ({len(example)}, classes, height, width) for pixels"
            f"{suggest_flatten(found)}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise UserError("the logits of the model are not finite; check its weights for NaN")


def same_logits(before: Tensor, after: Tensor) -> bool:
    """Return True if logits differ by no more than rounding."""
    exact = before.device.type == "cpu" and before.dtype.itemsize >= 4
    tolerance = TOLERANCE if exact else COARSE_TOLERANCE
    before, after = before.double(), after.double()
    return bool((after - before).abs().max() <= tolerance * before.abs().max() + 1e-6)


class _PlainWeights(TorchFunctionMode):
    """Context in which convolutions do not standardize their weights (arXiv:1903.10520).

    Libraries do so by a batch norm without statistics. The mean and the variance of a filter depend
    on the number of its channels.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm and args[1] is None:
            return args[0]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def run_without_norms(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits with every layer that mixes all of its channels replaced by the identity.

    Such a layer depends on the number of its channels, so removing silent ones would change the
    logits.
    """
    mixing = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
    hooks = [
        module.register_forward_hook(lambda _, inputs, output: inputs[0])
        for module in model.modules()
        if isinstance(module, mixing)
    ]
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    hooks += [
        m.register_forward_hook(lambda _, inputs, output: (inputs[0], None)) for m in attentions
    ]
    try:
        # In reduced precision, a GPU rounds differently at different widths.
        with full_precision(), _PlainWeights():
            return model(images)  # type: ignore[no-any-return]
    finally:
        for hook in hooks:
            hook.remove()
