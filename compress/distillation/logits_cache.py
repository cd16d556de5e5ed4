"""The teacher's answers, kept: each augmented view of the training data is shown to the teacher once, if there is room.

A view is a pure function of (seed, view, sample), mixing included, so what the teacher said of it the first time
holds for every later epoch, stage, round, budget of a sweep and resumed run, on a device of the same arithmetic.
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

ROOM = 4 * 2**30
BLOCK = (
    16  # batches whose answers are written together, and asked for again if a stage ends among them
)


class Targets:
    """Teacher logits in half precision, answered live the first time and from the file afterwards.

    Answers are written in blocks, each with a checksum, when the last batch of a block has been seen; whatever is torn
    or damaged is not used. Live answers are rounded to half precision too, so that an epoch is the same whichever way
    they came. Several processes each ask for their part of a batch, and the first one writes what all of them were
    told. If they cannot be written, no more are kept; if the disk is full, none.

    Args:
        teacher: images (B, 3, H, W) to logits (B, classes), float32; called in inference mode.
        folder: where the views lie; one folder for one (teacher, data, augmentation, seed, batch, arithmetic).
        samples: how many samples a view has in its batches, which are all of one size.
        classes: the number of logits.
        room: bytes that all views in this folder and in those beside it may take. Those beside it, of other stages,
            make way, the oldest first; what finds no room even so is not kept.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor],
        folder: Path,
        samples: int,
        classes: int,
        room: int = ROOM,
    ) -> None:
        self.teacher, self.folder, self.room = teacher, folder, room
        self.samples, self.classes = samples, classes
        self._path: Path | None = None  # of the block that this is about
        self._kept: np.ndarray | None = None
        self._fresh: Tensor | None = (
            None  # the answers to a block that is to be kept; 0 in other processes' parts
        )
        self._next = -1  # where in it the batch begins that continues those so far
        self._last: tuple[Batch, Tensor] | None = None
        self._left = (
            0  # of the room, in bytes, when it was last looked at, less what was written since
        )

    def __call__(self, batch: Batch) -> Tensor:
        """The teacher's logits on `batch`: (B, classes) float32, on the batch's device."""
        if self._last is not None and self._last[0] is batch:  # two losses may ask for one batch
            return self._last[1]
        answers = self._answer(batch)
        self._last = (batch, answers)
        return answers

    def _answer(self, batch: Batch) -> Tensor:
        whole = len(batch.images) + batch.elsewhere
        block, start = divmod(batch.start, BLOCK * whole)
        path = self.folder / f"view-{batch.view}-{block}.npy"
        if path != self._path:
            left = self.samples - (batch.start - start)
            self._open(path, (min(BLOCK * whole, left), self.classes), batch.images.device)
        rows = slice(start, start + len(batch.images))
        if self._kept is not None:
            return to_device(torch.from_numpy(self._kept[rows].copy()), batch.images.device).float()
        with torch.inference_mode():
            exact = self.teacher(batch.images)
        logits = exact.half()  # outside, or no loss could use it
        if start < whole:
            self._next = start
        if (
            self._fresh is not None and start == self._next
        ):  # in order from the first on, or it is not kept
            self._fresh[rows].copy_(logits, non_blocking=True)
            self._next += whole
            if self._next >= len(self._fresh):
                self._write(path, self._fresh)
        return logits.float()

    def _open(self, path: Path, shape: tuple[int, int], device: torch.device) -> None:
        self._path, self._next, self._kept, self._fresh = path, -1, _read(path, shape), None
        if (
            distributed.all_reduce_sum(torch.tensor(int(self._kept is not None)))
            < distributed.world_size()
        ):
            self._kept = None  # for one that must ask, all ask: they write together
        if self._kept is not None:
            return
        if distributed.broadcast(distributed.is_main() and self._has_room(2 * math.prod(shape))):
            self._fresh = torch.zeros(shape, dtype=torch.half, pin_memory=device.type == "cuda")

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes more may be kept; if not, no more are kept from now on."""
        if self.room and self._left < size:
            try:
                self._left = self._make_room(size)
            except OSError:  # as when writing
                self._left = 0
            self.room = self.room if self._left >= size else 0
        return bool(self.room)

    def _make_room(self, size: int) -> int:
        """The bytes that are left, now that others may have made way for `size`."""
        for torn in self.folder.parent.glob(f"*/.*{PART}"):  # its writer was killed
            torn.unlink()
        kept = {file: file.stat() for file in self.folder.parent.glob("*/*.npy")}
        left = self.room - sum(stat.st_size for stat in kept.values())
        others = sorted(
            (file for file in kept if file.parent != self.folder),
            key=lambda file: kept[file].st_mtime_ns,
        )
        if left + sum(kept[file].st_size for file in others) < size:
            return 0  # whoever made way
        for file in others:
            if left < size:
                file.unlink()
                left += kept[file].st_size
        return left

    def _write(self, path: Path, fresh: Tensor) -> None:
        if fresh.is_pinned():
            torch.cuda.synchronize()  # the last answers may be on their way
        answers = distributed.all_reduce_sum(fresh).numpy()
        try:
            with atomic_write(path) as file:
                np.save(file, answers)
                file.write(_checksum(answers))
                self._left -= file.tell()
        except (OSError, UserError) as error:  # all that keeping them saves is time
            self.room = 0
            if getattr(error.__cause__ or error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                shutil.rmtree(self.folder, ignore_errors=True)  # others need the room more
        self._path = None  # should the block come again, the file answers, or else the teacher


def room_for(views: int, samples: int, classes: int) -> bool:
    """Whether the answers to so many views find room, if nothing else takes any."""
    return views * 2 * samples * classes <= ROOM


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    if path.is_file():
        try:
            kept = np.lib.format.open_memmap(path, mode="r")
            checksum = _last_four(path)
        except (ValueError, OSError):  # not an array, or one cut short
            return None
        if kept.shape == shape and kept.dtype == np.float16 and checksum == _checksum(kept):
            return kept
    return None


def _checksum(answers: np.ndarray) -> bytes:
    return zlib.crc32(np.ascontiguousarray(answers).data).to_bytes(4, "big")


def _last_four(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-4, 2)
        return file.read()
