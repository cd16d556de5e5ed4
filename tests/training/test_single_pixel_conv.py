"""Convolutions to a single pixel: the same as torch's own, where those are right."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.runtime.device import has_fast_bfloat16
from compress.training.cpu_kernels import CpuKernels
from compress.training.forward import make_forward


def learned(conv: nn.Conv2d, images: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of the images and of all parameters."""
    images = images.clone().requires_grad_()
    out = conv(images)
    return [out, *torch.autograd.grad(out.square().sum(), [images, *conv.parameters()])]


@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    bias=st.booleans(),
    last=st.booleans(),
    groups=st.sampled_from([1, 2]),
)
def test_the_same_as_torch_whatever_the_shape(
    height: int,
    width: int,
    kernel: int,
    stride: int,
    padding: int,
    bias: bool,
    last: bool,
    groups: int,
) -> None:
    if min(height, width) + 2 * padding < kernel:
        return
    conv = nn.Conv2d(4, 6, kernel, stride, padding, bias=bias, groups=groups).double()
    images = torch.randn(3, 4, height, width, dtype=torch.float64)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    theirs = learned(conv, images)
    with CpuKernels():
        ours = learned(conv, images)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("side", [1, 2])
def test_a_single_pixel_is_no_convolution(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    conv, seen = nn.Conv2d(8, 8, 3, 2, 1, bias=False), []
    plain = torch.nn.functional.linear
    monkeypatch.setattr(
        "compress.training.single_pixel_conv.F.linear",
        lambda *given: seen.append(given[1]) or plain(*given),
    )
    make_forward(nn.Sequential(conv, nn.Flatten()), side)(
        torch.randn(2, 3, side, side)[:, :1].expand(-1, 8, -1, -1)
    )
    assert [tuple(taps.shape) for taps in seen] == [(8, 8 * side**2)]


@pytest.mark.skipif(
    not has_fast_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16"
)
@pytest.mark.parametrize("groups", [1, 2, 24])
def test_taps_that_see_only_padding_have_no_gradient_in_bfloat16(groups: int) -> None:
    """oneDNN leaves them undefined, in most trials but not in all."""
    for trial in range(20):
        torch.manual_seed(trial)
        body = nn.Conv2d(3, 24, 16), nn.ReLU(), nn.Conv2d(24, 48, 3, 2, 1, groups=groups)
        model = nn.Sequential(*body, nn.Flatten())
        make_forward(model, 16)(torch.randn(7, 3, 16, 16)).square().sum().backward()
        taps = model[2].weight.grad.flatten(2)
        assert taps[:, :, 4].abs().max() > 0
        assert taps[:, :, [0, 1, 2, 3, 5, 6, 7, 8]].eq(0).all()
