"""Batch norm statistics are measured again after a cut."""

from __future__ import annotations

import torch
from pruning_networks import build_from_blocks
from torch import Tensor, nn

from compress.pruning.batch_norm import reestimate_batchnorm


def test_running_statistics_become_averages_over_the_batches() -> None:
    model = build_from_blocks(["plain"], width=16)
    batches = [torch.randn(8, 3, 12, 12) * 3 + i for i in range(4)]
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    before = [module.training for module in model.modules()]
    reestimate_batchnorm(model, model, batches)
    handle.remove()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.1
    assert [module.training for module in model.modules()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_while_statistics_are_measured() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3)).train()
    batches = [torch.randn(8, 3, 12, 12) + i for i in range(4)]
    reestimate_batchnorm(model, model, batches)
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    means = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    assert model.training
