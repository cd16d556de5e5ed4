"""Pools of images to draw batches from. Whether one lies in memory or on the disk is known only
here."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets.folder import pil_loader
from torchvision.transforms.v2 import functional as F

from compress.data.sources import Files, Pixels
from compress.runtime.device import to_device
from compress.runtime.errors import UserError, one_line

MEMORY_LIMIT_BYTES = 4 * 2**30
CHUNK = 256  # images decoded at a time


class Pool(Protocol):
    """N square images of one side, and their targets: int64 (N,), the class of each."""

    @property
    def targets(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> "Pool":
        """The same pool, its batches and targets on `device`."""
        ...

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each tensor of rows, int64 (B,), their images: uint8 (B, C, H, W), C = 1 or 3.

        Raises:
            UserError: an image file cannot be read; the line names it.
        """
        ...

    def checksum(self) -> str:
        """SHA-256, as 64 hex digits, of the images and targets, or of what is known of them without
        reading all."""
        ...


@dataclass(frozen=True)
class MemoryPool:
    """Pixels uint8 (N, C, H, W) and targets int64 (N,), wholly in the memory of one device.

    Batches are resized to `side` pixels as they are asked for: small images made large would take a
    lot of memory.
    """

    pixels: Tensor
    targets: Tensor
    side: int

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> "MemoryPool":
        return MemoryPool(self.pixels.to(device), self.targets.to(device), self.side)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        for rows in order:
            yield F.resize(
                self.pixels[to_device(rows, self.pixels.device)],
                [self.side, self.side],
                antialias=True,
            )

    def checksum(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.cpu().contiguous().numpy().data)
        digest.update(self.targets.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class DiskPool:
    """Image files decoded as they are asked for, by `workers` processes (0: by this one).

    Each becomes RGB, its shorter side resized to `side` pixels, its longer one cropped at the
    centre.
    """

    files: Files
    side: int
    workers: int

    @property
    def targets(self) -> Tensor:
        return self.files.targets

    def __len__(self) -> int:
        return len(self.files.names)

    def to(self, device: torch.device | str) -> "DiskPool":
        return replace(self, files=replace(self.files, targets=self.targets.to(device)))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        device = self.targets.device
        # a sampler of whole batches: one worker decodes one batch
        loader: Iterable[Tensor | UserError] = DataLoader(
            _Decoder(self.files.root, self.files.names, self.side),  # type: ignore[arg-type]
            sampler=order,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )
        for images in loader:
            if isinstance(images, UserError):
                raise images
            yield images.to(device, non_blocking=True)

    def checksum(self) -> str:
        """Of the files' names, their sizes in bytes, and the targets. A file that another of the
        same size replaces is not noticed; times do not count, so that a copy of the folder is the
        same data."""
        digest = hashlib.sha256()
        targets = self.targets.tolist()
        for name, target in sorted(zip(self.files.names, targets, strict=True)):
            digest.update(f"{name}\0{(self.files.root / name).stat().st_size}\0{target}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Decoder:
    """What a DataLoader worker needs: rows in, their images out, or the error it met (raised there,
    it would come back wrapped in the worker's traceback)."""

    root: Path
    names: tuple[str, ...]
    side: int

    def __getitem__(self, rows: Tensor) -> Tensor | UserError:
        try:
            return torch.stack([self.decode(row) for row in rows.tolist()])
        except UserError as error:
            return error

    def decode(self, row: int) -> Tensor:
        path = self.root / self.names[row]
        try:
            image = pil_loader(path)
        except Exception as error:  # Pillow raises whatever its decoders do
            raise UserError(
                f"cannot read the image {path}: {one_line(error)}; replace it or remove it"
            ) from error
        image = F.center_crop(F.resize(image, [self.side], antialias=True), [self.side, self.side])
        pixels: Tensor = F.pil_to_tensor(image)
        return pixels


def open_pool(
    images: Pixels | Files,
    side: int,
    *,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    workers: int | None = None,
) -> Pool:
    """The pool of `images` at `side` pixels: files lie in memory if they fit the limit decoded,
    else on the disk.

    Files are decoded by `workers` processes: by default one a core up to eight, and none for a few
    files.

    Raises:
        UserError: an image file cannot be read.
    """
    if isinstance(images, Pixels):
        return MemoryPool(images.pixels, images.targets, side)
    if workers is None:
        workers = min(8, os.cpu_count() or 1, len(images.names) // CHUNK)
    disk = DiskPool(images, side, workers)
    if 3 * side * side * len(disk) > memory_limit_bytes:
        return disk
    pixels = torch.empty(len(disk), 3, side, side, dtype=torch.uint8)
    chunks = torch.split(torch.arange(len(disk)), CHUNK)
    for rows, decoded in zip(chunks, disk.batches(chunks), strict=True):
        pixels[rows] = decoded
    return MemoryPool(pixels, images.targets, side)
