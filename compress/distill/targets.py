"""The teacher's answers, kept: each augmented view of the training data is shown to the teacher once.

A view is a pure function of (seed, view, sample), mixing included, so what the teacher said of it the first time
holds for every later epoch, stage, round and resumed run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.data.batches import Batch
from compress.files import atomically


class Targets:
    """Teacher logits in half precision, answered live the first time and from the file afterwards.

    A view's answers are written when its last sample has been seen; whatever is torn by a kill is not used. Live
    answers are rounded to half precision too, so that an epoch is the same whichever way they came.

    Args:
        teacher: images (B, 3, H, W) to logits (B, classes), float32, without gradients.
        folder: where the views lie; one folder for one (teacher, data, augmentation, seed).
        samples: how many samples a view has in its batches.
        classes: the number of logits.
    """

    def __init__(self, teacher: Callable[[Tensor], Tensor], folder: Path, samples: int, classes: int) -> None:
        self.teacher, self.folder = teacher, folder
        self.shape = (samples, classes)
        self._view: int | None = None
        self._kept: np.ndarray | None = None
        self._fresh = np.empty(self.shape, np.float16)
        self._seen = 0

    def __call__(self, batch: Batch) -> Tensor:
        """The teacher's logits on `batch`: (B, classes) float32, on the batch's device."""
        if batch.view != self._view:
            self._open(batch.view)
        rows = slice(batch.start, batch.start + len(batch.images))
        if self._kept is not None:
            return torch.from_numpy(self._kept[rows].astype(np.float32)).to(batch.images.device)
        logits = self.teacher(batch.images).half()
        if batch.start == self._seen:  # in order from the first batch on, or the view is not kept
            self._fresh[rows] = logits.cpu().numpy()
            self._seen += len(logits)
            if self._seen == len(self._fresh):
                self._write()
        return logits.float()

    def _open(self, view: int) -> None:
        self._view, self._seen, self._kept = view, 0, None
        path = self._path(view)
        if path.is_file():
            try:
                kept = np.lib.format.open_memmap(path, mode="r")
            except (ValueError, OSError):  # not an array, or one cut short
                return
            if kept.shape == self.shape and kept.dtype == np.float16:
                self._kept = kept

    def _write(self) -> None:
        assert self._view is not None
        with atomically(self._path(self._view)) as file:
            np.save(file, self._fresh)
        self._view = None  # should the view come again, the file answers

    def _path(self, view: int) -> Path:
        return self.folder / f"view-{view}.npy"
