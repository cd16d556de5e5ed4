"""Pools: the images that batches are drawn from, in memory or on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from compress.data.decode import read_image
from compress.data.source import Files, Images, Pixels
from compress.runtime.device import to_device
from compress.runtime.errors import UserError

# A larger pool stays on the disk.
MEMORY_LIMIT_BYTES = 4 * 2**30

# Images that are decoded together.
CHUNK = 256


class Pool(Protocol):
    """Square images of one size, with their class numbers."""

    @property
    def targets(self) -> Tensor:
        """Class numbers, int64 (N,)."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def to(self, device: torch.device | str) -> Pool:
        """Return the pool with its batches and targets on `device`."""
        ...

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield images: uint8 (B, C, H, W), C = 1 or 3, for each int64 (B,) of rows in `order`.

        Raises:
            UserError: an image file cannot be read; the message names it.
        """
        ...

    def checksum(self) -> str:
        """Return a SHA-256 of the images and the targets, as 64 hex digits.

        A pool on the disk takes the files' names and sizes for the images.
        """
        ...


@dataclass(frozen=True)
class MemoryPool:
    """Images in the memory of one device.

    Batches are resized when they are asked for: small images made large would take much memory.

    Args:
        pixels: uint8 (N, C, H, W).
        targets: class numbers, int64 (N,).
        image_size: side of the images in batches, in pixels.
    """

    pixels: Tensor
    targets: Tensor
    image_size: int

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> MemoryPool:
        return MemoryPool(self.pixels.to(device), self.targets.to(device), self.image_size)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        size = [self.image_size, self.image_size]
        for rows in order:
            pixels = self.pixels[to_device(rows, self.pixels.device)]
            yield F.resize(pixels, size, antialias=True)

    def checksum(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.cpu().contiguous().numpy().data)
        digest.update(self.targets.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class DiskPool:
    """Image files, decoded when they are asked for.

    Images become RGB, or grey; the shorter side is resized to `image_size` pixels, the longer one
    is cropped at the centre.

    Args:
        workers: processes that decode; with 0, this one does.
        grey: decode to one channel, the luma, instead of RGB.
    """

    files: Files
    image_size: int
    workers: int
    grey: bool = False

    @property
    def targets(self) -> Tensor:
        return self.files.targets

    def __len__(self) -> int:
        return len(self.files.names)

    def to(self, device: torch.device | str) -> DiskPool:
        return replace(self, files=replace(self.files, targets=self.targets.to(device)))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        device = self.targets.device
        decoder = _Decoder(self.files.root, self.files.names, self.image_size, self.grey)
        # The sampler yields whole batches, so that a worker decodes a batch. Without a generator,
        # the loader would draw from the global one.
        loader: Iterable[Tensor | UserError] = DataLoader(
            decoder,  # type: ignore[arg-type]
            sampler=order,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )
        for images in loader:
            if isinstance(images, UserError):
                raise images
            yield images.to(device, non_blocking=True)

    def checksum(self) -> str:
        """Return a SHA-256 of the files' names, their sizes in bytes and the targets.

        It does not change when a file is replaced by another of the same size. Times are left out,
        so that a copy of the folder has the same checksum.
        """
        digest = hashlib.sha256()
        targets = self.targets.tolist()
        for name, target in sorted(zip(self.files.names, targets, strict=True)):
            digest.update(f"{name}\0{(self.files.root / name).stat().st_size}\0{target}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Decoder:
    """The dataset of a DataLoader: rows to their images.

    An error is returned and not raised, which would wrap it in the worker's traceback.
    """

    root: Path
    names: tuple[str, ...]
    image_size: int
    grey: bool

    def __getitem__(self, rows: Tensor) -> Tensor | UserError:
        try:
            return torch.stack([self.decode(row) for row in rows.tolist()])
        except UserError as error:
            return error

    def decode(self, row: int) -> Tensor:
        path, size = self.root / self.names[row], self.image_size
        try:
            image = read_image(path)
        except UserError as error:
            raise UserError(
                f"cannot read the image {path}: {error}; replace it or remove it"
            ) from error
        if self.grey:
            image = image.convert("L")
        image = F.center_crop(F.resize(image, [size], antialias=True), [size, size])
        pixels: Tensor = F.pil_to_tensor(image)
        return pixels


def open_pool(
    images: Images,
    image_size: int,
    *,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    workers: int | None = None,
    grey: bool = False,
) -> Pool:
    """Open a pool of `images` at `image_size` pixels.

    Files are decoded into memory if they fit there, else they stay on the disk.

    Args:
        memory_limit_bytes: bytes that decoded files may take.
        workers: processes that decode files; by default one for each core, up to eight, and none
            for a few files.
        grey: read images as grey ones, of one channel.

    Raises:
        UserError: an image file cannot be read.
    """
    if isinstance(images, Pixels):
        pixels = to_luma(images.pixels) if grey else images.pixels
        return MemoryPool(pixels, images.targets, image_size)
    if workers is None:
        workers = min(8, os.cpu_count() or 1, len(images.names) // CHUNK)
    disk = DiskPool(images, image_size, workers, grey)
    if (1 if grey else 3) * image_size * image_size * len(disk) > memory_limit_bytes:
        return disk
    return _load(disk)


def _load(disk: DiskPool) -> MemoryPool:
    """Decode all images of `disk` into memory: one channel as long as all of them are grey."""
    pixels = torch.empty(len(disk), 1, disk.image_size, disk.image_size, dtype=torch.uint8)
    chunks = torch.split(torch.arange(len(disk)), CHUNK)
    for rows, decoded in zip(chunks, disk.batches(chunks), strict=True):
        if pixels.shape[1] == 1 and not torch.equal(decoded, decoded[:, :1].expand_as(decoded)):
            pixels = pixels.repeat(1, 3, 1, 1)
        pixels[rows] = decoded[:, : pixels.shape[1]]
    return MemoryPool(pixels, disk.targets, disk.image_size)


def to_luma(pixels: Tensor) -> Tensor:
    """Convert uint8 (N, C, H, W), C = 1 or 3, to grey (N, 1, H, W), by the rule of Pillow.

    Images whose channels are equal keep their values exactly.
    """
    if pixels.shape[1] == 1:
        return pixels
    weights = torch.tensor([19595, 38470, 7471]).view(3, 1, 1)
    chunks = (
        ((chunk.int() * weights).sum(1, keepdim=True) + 0x8000 >> 16).to(torch.uint8)
        for chunk in torch.split(pixels, CHUNK)
    )
    return torch.cat(list(chunks))
