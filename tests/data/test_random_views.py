"""Random views: the distribution of crops and erased parts is torchvision's."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from compress.data.random_views import (
    derive_seed,
    draw_crops,
    draw_flips,
    draw_holes,
    draw_order,
    make_generator,
)

COUNT = 4000


def test_every_part_of_a_key_changes_the_seed() -> None:
    keys = [("order", 0, 1), ("order", 1, 0), ("order", 0, 2), ("flip", 0, 1), ("order", 0)]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys) and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("order", 0, 1) == seeds[0]


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first = torch.rand(3, generator=make_generator("any", 1))
    draw_order(10, 0, 0), draw_flips(10, 0, 0), draw_crops(10, 8, (0.5, 1.0), 0, 0)
    draw_holes(10, 8, 0.5, 0, 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    assert torch.equal(first, torch.rand(3, generator=make_generator("any", 1)))


def test_an_order_is_a_permutation_of_its_own_for_each_view() -> None:
    orders = [draw_order(50, 0, view).tolist() for view in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_half_of_the_samples_are_flipped() -> None:
    assert 0.46 < draw_flips(COUNT, 0, 0).double().mean() < 0.54


@pytest.mark.parametrize(("side", "area"), [(28, (0.6, 1.0)), (32, (0.08, 1.0))])
def test_crops_are_distributed_as_in_torchvision(side: int, area: tuple[float, float]) -> None:
    x1, y1, x2, y2 = draw_crops(COUNT, side, area, seed=0, view=0).T
    assert_within(side, x1, y1, x2, y2)
    reference = v2.RandomResizedCrop(side, scale=area)
    image = torch.zeros(1, side, side)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        drawn = [reference.make_params([image]) for _ in range(COUNT)]
    theirs = torch.tensor([[p["left"], p["top"], p["width"], p["height"]] for p in drawn]).float().T
    assert_same_distribution((x1, y1, x2 - x1, y2 - y1), theirs)


@pytest.mark.parametrize("side", [12, 28])
def test_holes_are_distributed_as_in_torchvision(side: int) -> None:
    holes = draw_holes(COUNT, side, 0.7, seed=0, view=0)
    x1, y1, x2, y2 = holes[holes[:, 2] > 0].T
    assert 0.66 < len(x1) / COUNT < 0.74
    assert_within(side, x1, y1, x2, y2)
    eraser = v2.RandomErasing(p=1.0, value=0)
    image = torch.ones(1, side, side)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        drawn = [eraser.make_params([image]) for _ in range(COUNT)]
    theirs = torch.tensor([[p["j"], p["i"], p["w"], p["h"]] for p in drawn]).float().T
    assert_same_distribution((x1, y1, x2 - x1, y2 - y1), theirs)


def assert_within(side: int, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> None:
    for low, high in ((x1, x2), (y1, y2)):
        assert (low >= 0).all() and (low < high).all() and (high <= side).all()
        assert torch.equal(low, low.round()) and torch.equal(high, high.round())


def assert_same_distribution(ours: Sequence[Tensor], theirs: Tensor) -> None:
    """Compare boxes, given as left, top, width and height, each (N,)."""
    # False alarms: one in a thousand draws.
    bound = 1.95 * (1 / len(ours[0]) + 1 / len(theirs[0])) ** 0.5
    measures = [
        lambda box: box[2] * box[3],
        lambda box: box[2] / box[3],
        lambda box: box[0],
        lambda box: box[1],
        lambda box: box[0] + box[2],
        lambda box: box[1] - box[0],
    ]
    for measure in measures:
        assert kolmogorov_smirnov(measure(ours), measure(theirs)) < bound


def kolmogorov_smirnov(a: Tensor, b: Tensor) -> float:
    """Return the largest distance between the cumulative distributions of two samples."""
    at = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(x.sort().values, at, right=True) / len(x) for x in (a, b)]
    return float((below[0] - below[1]).abs().max())


def test_the_statistic_tells_different_distributions_apart() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand(COUNT, generator=random), torch.rand(COUNT, generator=random)
    assert kolmogorov_smirnov(a, b) < 0.05 < kolmogorov_smirnov(a, b**1.3)
