"""Pruning and distillation by fasterai 0.4.1, for `accuracy.py`.

It is used as in its tutorials: a fastai `Learner` prunes while it trains, by the `agp` schedule
(Zhu and Gupta 2017, arXiv:1710.01878), and distills from the teacher throughout. A second fit
trains on, because a schedule of `PruneCallback` ends with its fit. Every layer loses the same share
of its channels; if they were ranked over all layers, some layers would keep a single channel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO

from fastai.callback.schedule import Learner
from fastai.data.core import DataLoaders
from fasterai.core.criteria import large_final
from fasterai.core.schedule import agp, one_shot
from fasterai.distill.distillation_callback import KnowledgeDistillationCallback
from fasterai.distill.losses import SoftTarget
from fasterai.prune.prune_callback import PruneCallback
from fasterai.prune.pruner import Pruner
from rivals import Refused
from torch import Tensor, nn

from compress.models.cost import measure_cost

# fastai's default.
RATE = 1e-3
# Halvings of the interval in which the pruning ratio is searched.
HALVINGS = 16


class Views:
    """Training batches as fastai reads them: another view at every epoch.

    Args:
        batches: yields the batches of a view, float32 images (B, C, S, S) and targets (B, classes).
        steps: batches of a view.
    """

    def __init__(
        self, batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]], steps: int
    ) -> None:
        self.batches, self.steps, self.view = batches, steps, 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.view += 1
        return self.batches(self.view - 1)

    def one_batch(self) -> tuple[Tensor, Tensor]:
        return next(self.batches(0))


def prune_and_distill(
    model: nn.Module,
    teacher: nn.Module,
    views: Views,
    loss: Callable[[Tensor, Tensor], Tensor],
    budget: int,
    epochs: tuple[int, int],
) -> nn.Module:
    """Prune `model` to at most `budget` parameters, distilling from `teacher`.

    Args:
        loss: maps logits and targets (B, classes) to the loss on the labels.
        epochs: those during which it is pruned, and those after them.

    Raises:
        Refused: the pruned network does not fit the budget.
    """
    (example, _) = views.one_batch()
    ratio = find_ratio(model, example[:1], budget)
    learner = Learner(DataLoaders(views, []), model, loss_func=loss)
    teach = KnowledgeDistillationCallback(teacher.requires_grad_(False), SoftTarget)
    prune = PruneCallback(ratio, agp, "local", large_final, example_inputs=example[:1])
    with learner.no_bar(), learner.no_logging(), redirect_stdout(StringIO()):
        learner.fit_one_cycle(epochs[0], RATE, cbs=[teach, prune])
        learner.fit_one_cycle(epochs[1], RATE, cbs=[teach], reset_opt=True)
    size = (example.shape[1], example.shape[2], example.shape[3])
    if (params := measure_cost(model, size).params) > budget:
        raise Refused(f"ends at {params:,} parameters")
    return model.eval()


def find_ratio(model: nn.Module, example: Tensor, budget: int) -> float:
    """Return the smallest pruning ratio that brings `model` to at most `budget` parameters.

    Raises:
        Refused: none of the ratios that were tried does.
    """
    low, high, fits_any = 0.0, 1.0, False
    size = (example.shape[1], example.shape[2], example.shape[3])
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        pruned = copy.deepcopy(model)
        with redirect_stdout(StringIO()):
            pruner = Pruner(pruned, ratio, "local", large_final, one_shot, example_inputs=example)
            pruner.prune_model()
        fits = measure_cost(pruned, size).params <= budget
        low, high = (low, ratio) if fits else (ratio, high)
        fits_any |= fits
    if not fits_any:
        raise Refused(f"no ratio brings it to {budget:,} parameters")
    return high
