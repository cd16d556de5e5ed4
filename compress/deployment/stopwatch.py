"""A stopwatch: times layers and networks in one runtime, and keeps what it has measured."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata

import torch
from torch import nn

from compress.data.cache import LATENCY, cache_root
from compress.deployment.latency import WARMUP_RUNS, time_in_turns
from compress.deployment.layer_graph import Layer
from compress.deployment.measurements import Measurements
from compress.deployment.runtimes import Runtime
from compress.recipe.registry import RUNTIMES
from compress.runtime.arguments import require_threads
from compress.runtime.device import device_name

# Seconds and runs for which a single layer is timed, at most.
LAYER_SECONDS, LAYER_RUNS = 0.01, 20
# Seconds for which networks are timed, about, and the fewest and most turns of each.
NETWORK_SECONDS, MIN_TURNS, MAX_TURNS = 3.0, 25, 200
# Images of a turn. A network that is in use computes one after the other, too.
BURST = 4


class Stopwatch:
    """Times layers and networks in a runtime on this machine's CPU.

    Args:
        kept: measurements that are kept; of this machine, runtime and number of threads.

    Example:
        >>> watch = open_stopwatch("onnx", threads=1)
        >>> [median(times) for times in watch.networks([model, pruned], (3, 224, 224))]
        [0.0102, 0.0019]
    """

    def __init__(self, runtime: Runtime, threads: int, kept: Measurements) -> None:
        self.runtime, self.threads, self.kept = runtime, threads, kept
        # A single thread is timed by what it computes: on a busy machine it waits for its turn.
        self._now = time.process_time if threads == 1 else time.perf_counter
        # The uncut network is timed beside each cut.
        self._open = lru_cache(maxsize=2)(
            lambda network, input_size: runtime.open_network(network, input_size, threads)
        )

    def layer(self, layer: Layer, outs: int, ins: int) -> float:
        """Return the nanoseconds that a layer takes, the least of several runs."""
        return self.kept.get(layer.key(outs, ins), lambda: self._time_layer(layer, outs, ins))

    def keep(self, key: str, measure: Callable[[], float]) -> float:
        """Return the number that was measured for `key`, now or earlier."""
        return self.kept.get(key, measure)

    @torch.inference_mode()
    def networks(
        self, networks: Sequence[nn.Module], input_size: tuple[int, int, int]
    ) -> list[list[float]]:
        """Return the seconds that each network takes for one image, in each of its turns."""
        with _torch_threads(self.threads):
            calls = [self._open(each, input_size) for each in networks]
            once = sum(min(times) for times in time_in_turns(calls, WARMUP_RUNS, self._now))
            turns = int(NETWORK_SECONDS / max((BURST + 1) * once, 1e-9))
            turns = max(MIN_TURNS, min(MAX_TURNS, turns))
            return time_in_turns(calls, turns, self._now, BURST)

    @torch.inference_mode()
    def _time_layer(self, layer: Layer, outs: int, ins: int) -> float:
        with _torch_threads(self.threads):
            call = self.runtime.open_layer(layer, outs, ins, self.threads)
            once = min(time_in_turns([call], 1, self._now)[0])
            runs = max(1, min(LAYER_RUNS, int(LAYER_SECONDS / max(once, 1e-9))))
            times = time_in_turns([call], runs, self._now)[0]
        return max(1e9 * min(times), 1.0)


def open_stopwatch(runtime: str, threads: int = 1) -> Stopwatch:
    """Return the stopwatch of a registered runtime, with what it measured on this machine before.

    Raises:
        UserError: there is no such runtime, a package that it needs is missing, or this machine has
            fewer cores than `threads`.
    """
    require_threads(threads)
    found: Runtime = RUNTIMES.load(runtime)
    found.check()
    versions = [f"{package} {metadata.version(package)}" for package in found.packages]
    processor = device_name(torch.device("cpu")).rpartition(", ")[0]
    about = "\n".join([processor, *versions])
    digest = hashlib.sha256(about.encode()).hexdigest()[:12]
    file = cache_root() / LATENCY / f"{found.name}-{threads}-{digest}.jsonl"
    return Stopwatch(found, threads, Measurements(file))


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
