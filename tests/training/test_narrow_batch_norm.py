"""Batch normalization of few channels: the same as torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.runtime.device import has_fast_bfloat16
from compress.training.cpu_kernels import CpuKernels
from compress.training.ddp import _WholeBatchNorm
from compress.training.forward import make_forward
from compress.training.narrow_batch_norm import CHANNELS, NarrowBatchNorm, normalize


def learned(images: Tensor, norm: nn.BatchNorm2d, slopes: Tensor, training: bool) -> list[Tensor]:
    """Return the output, all gradients, and the running statistics afterwards."""
    images = images.detach().clone(memory_format=torch.channels_last).requires_grad_()
    norm.train(training)
    out = norm(images)
    gradients = torch.autograd.grad(out, [images, *norm.parameters()], slopes.to(out.dtype))
    return [out.detach(), *gradients, norm.running_mean, norm.running_var]


@settings(deadline=None, max_examples=30)
@given(
    channels=st.integers(2, CHANNELS),
    batch=st.sampled_from([64, 66]),
    side=st.sampled_from([16, 18]),
    training=st.booleans(),
    offset=st.sampled_from([0.0, 3.0]),
)
def test_as_exact_as_torch(
    channels: int, batch: int, side: int, training: bool, offset: float
) -> None:
    torch.manual_seed(channels)
    norm = nn.BatchNorm2d(channels)
    for state in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(state, 0.5, 2)
    exact, theirs, ours = (nn.BatchNorm2d(channels) for _ in range(3))
    for each in (exact, theirs, ours):
        each.load_state_dict(norm.state_dict())
    images = (torch.randn(batch, channels, side, side) + offset).bfloat16()
    slopes = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    slopes = slopes.bfloat16()

    expected = learned(images.float(), exact, slopes, training)
    by_torch = learned(images, theirs, slopes, training)
    with CpuKernels():
        made = learned(images, ours, slopes, training)
    for right, plain, value in zip(expected, by_torch, made, strict=True):
        size = right.abs().max()
        error, usual = ((each.float() - right).abs().mean() / size for each in (value, plain))
        assert error <= 1.5 * usual + 1e-5


def test_a_training_step_goes_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_fast_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16")
    seen, plain = [], NarrowBatchNorm.apply
    monkeypatch.setattr(
        NarrowBatchNorm, "apply", lambda *given: seen.append(given[0].shape) or plain(*given)
    )
    body = nn.Conv2d(3, 7, 3, 1, 1, bias=False), nn.BatchNorm2d(7), nn.ReLU(inplace=True)
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    make_forward(model.to(memory_format=torch.channels_last), 32)(
        torch.randn(16, 3, 32, 32)
    ).sum().backward()
    assert seen == [(16, 7, 32, 32)]
    assert model[0].weight.grad.abs().sum() > 0 and model[1].running_mean.abs().sum() > 0


@pytest.mark.parametrize(
    ("shape", "dtype", "last"),
    [
        ((64, 32, 16, 16), torch.bfloat16, True),  # wide
        ((64, 16, 16, 16), torch.bfloat16, True),
        ((8, 7, 16, 16), torch.bfloat16, True),  # of few pixels
        ((64, 7, 16, 16), torch.float32, True),
        ((64, 7, 16, 16), torch.bfloat16, False),
        ((16384, 7), torch.bfloat16, False),
        ((129, 7, 127, 1), torch.bfloat16, True),  # no rows of several pixels
    ],
)
def test_what_torch_normalizes_fast_is_left_to_it(
    shape: tuple[int, ...], dtype: torch.dtype, last: bool
) -> None:
    images, ones = torch.randn(shape).to(dtype), torch.ones(shape[1])
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    assert normalize(images, ones, ones, ones, ones, True) is None
    assert normalize(images, None, None, ones, ones, True) is None


def test_several_processes_share_the_statistics_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.randn(64, 7, 16, 16).contiguous(memory_format=torch.channels_last).bfloat16()
    norm = nn.BatchNorm2d(7)
    seen: list[int] = []

    def share(moments: Tensor) -> Tensor:
        """Add up what two processes with the same shard have."""
        seen.append(len(moments))
        return 2 * moments

    monkeypatch.setattr("compress.runtime.distributed.world_size", lambda: 2)
    monkeypatch.setattr("compress.runtime.distributed.all_reduce_sum", share)
    with _WholeBatchNorm(), CpuKernels():
        norm(images)
    assert seen == [3]
