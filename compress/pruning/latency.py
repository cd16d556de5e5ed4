"""Budgets on time: the smallest network is timed before training, and the last cut after it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from compress.pruning.clock import Clock, Timer, network_key, sum_layers
from compress.recipe.budget import Amount, Limits
from compress.runtime import distributed
from compress.runtime.errors import UserError

Log = Callable[[str], None]

# Cuts until one is fast enough.
MAX_CUTS = 6
# Fraction of the budget that a cut aims at, and between which two it is accepted: a measurement may
# differ by a hundredth.
AIM, ENOUGH, MOST = 0.97, 0.94, 0.99


def make_clock(
    uncut: nn.Module,
    smallest: nn.Module,
    input_size: tuple[int, int, int],
    budget: Amount,
    timer: Timer,
) -> Clock:
    """Return a clock for the cuts of a network, after timing it and its smallest form.

    In a distributed run the main process does.

    Args:
        uncut: the network before its first cut, which is copied.
        smallest: the same network with all groups at their floors.
        input_size: (C, H, W) of the image.
        budget: in nanoseconds, as a fraction of the network's time, or both.

    Raises:
        UserError: the runtime cannot express the network.
    """
    model, smallest = (copy.deepcopy(each).cpu().eval() for each in (uncut, smallest))
    numbers = (0.0, 0.0, 0.0, 0.0)
    if distributed.is_main():
        numbers = _calibrate((model, smallest), input_size, timer)
    return Clock(timer, budget, model, input_size, *distributed.broadcast(numbers))


def _calibrate(
    both: tuple[nn.Module, nn.Module], input_size: tuple[int, int, int], timer: Timer
) -> tuple[float, float, float, float]:
    """Return the times of a network and of its smallest form, and scale and base of a clock."""
    found: list[float] = []

    def measure(index: int) -> Callable[[], float]:
        def once() -> float:
            if not found:
                times = timer.networks(both, input_size)
                # As for layers, what other load on the machine adds does not belong to it.
                found.extend(1e9 * min(each) for each in times)
            return found[index]

        return once

    full, least = (
        timer.keep(network_key(each, input_size), measure(index)) for index, each in enumerate(both)
    )
    layers = [sum_layers(timer, each, input_size) for each in both]
    falls = layers[0] > layers[1] and full > least
    scale = (full - least) / (layers[0] - layers[1]) if falls else 0.0
    return full, least, scale, full - scale * layers[0]


def prune_to_latency(
    model: nn.Module,
    limits: Limits,
    clock: Clock | None,
    cut: Callable[[Limits, Log], nn.Module],
    log: Log = lambda line: None,
) -> nn.Module:
    """Return a cut whose measured time is within the clock's budget.

    Predictions are wrong by some per cent. A cut that is too slow, or faster than it must be, is
    therefore repeated with another limit on the predicted time.

    Args:
        model: the network to cut.
        limits: on the cut; that on time is the clock's.
        clock: None if there is no limit on time; there is one cut then.
        cut: returns the network pruned to limits, of which that on time is one on its prediction.
        log: called with the lines of the cut that is returned, and with its time.

    Raises:
        UserError: no cut is fast enough.
    """
    if clock is None:
        return cut(limits, log)
    # A prediction between the smallest network's and this one's can be had.
    low, high = round(clock.least) + 1, clock.predict(model) - 1
    tried = max(min(round(AIM * clock.limit), high), low)
    best: tuple[float, float, nn.Module, list[str]] | None = None
    fastest = float("inf")
    for _ in range(MAX_CUTS):
        lines: list[str] = []
        pruned = cut(replace(limits, latency=tried), lines.append)
        time, usage = clock.measure(pruned)
        fastest = min(fastest, time)
        if usage <= MOST:
            low = tried
            if best is None or usage > best[1]:
                best = (time, usage, pruned, lines)
            # Below its limit, the cut was made for another budget, or steps are coarse.
            if usage >= ENOUGH or clock.predict(pruned) < 0.95 * tried:
                break
        else:
            high = tried
        following = round(tried * AIM / usage)
        if not low < following < high:
            following = (low + high) // 2
        if abs(following - tried) < 0.005 * tried:
            break
        tried = following
    if best is None:
        raise UserError(
            f"latency: the fastest cut takes {fastest / 1e6:.4g} ms, and the budget is"
            f" {clock.budget.text} ({clock.limit / 1e6:.4g} ms); choose a larger one, or run again"
            " when the machine is less busy"
        )
    time, usage, pruned, lines = best
    for line in [*lines, f"one image takes {time / 1e6:.4g} ms, {usage:.1%} of the budget in time"]:
        log(line)
    return pruned
