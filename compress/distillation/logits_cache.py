"""The logits cache: a teacher sees each augmented view of the training data only once.

A *view* is the whole training set under one drawing of the augmentation: a pure function of (seed,
view, sample), mixing included. The teacher's logits for a view are therefore valid in every later
epoch, stage, round, budget of a sweep and resumed run, on a device with the same arithmetic.
"""

from __future__ import annotations

import errno
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.data.batches import Batch
from compress.runtime import distributed
from compress.runtime.device import to_device
from compress.runtime.errors import UserError
from compress.runtime.files import PART, atomic_write

# Bytes that all cached logits of a run may take up.
CAPACITY = 4 * 2**30
# Batches whose logits are written together, or fewer, of so many bytes. If a stage ends within a
# block, it is computed again.
BLOCK, BLOCK_BYTES = 16, 64 * 2**20


class LogitsCache:
    """Teacher logits in half precision, computed once for each view, then read from a file.

    They are computed in a view's first epoch. Logits are written in blocks, each with a checksum,
    when the last batch of a block has been seen; a torn or damaged block is ignored. Computed
    logits are rounded to half precision too, so that an epoch is the same either way. In a
    distributed run each process computes its shard of a batch, and the main process writes all of
    them. If a block cannot be written, nothing more is cached; if the disk is full, the logits that
    this stage has cached are removed.

    Args:
        teacher: maps images (B, 3, H, W) to logits (B, classes), float32; called in inference mode.
        folder: folder of the views, one for each (teacher, data, augmentation, seed, batch size,
            arithmetic).
        samples: the number of a view's samples that are in its batches, which all have one size.
        shape: of the logits of one image, as (classes,).
        capacity: bytes that all views in this folder and its siblings may take. Siblings, which
            belong to other stages, are removed if need be, the oldest first.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor],
        folder: Path,
        samples: int,
        *shape: int,
        capacity: int = CAPACITY,
    ) -> None:
        self.teacher, self.folder, self.capacity = teacher, folder, capacity
        self.samples, self.shape = samples, shape
        # The current block: its file, and its logits if they are cached.
        self._path: Path | None = None
        self._cached: np.ndarray | None = None
        # The logits computed so far, if they are to be cached, with 0 in the shards of other
        # processes; and the row at which the next batch continues.
        self._computed: Tensor | None = None
        self._next = -1
        self._last: tuple[Batch, Tensor] | None = None
        # Bytes that were left of the capacity when it was last measured, less those written since.
        self._left = 0

    def __call__(self, batch: Batch) -> Tensor:
        """Return the teacher's logits on `batch`: (B, classes) float32, on the batch's device."""
        # Two losses may need the same batch.
        if self._last is not None and self._last[0] is batch:
            return self._last[1]
        logits = self._get_logits(batch)
        self._last = (batch, logits)
        return logits

    def _get_logits(self, batch: Batch) -> Tensor:
        whole = len(batch.images) + batch.elsewhere
        together = max(1, min(BLOCK, BLOCK_BYTES // (2 * whole * math.prod(self.shape))))
        block, start = divmod(batch.start, together * whole)
        path = self.folder / f"view-{batch.view}-{block}.npy"
        if path != self._path:
            left = self.samples - (batch.start - start)
            shape = (min(together * whole, left), *self.shape)
            self._open_block(path, shape, batch.images.device)
        rows = slice(start, start + len(batch.images))
        if self._cached is not None:
            cached = torch.from_numpy(self._cached[rows].copy())
            return to_device(cached, batch.images.device).float()
        with torch.inference_mode():
            exact = self.teacher(batch.images)
        # Copied outside of inference mode: autograd cannot save an inference tensor.
        logits = exact.half()
        if start < whole:
            self._next = start
        # A block is cached only if its batches come in order, from the first on.
        if self._computed is not None and start == self._next:
            self._computed[rows].copy_(logits, non_blocking=True)
            self._next += whole
            if self._next >= len(self._computed):
                self._write_block(path, self._computed)
        return logits.float()

    def _open_block(self, path: Path, shape: tuple[int, ...], device: torch.device) -> None:
        self._path, self._next, self._computed = path, -1, None
        self._cached = _read_block(path, shape)
        hits = distributed.all_reduce_sum(torch.tensor(int(self._cached is not None)))
        if hits < distributed.world_size():
            # If one process must compute, all must: they write together.
            self._cached = None
        if self._cached is not None:
            return
        if distributed.broadcast(distributed.is_main() and self._reserve(2 * math.prod(shape))):
            pinned = device.type == "cuda"
            self._computed = torch.zeros(shape, dtype=torch.half, pin_memory=pinned)

    def _reserve(self, size: int) -> bool:
        """Make room for `size` more bytes; if there is none, nothing is cached from now on."""
        if self.capacity and self._left < size:
            try:
                self._left = self._make_room(size)
            except OSError:
                self._left = 0
            self.capacity = self.capacity if self._left >= size else 0
        return bool(self.capacity)

    def _make_room(self, size: int) -> int:
        """Return the bytes left, after removing the oldest blocks of other stages if need be."""
        # Half-written files whose process was killed.
        for torn in self.folder.parent.glob(f"*/.*{PART}"):
            torn.unlink()
        blocks = {file: file.stat() for file in self.folder.parent.glob("*/*.npy")}
        left = self.capacity - sum(stat.st_size for stat in blocks.values())
        others = [file for file in blocks if file.parent != self.folder]
        if left + sum(blocks[file].st_size for file in others) < size:
            return 0
        for file in sorted(others, key=lambda file: blocks[file].st_mtime_ns):
            if left < size:
                file.unlink()
                left += blocks[file].st_size
        return left

    def _write_block(self, path: Path, computed: Tensor) -> None:
        if computed.is_pinned():
            # The last logits may still be on their way from the GPU.
            torch.cuda.synchronize()
        logits = distributed.all_reduce_sum(computed).numpy()
        try:
            with atomic_write(path) as file:
                np.save(file, logits)
                file.write(_checksum(logits))
                self._left -= file.tell()
        # Training goes on: a cache only saves time.
        except (OSError, UserError) as error:
            self.capacity = 0
            code = getattr(error.__cause__ or error, "errno", None)
            if code in (errno.ENOSPC, errno.EDQUOT):
                # The run's own files need the room more.
                shutil.rmtree(self.folder, ignore_errors=True)
        # If the block comes again, it is looked up in its file.
        self._path = None


def fits_cache(views: int, samples: int, *shape: int) -> bool:
    """Return True if the logits of `views` views, of `shape` each, fit into the capacity."""
    return views * 2 * samples * math.prod(shape) <= CAPACITY


def _read_block(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the logits in a file, or None if they are missing or damaged."""
    if path.is_file():
        try:
            cached = np.lib.format.open_memmap(path, mode="r")
            checksum = _read_last_four(path)
        # The file is not an array, or is cut short.
        except (ValueError, OSError):
            return None
        intact = cached.shape == shape and cached.dtype == np.float16
        if intact and checksum == _checksum(cached):
            return cached
    return None


def _checksum(logits: np.ndarray) -> bytes:
    return zlib.crc32(np.ascontiguousarray(logits).data).to_bytes(4, "big")


def _read_last_four(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-4, 2)
        return file.read()
