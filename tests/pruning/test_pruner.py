"""Pruning: it lands on the budget by torchinfo's count, and takes out just the channels it says it takes out."""

from __future__ import annotations

import copy
import functools
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchinfo
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.errors import UserError
from compress.models.build import build
from compress.models.network import Network, Stem
from compress.pruning.importance import IMPORTANCES, worths
from compress.pruning.pruner import COMFORT, FLOOR, least, prune, reestimate_batchnorm
from compress.pruning.structure import Structure

FAST = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in evaluation mode, with batch norms as training leaves them: no scale zero, no mean zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


@functools.cache
def network(name: str, stem: Stem = "imagenet") -> nn.Module:
    torch.manual_seed(0)
    if name == "densenet":  # a small one
        return seeded(torchvision.models.DenseNet(16, (2, 3), num_init_features=32, num_classes=10))
    return seeded(build(Network(name, stem), 10))


def torchinfos(model: nn.Module, side: int) -> tuple[int, int]:
    found = torchinfo.summary(model, input_size=(1, 3, side, side), verbose=0)
    return found.total_params, int(found.total_mult_adds)


def check(model: nn.Module, side: int, budget: int, **options: Any) -> nn.Module:
    """Prune, and hold the result against the promise: within the budget, and less than one step below it."""
    example = torch.zeros(1, 3, side, side)
    pruned = prune(model, example, budget, **options)
    params, macs = torchinfos(pruned, side)
    assert params <= budget and params == sum(p.numel() for p in pruned.parameters())

    original = Structure(copy.deepcopy(model), example)
    kept = []
    for coupling in original.couplings:
        root: Any = pruned.get_submodule(coupling.name)
        width = root.out_features if isinstance(root, nn.Linear) else root.out_channels
        assert width % coupling.units.shape[1] == 0
        kept.append(width // coupling.units.shape[1])
    counted = original.size(kept)
    assert (counted.params, counted.macs) == (params, macs)
    assert all(keep >= min(size, FLOOR) for keep, size in zip(kept, original.sizes(), strict=True))
    if params < 0.99 * budget:
        for i, size in enumerate(original.sizes()):
            if kept[i] < size:
                assert original.size([keep + (i == j) for j, keep in enumerate(kept)]).params > budget

    with torch.no_grad():
        assert pruned.eval()(torch.randn(2, 3, side, side)).shape == model(torch.randn(2, 3, side, side)).shape
    return pruned


def between(model: nn.Module, side: int, where: float) -> int:
    """A budget between the least that the network can be pruned to (0) and 90 % of it (1), evenly in ratio."""
    low = least(model, torch.zeros(1, 3, side, side)).params
    return int(low * (0.9 * torchinfos(model, side)[0] / low) ** where)


@settings(FAST, max_examples=10)
@given(budget=st.integers(5_000, 10_000_000), seed=st.integers(0, 99), name=st.sampled_from(["magnitude", "random"]))
def test_resnet18_lands_on_any_budget(budget: int, seed: int, name: str) -> None:
    torch.manual_seed(seed)
    pruned = check(network("resnet18", "small"), 28, budget, importance=name)
    assert sum(p.numel() for p in pruned.parameters()) >= 0.99 * budget or budget < 10_000


def test_five_thousand_parameters_still_let_something_through_every_layer() -> None:
    pruned = check(network("resnet18", "small"), 28, 5_000)
    widths = [module.out_channels for module in pruned.modules() if isinstance(module, nn.Conv2d)]
    assert min(widths) >= FLOOR and len(widths) == 20


@pytest.mark.parametrize(
    ("name", "stem", "side", "share"),
    [
        ("resnet34", "small", 28, 0.3),
        ("resnet50", "small", 28, 0.5),
        ("resnext50_32x4d", "half", 33, 0.4),
        ("wide_resnet50_2", "half", 28, 0.1),
        ("vgg16_bn", "imagenet", 32, 0.1),
        ("alexnet", "imagenet", 64, 0.3),
        ("densenet121", "imagenet", 32, 0.5),
        ("mobilenet_v2", "imagenet", 64, 0.0),
        ("mobilenet_v2", "imagenet", 33, 0.7),
        ("mobilenet_v3_large", "imagenet", 32, 0.5),
        ("mnasnet0_5", "imagenet", 48, 0.6),
        ("efficientnet_b0", "imagenet", 40, 0.6),
        ("regnet_y_400mf", "imagenet", 32, 0.5),
        ("regnet_x_400mf", "imagenet", 32, 0.1),
        ("convnext_tiny", "imagenet", 64, 0.4),
        ("squeezenet1_1", "imagenet", 64, 0.4),
        ("googlenet", "imagenet", 64, 0.5),
        ("vit_b_32", "imagenet", 224, 0.6),
    ],
)
def test_torchvisions_networks_land_on_the_budget(name: str, stem: Stem, side: int, share: float) -> None:
    model = network(name, stem)
    check(model, side, between(model, side, share))


@pytest.mark.parametrize(("name", "side", "layer"), [("swin_t", 32, "features.7"), ("maxvit_t", 224, "blocks.")])
def test_networks_whose_channels_cannot_be_followed_are_refused_by_the_layer(name: str, side: int, layer: str) -> None:
    with pytest.raises(UserError, match=f"this network cannot be pruned: after layer '.*{re.escape(layer)}") as caught:
        prune(network(name), torch.zeros(1, 3, side, side), 100_000)
    assert len(str(caught.value).splitlines()) == 1


def test_channels_that_are_shuffled_are_left_alone_and_those_between_pruned() -> None:
    model, example, said = network("shufflenet_v2_x0_5"), torch.zeros(1, 3, 32, 32), []
    whole, lowest = torchinfos(model, 32)[0], least(model, example).params
    for budget in (lowest, int(0.7 * whole)):
        pruned = prune(model, example, budget, note=said.append)
        assert 0.99 * budget <= torchinfos(pruned, 32)[0] <= budget
    assert all("left as they are" in line for line in said)
    for path, module in model.named_modules():
        if path.endswith("branch2.5"):  # what a branch puts out is shuffled
            assert pruned.get_submodule(path).out_channels == module.out_channels
    with pytest.raises(UserError, match="out of reach"):
        prune(model, example, lowest - 1)


class Squeeze(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()  # type: ignore[no-any-return]


class Block(nn.Module):
    """A block of one of many kinds: what people build networks from."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1)
        narrow, act = width // 2, nn.ReLU()
        if kind == "concat":
            self.body = conv(width, narrow)
            self.join = nn.Conv2d(width + narrow, width, 1)
        else:
            self.body = {
                "plain": lambda: nn.Sequential(conv(width, width), nn.BatchNorm2d(width), act),
                "residual": lambda: nn.Sequential(
                    conv(width, narrow), nn.BatchNorm2d(narrow), act, conv(narrow, width)
                ),
                "grouped": lambda: nn.Sequential(conv(width, width, groups=4), nn.BatchNorm2d(width), act),
                "regrouped": lambda: nn.Sequential(conv(width, width, groups=2), act, conv(width, width, groups=4)),
                "depthwise": lambda: nn.Sequential(conv(width, width, groups=width), nn.Conv2d(width, width, 1), act),
                "squeeze": lambda: nn.Sequential(conv(width, width), Squeeze(width)),
                "slope": lambda: nn.Sequential(conv(width, width), nn.PReLU()),
                "slopes": lambda: nn.Sequential(conv(width, width), nn.PReLU(width)),
                "groupnorm": lambda: nn.Sequential(conv(width, width), nn.GroupNorm(4, width), act),
            }[kind]()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "concat":
            return self.join(torch.cat([x, self.body(x)], 1))  # type: ignore[no-any-return]
        return x + self.body(x) if self.kind in ("residual", "squeeze") else self.body(x)  # type: ignore[no-any-return]


KINDS = ["plain", "residual", "grouped", "regrouped", "depthwise", "squeeze", "concat", "groupnorm", "slope", "slopes"]


def made_of(kinds: list[str], width: int, flat: bool) -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(2 if flat else 1), nn.Flatten(), nn.Linear(width * (4 if flat else 1), 7)]
    return seeded(nn.Sequential(nn.Conv2d(3, width, 3), *(Block(kind, width) for kind in kinds), *head))


@settings(FAST, max_examples=20)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    width=st.sampled_from([32, 40, 64]),
    flat=st.booleans(),
    where=st.floats(0, 1),
)
def test_networks_of_any_blocks_land_on_the_budget(kinds: list[str], width: int, flat: bool, where: float) -> None:
    model = made_of(kinds, width, flat and "slope" not in kinds)  # that one is refused, see below
    check(model, 12, between(model, 12, where))


def silence_odd_channels(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[1::2] = 0
            module.bias.data[1::2] = 0


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", "small"),
        ("densenet", "imagenet"),
        ("mobilenet_v2", "imagenet"),
        ("regnet_x_400mf", "imagenet"),
        ("resnext50_32x4d", "half"),
        ("googlenet", "imagenet"),
    ],
)
def test_channels_that_carry_nothing_go_first_and_are_not_missed(name: str, stem: Stem) -> None:
    model = copy.deepcopy(network(name, stem))
    silence_odd_channels(model)
    example = torch.zeros(1, 3, 32, 32)
    structure = Structure(copy.deepcopy(model), example)
    scored = [(worth < 1e-6).sum().item() for worth in worths("bn-scale", model, structure)]
    kept = [max(size - dead, min(size, COMFORT)) for size, dead in zip(structure.sizes(), scored, strict=True)]
    assert sum(scored) >= 0.4 * sum(structure.sizes())
    pruned = prune(model, example, structure.size(kept).params, importance="bn-scale")
    assert torchinfos(pruned, 32)[0] == structure.size(kept).params
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), rtol=1e-3, atol=1e-4)


class Shuffled(nn.Module):
    """Grouped convolutions with their channels shuffled in between: the shapes fit however it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.a(images).relu()
        x = x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        return self.head(self.b(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Fixed(nn.Module):
    """A width written into the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.a(images).relu().mean((2, 3)).view(-1, 32))  # type: ignore[no-any-return]


def test_a_shuffle_is_found_by_cutting_and_its_channels_left_alone() -> None:
    model, example = Shuffled().eval(), torch.zeros(1, 3, 12, 12)
    pruned = prune(model, example, sum(p.numel() for p in model.parameters()) // 2)
    assert pruned.a.out_channels == 32 and pruned.b.out_channels < 16  # type: ignore[union-attr]
    silent = copy.deepcopy(model)
    kept = {tuple(row) for row in pruned.b.weight.flatten(1).tolist()}  # type: ignore[union-attr,operator]
    gone = [i for i, row in enumerate(model.b.weight.flatten(1).tolist()) if tuple(row) not in kept]
    silent.head.weight.data[:, gone] = 0
    images = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(pruned(images), silent(images))


BREAKING = {
    "a fixed width": Fixed(),
}


@pytest.mark.parametrize("model", BREAKING.values(), ids=BREAKING)
def test_a_network_that_a_cut_would_break_is_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match="this network cannot be pruned: ") as caught:
        prune(model.eval(), torch.zeros(1, 3, 12, 12), sum(p.numel() for p in model.parameters()) // 2)
    assert len(str(caught.value).splitlines()) == 1


class Answering(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(3, 32, 3)

    def forward(self, images: Tensor) -> Any:
        x = self.conv(images)
        return {"map": x, "pair": (x.mean((2, 3)), x), "one": x.mean((1, 2, 3)), "dict": {"logits": x}}[self.how]


@pytest.mark.parametrize("how", ["map", "pair", "one", "dict"])
def test_a_model_that_is_no_classifier_is_refused(how: str) -> None:
    with pytest.raises(UserError, match=r"not a classifier: it answers .* where \(1, classes\) was due"):
        prune(Answering(how), torch.zeros(1, 3, 12, 12), 100)


def test_a_model_that_does_not_run_on_the_example_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="does not run on images of shape") as caught:
        prune(network("resnet18", "small"), torch.zeros(1, 5, 28, 28), 100_000)
    assert len(str(caught.value).splitlines()) == 1


def test_a_network_of_one_linear_layer_has_nothing_to_prune() -> None:
    with pytest.raises(UserError, match="cannot be pruned"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(48, 7)), torch.zeros(1, 3, 4, 4), 100)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet"])
def test_limits_on_parameters_and_multiply_adds_hold_alone_and_together(name: str) -> None:
    model, example = network(name), torch.zeros(1, 3, 32, 32)
    params, macs = torchinfos(model, 32)
    for p, m in ((None, 3), (3, 2), (2, 9), (3, 1)):
        limits = {"params": p and params // p, "macs": m and macs // m}
        pruned = prune(model, example, **limits)
        found = dict(zip(("params", "macs"), torchinfos(pruned, 32), strict=True))
        used = [found[key] / limit for key, limit in limits.items() if limit is not None]
        assert 0.98 <= max(used) <= 1


@pytest.mark.parametrize("name", ["resnet18", "densenet", "shufflenet_v2_x0_5"])
def test_a_limit_on_bytes_holds(name: str) -> None:
    model, example = network(name), torch.zeros(1, 3, 32, 32)
    limit = sum(t.nbytes for t in model.state_dict().values()) * 2 // 3
    found = sum(t.nbytes for t in prune(model, example, bytes=limit).state_dict().values())
    assert 0.99 * limit <= found <= limit
    both = prune(model, example, torchinfos(model, 32)[0] // 2, bytes=limit)
    assert torchinfos(both, 32)[0] <= torchinfos(model, 32)[0] // 2


def test_what_single_channels_are_too_coarse_for_is_said_with_the_smallest_step() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 8), nn.Flatten(), nn.Linear(16 * 25, 7)).eval()
    said: list[str] = []
    step = 3 * 64 + 1 + 25 * 7
    pruned = prune(model, torch.zeros(1, 3, 12, 12), 10 * step + 7 + step // 2, note=said.append)
    assert sum(p.numel() for p in pruned.parameters()) == 10 * step + 7
    assert len(said) == 1 and said[0].endswith(f"the smallest step left is {step:,} parameters")


def test_the_model_is_left_as_it_was_bit_for_bit() -> None:
    model = made_of(["residual", "depthwise", "groupnorm"], 32, False)
    model[0].requires_grad_(False)
    model[1].train()
    kept = copy.deepcopy(model)
    images = torch.randn(4, 3, 12, 12)
    losses = [lambda m: F.cross_entropy(m(images), torch.tensor([0, 1, 2, 3]))]
    pruned = prune(model, torch.zeros(1, 3, 12, 12), 4000, importance="taylor", losses=losses)
    assert model.state_dict().keys() == kept.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), kept.state_dict().values(), strict=True))
    for ours in (model, pruned):
        pairs = list(zip(ours.modules(), kept.modules(), strict=True))
        assert [a.training for a, _ in pairs] == [b.training for _, b in pairs]
        flags = [(a.requires_grad, a.grad) for a in ours.parameters()]
        assert flags == [(b.requires_grad, None) for b in kept.parameters()]


@pytest.mark.parametrize("budget", [1, 1000, -5, 0])
def test_a_budget_below_the_floor_is_refused_with_the_least_that_there_is(budget: int) -> None:
    model, example = network("resnet18", "small"), torch.zeros(1, 3, 28, 28)
    with pytest.raises(UserError, match="out of reach") as caught:
        prune(model, example, budget)
    if budget > 0:
        lowest = least(model, example).params
        assert f"{lowest:,} parameters" in str(caught.value)
        check(model, 28, lowest)
        with pytest.raises(UserError, match="out of reach"):
            prune(model, example, lowest - 1)


def test_a_budget_that_the_model_meets_already_is_refused() -> None:
    model, example = network("resnet18", "small"), torch.zeros(1, 3, 28, 28)
    whole = torchinfos(model, 28)[0]
    with pytest.raises(UserError, match=re.escape(f"nothing to prune: the budget is {whole:,} parameters")):
        prune(model, example, whole)
    with pytest.raises(UserError, match="a budget is due"):
        prune(model, example)
    check(model, 28, whole - 1)


def two_layers() -> nn.Sequential:
    """Channel c of the first layer is worth c (and the first 8, nothing at all) by every measure."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    conv, norm, head = model[0], model[1], model[5]
    scale = torch.arange(24.0).sub(7).clamp_min(0)
    conv.weight.data = torch.ones_like(conv.weight) * scale.sqrt()[:, None, None, None]
    norm.weight.data, norm.bias.data = scale.clone(), torch.zeros(24)
    head.weight.data = torch.randn(5, 1).expand(5, 24) * scale
    return model.eval()


def loss_on_noise(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 3, 6, 6, generator=generator)
    return F.cross_entropy(model(images), torch.arange(8) % 5)


@pytest.mark.parametrize("name", [name for name in IMPORTANCES if name != "random"])
def test_an_importance_ranks_channels_as_they_matter(name: str) -> None:
    model = two_layers()
    structure = Structure(model, torch.zeros(1, 3, 6, 6))
    (worth,) = worths(name, model, structure, [loss_on_noise])
    assert worth.dtype == torch.float64 and len(worth) == 24 and bool((worth > 0).all())
    assert worth[:8].max() < worth[8:].min()
    if name not in ("taylor", "hessian"):  # the gradient of the loss saturates, its order is known only for the zeros
        assert worth[8:].argsort().tolist() == list(range(16))
    pruned = prune(model, torch.zeros(1, 3, 6, 6), 16 * (27 + 2 + 5) + 5, importance=name, losses=[loss_on_noise])
    images = torch.rand(4, 3, 6, 6)
    assert isinstance(pruned[0], nn.Conv2d) and pruned[0].out_channels == 16
    torch.testing.assert_close(pruned(images), model(images))


def test_random_importance_follows_the_seed() -> None:
    structure = Structure(two_layers(), torch.zeros(1, 3, 6, 6))
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(worths("random", structure.model, structure)[0])
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_gradients_of_several_batches_add_up() -> None:
    found = []
    for losses in ([loss_on_noise], [loss_on_noise, loss_on_noise]):
        structure = Structure(two_layers(), torch.zeros(1, 3, 6, 6))
        found.append(worths("taylor", structure.model, structure, losses)[0][8:])
    torch.testing.assert_close(found[1], 2 * found[0])


def test_squares_of_gradients_are_averaged() -> None:
    """Optimal brain damage, written out: half of what a channel's weights, squared, meet of the Fisher information."""
    structure = Structure(two_layers(), torch.zeros(1, 3, 6, 6))
    losses = [lambda model, i=i: loss_on_noise(model) * (i + 1) for i in range(3)]
    (worth,) = worths("hessian", structure.model, structure, losses)
    twin = two_layers()
    fisher = [torch.zeros_like(p) for p in twin.parameters()]
    for loss in losses:
        for sum_of, gradient in zip(fisher, torch.autograd.grad(loss(twin), list(twin.parameters())), strict=True):
            sum_of += gradient**2 / 3
    parts = [p.detach() ** 2 * f for p, f in zip(twin.parameters(), fisher, strict=True)]
    conv, scale, _, head, _ = parts
    expected = conv.sum((1, 2, 3)) + scale + head.sum(0)
    torch.testing.assert_close(worth[8:].float(), expected[8:], rtol=1e-3, atol=0)


def test_a_layer_of_zeros_is_worth_next_to_nothing_rather_than_nan() -> None:
    model = two_layers()
    for parameter in model.parameters():
        parameter.data.zero_()
    for name in IMPORTANCES:
        structure = Structure(model, torch.zeros(1, 3, 6, 6))
        (worth,) = worths(name, model, structure, [loss_on_noise])
        assert bool(torch.isfinite(worth).all()) and bool((worth > 0).all())


def test_importances_refuse_what_they_cannot_rank_by() -> None:
    example = torch.zeros(1, 3, 6, 6)
    with pytest.raises(UserError, match=r"unknown importance 'talyor' \(did you mean 'taylor'\?\)"):
        prune(two_layers(), example, 500, importance="talyor")
    with pytest.raises(UserError, match="needs data"):
        prune(two_layers(), example, 500, importance="taylor")
    with pytest.raises(UserError, match="no gradients to rank by"):
        prune(two_layers(), example, 500, importance="taylor", losses=[])
    with pytest.raises(UserError, match="no gradients to rank by"):
        prune(
            two_layers(), example, 500, importance="taylor", losses=[lambda model: loss_on_noise(model) * float("nan")]
        )
    for value in (float("nan"), float("inf")):
        broken = two_layers()
        broken[5].weight.data[0, 0] = value
        with pytest.raises(UserError, match="not finite"):
            prune(broken, example, 500)


def test_batch_norms_measured_anew_are_those_of_the_data() -> None:
    model = seeded(made_of(["plain"], 16, False))
    batches = [torch.randn(8, 3, 12, 12) * 3 + i for i in range(4)]
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    before = [module.training for module in model.modules()]
    reestimate_batchnorm(model, model, batches)
    handle.remove()
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, means)
    assert [module.training for module in model.modules()] == before and norm.momentum == 0.1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_left_is_a_plain_torchvision_network() -> None:
    pruned = prune(network("resnet18", "small"), torch.zeros(1, 3, 28, 28), 100_000)
    assert type(pruned) is torchvision.models.ResNet
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in pruned.modules())
