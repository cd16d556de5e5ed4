"""The processes of one run: torchrun starts them, each takes its share of every batch, and the first alone writes.

Without torchrun there is one process, and nothing here does anything. Free of torch until there are several.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from compress.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
AGAIN = "the same command goes on after the last finished epoch"
WAIT = timedelta(minutes=20)  # for one that does not answer; pruning, which the first does alone, takes less


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun (or whatever sets RANK, WORLD_SIZE and their like) has started.

    If one fails, the others do, for the same reason or for its absence: all but the first to fail exit in silence.

    Raises:
        UserError: another of them is gone, or does not answer; or torchrun ends this one, which has seen that first.
    """
    if _started() > 1:  # before torch is imported
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or DDP warns if it looks for unused parameters in vain
    if _started() < 2 or count() > 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if missing := [name for name in NEEDED if name not in os.environ]:
        raise UserError(f"WORLD_SIZE is set, but not {', '.join(missing)}: start the processes with torchrun")
    store, number, started = next(dist.rendezvous("env://", timeout=WAIT))
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"  # what is told, and counted, is told and counted on CPUs
    dist.init_process_group(backend, store=store, rank=number, world_size=started, timeout=WAIT)
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        yield
    except (UserError, OSError, RuntimeError, KeyboardInterrupt, _Ended) as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already
        gone = isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error))
        if isinstance(error, RuntimeError) and not gone:
            raise
        with suppress(RuntimeError):  # the store may be gone as well
            if store.add("failed", 1) > 1:
                sys.exit(2)
        if gone:
            what = f"another process of this run is gone or does not answer ({one_line(error)[:80]} …)"
            raise UserError(f"{what}; {AGAIN}") from error
        if isinstance(error, _Ended):
            raise UserError(f"another process of this run is gone, or torchrun was told to end; {AGAIN}") from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()  # not after an error: the others might never answer


class _Ended(BaseException):
    """SIGTERM came: torchrun sends it to those that are left when it has lost one, or is ended itself."""


def _ended(*_: object) -> None:
    raise _Ended


def count() -> int:
    """How many processes share the run."""
    if _started() < 2:
        return 1
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, counted from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def place() -> int:
    """Which of those on this machine this is, counted from 0."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0


def first() -> bool:
    """Whether this is the one that writes, prints, and decides where only one can."""
    return rank() == 0


def part() -> tuple[int, int]:
    """Which part of every batch is this process's, and of how many; see `compress.data.batches.share`."""
    return rank(), count()


def of_first(value: T) -> T:
    """What the first process calls `value`, in all of them; they meet here. The others' is not looked at."""
    if count() == 1:
        return value
    import torch.distributed as dist

    told = [value if first() else None]
    dist.broadcast_object_list(told, src=0)
    return told[0]  # type: ignore[return-value]


def added(tensor: Tensor) -> Tensor:
    """The sum of all processes' `tensor`; they meet here."""
    if count() == 1:
        return tensor
    import torch.distributed as dist

    total = tensor.clone()
    dist.all_reduce(total)
    return total


def refuse(what: str) -> None:
    """Refuse to do `what` in several processes.

    Raises:
        UserError: there are several.
    """
    with joined():  # so that it is said once
        if count() > 1:
            raise UserError(f"{what} runs in one process: leave torchrun out, or start its runs one by one")


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)
