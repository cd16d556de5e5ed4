"""The processes of a distributed run, started by torchrun.

Each process trains on its shard of every batch; the main one writes. Without torchrun there is one
process, and every function here returns at once. torch is imported only if there are several
processes.
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

REQUIRED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
RESUME_HINT = "the same command resumes after the last finished epoch"
# Longer than pruning takes, during which the main process works alone.
TIMEOUT = timedelta(minutes=20)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group that torchrun (or anything that sets RANK, WORLD_SIZE, …) describes.

    If one process fails, the others fail too; only the first to fail reports it.

    Raises:
        UserError: another process is gone or does not answer, or torchrun sent SIGTERM.
    """
    if _launched() > 1:
        # Set before torch is imported: DDP warns if it searches for unused parameters in vain.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if _launched() < 2 or world_size() > 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if missing := [name for name in REQUIRED if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is set, but not {', '.join(missing)}: start the processes with torchrun"
        )
    store, own_rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    # Objects are broadcast, and counts are summed, on CPUs.
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=TIMEOUT)
    handler = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    except (UserError, OSError, RuntimeError, KeyboardInterrupt, _Terminated) as error:
        # This process is ending already.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        gone = isinstance(error, RuntimeError) and (
            isinstance(error, dist.DistError) or "gloo" in str(error)
        )
        if isinstance(error, RuntimeError) and not gone:
            raise
        # The store may be gone as well.
        with suppress(RuntimeError):
            if store.add("failed", 1) > 1:
                sys.exit(2)
        if gone:
            reason = f"{one_line(error)[:80]} …"
            raise UserError(
                f"another process of this run is gone or does not answer ({reason}); {RESUME_HINT}"
            ) from error
        if isinstance(error, _Terminated):
            raise UserError(
                f"another process of this run is gone, or torchrun was stopped; {RESUME_HINT}"
            ) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
    # Not after an error: the others might never answer.
    dist.destroy_process_group()


class _Terminated(BaseException):
    """SIGTERM: torchrun sends it when it loses another process, or when it is stopped itself."""


def _raise_terminated(*_: object) -> None:
    raise _Terminated


def is_launched() -> bool:
    """Return True if several processes were started for this run, by torchrun or `launch`."""
    return _launched() > 1


def world_size() -> int:
    """Return the number of processes in the run."""
    if _launched() < 2:
        return 1
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process in the run."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the rank of this process among those on this machine."""
    return int(os.environ["LOCAL_RANK"]) if world_size() > 1 else 0


def local_world_size() -> int:
    """Return the number of processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if world_size() > 1 else 1


def is_main() -> bool:
    """Return True in the process of rank 0, which writes, prints and decides for all."""
    return rank() == 0


def shard() -> tuple[int, int]:
    """Return this process's shard of every batch: its number, from 0, and how many there are."""
    return rank(), world_size()


def broadcast(value: T) -> T:
    """Return the main process's `value` in every process; all of them must call this."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    values = [value if is_main() else None]
    dist.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all processes; all of them must call this."""
    if world_size() == 1:
        return tensor
    import torch.distributed as dist

    total = tensor.clone()
    dist.all_reduce(total)
    return total


def require_single_process(what: str) -> None:
    """Check that this is not a distributed run.

    Raises:
        UserError: there are several processes.
    """
    # In the process group only one of them reports the error.
    with process_group():
        if world_size() > 1:
            raise UserError(
                f"{what} runs in one process: start it without torchrun, or its runs one by one"
            )


def _launched() -> int:
    """Return the number of processes that torchrun started, before they join."""
    return int(os.environ.get("WORLD_SIZE") or 1)
