"""Pools: the images that batches are drawn from, in memory or on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from compress.data.masks import crop_masks, load_masks, whole_boxes
from compress.data.photo import Framing, is_grey, to_luma
from compress.data.photo_view import PhotoView
from compress.data.photos import FilePhotos, Photos, PixelPhotos, decode_photos
from compress.data.source import Images, Pixels
from compress.runtime import distributed
from compress.runtime.device import count_cores, free_memory, to_device
from compress.runtime.errors import UserError

# Decoded images take at most so much memory, and at most half of what is free; more stay in files.
MEMORY_LIMIT_BYTES = 8 * 2**30

# Images that are decoded or converted together.
CHUNK = 256


@dataclass(frozen=True)
class MemoryPool:
    """Square images of one size in the memory of one device.

    Batches are enlarged when they are asked for: small images made large would take much memory.

    Args:
        pixels: uint8 (N, C, H, H).
        targets: class numbers, int64 (N,).
        image_size: side of the images in batches, in pixels; at least H.
        masks: class numbers of the pixels, or `IGNORE`, uint8 (N, H, H), of data with masks.
    """

    pixels: Tensor
    targets: Tensor
    image_size: int
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> MemoryPool:
        """Return the pool with its batches and targets on `device`."""
        masks = None if self.masks is None else self.masks.to(device)
        return MemoryPool(self.pixels.to(device), self.targets.to(device), self.image_size, masks)

    def labels(self, rows: Tensor) -> Tensor:
        """Return the labels of `rows`, int64: class numbers (B,), or masks (B, S, S)."""
        if self.masks is None:
            return self.targets[rows]
        masks = self.masks[rows]
        return crop_masks(masks, whole_boxes(masks), (self.image_size,) * 2).long()

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield images: uint8 (B, C, S, S), C = 1 or 3, for each int64 (B,) of rows in `order`."""
        size = [self.image_size, self.image_size]
        for rows in order:
            pixels = self.pixels[to_device(rows, self.pixels.device)]
            yield F.resize(pixels, size, antialias=True)

    def as_photos(self) -> PhotoPool:
        """Return the same images as a pool of photos."""
        return PhotoPool(PixelPhotos(self.pixels.cpu()), self.targets, Framing(self.image_size))


@dataclass(frozen=True)
class PhotoPool:
    """Photos of all sizes, from which squares are cut when they are asked for.

    Args:
        photos: in memory or in files.
        targets: class numbers, int64 (N,).
        framing: the squares at the photos' centres.
        workers: processes that read and cut photos; with 0, this one does.
    """

    photos: Photos
    targets: Tensor
    framing: Framing
    workers: int | None = None

    def __len__(self) -> int:
        return len(self.photos)

    def to(self, device: torch.device | str) -> PhotoPool:
        """Return the pool with its batches and targets on `device`."""
        return replace(self, targets=self.targets.to(device))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the squares at the centres: uint8 (B, C, S, S), as `MemoryPool.batches`.

        Raises:
            UserError: an image file cannot be read; the message names it.
        """
        return self.views(order, PhotoView(self.framing))

    def labels(self, rows: Tensor) -> Tensor:
        """Return the class numbers of `rows`, int64 (B,)."""
        return self.targets[rows]

    def views(self, order: Iterable[Tensor], view: PhotoView) -> Iterator[Tensor]:
        """Yield the squares of a view; otherwise as `batches`."""
        device = self.targets.device
        # The sampler yields whole batches, so that a worker makes a batch. Without a generator, the
        # loader would draw from the global one.
        loader: Iterable[Tensor | UserError] = DataLoader(
            _Cutter(self.photos, view),  # type: ignore[arg-type]
            sampler=order,
            batch_size=None,
            num_workers=self._count_workers(),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )
        for images in loader:
            if isinstance(images, UserError):
                raise images
            yield images.to(device, non_blocking=True)

    def _count_workers(self) -> int:
        if self.workers is not None:
            return self.workers
        # The cores that cut photos in memory would be missed by a network on the CPU.
        idle = isinstance(self.photos, FilePhotos) or self.targets.device.type == "cuda"
        return default_workers(len(self)) if idle else 0


Pool = MemoryPool | PhotoPool


@dataclass(frozen=True)
class _Cutter:
    """The dataset of a DataLoader: rows to their squares.

    An error is returned and not raised, which would wrap it in the worker's traceback.
    """

    photos: Photos
    view: PhotoView

    def __getitem__(self, rows: Tensor) -> Tensor | UserError:
        try:
            return self.view.make_squares(rows, [self.photos.read(row) for row in rows.tolist()])
        except UserError as error:
            return error


def open_pool(
    images: Images,
    framing: Framing,
    *,
    background: str = "white",
    grey: bool = False,
    crops: bool = False,
    memory_limit_bytes: int | None = None,
    workers: int | None = None,
) -> Pool:
    """Open a pool of `images`.

    Files are decoded into memory if they fit there, else they stay on the disk; batches are the
    same.

    Args:
        framing: the squares that are made of the images.
        background: colour behind transparent parts.
        grey: read images as grey ones, of one channel.
        crops: keep whole photos to cut random crops from, not only the squares at their centres.
        memory_limit_bytes: bytes that decoded files may take; by default 8 GiB, but at most half of
            the memory that is free.
        workers: processes that decode files; by default one for each core, up to eight, and none
            for a few files.

    Raises:
        UserError: an image file cannot be read.
    """
    if images.masks is not None:
        # Masks are small, and move with images of one size a whole batch at a time.
        plain = replace(images, masks=None)
        squares_alone = open_pool(
            plain,
            framing,
            background=background,
            grey=grey,
            memory_limit_bytes=memory_limit_bytes,
            workers=workers,
        )
        if not isinstance(squares_alone, MemoryPool):
            raise UserError(
                f"{len(images.targets):,} images with masks, {framing.side}×{framing.side} pixels"
                " each, do not fit into memory; lower image_size, or pass --max-images"
            )
        side = squares_alone.pixels.shape[-1]
        return replace(squares_alone, masks=load_masks(images, side, framing.crop_ratio))
    if isinstance(images, Pixels):
        pixels = _to_luma(images.pixels) if grey else images.pixels
        height, width = pixels.shape[2:]
        if height == width <= framing.side and framing.crop_ratio == 1:
            return MemoryPool(pixels, images.targets, framing.side)
        pool = PhotoPool(PixelPhotos(pixels), images.targets, framing, workers)
        return pool if crops else _load_squares(pool)
    limit = _memory_limit() if memory_limit_bytes is None else memory_limit_bytes
    files = FilePhotos(images, framing, background, grey)
    pool = PhotoPool(files, images.targets, framing, workers)
    count = default_workers(len(files)) if workers is None else workers
    if not crops:
        squares = (1 if grey else 3) * framing.side**2 * len(files)
        return pool if squares > limit else _load_squares(pool)
    if files.mean_bytes() * len(files) > limit:
        return pool
    return replace(pool, photos=decode_photos(files, count))


def default_workers(count: int) -> int:
    """Return the number of processes that decode `count` files: up to eight, none for a few."""
    return min(8, count_cores(), count // CHUNK)


def _memory_limit() -> int:
    free = free_memory()
    if free is None:
        return MEMORY_LIMIT_BYTES
    return min(MEMORY_LIMIT_BYTES, free // 2 // distributed.local_world_size())


def _load_squares(pool: PhotoPool) -> MemoryPool:
    """Read the squares at the centres of all photos into memory: one channel while all are grey."""
    chunks = torch.split(torch.arange(len(pool)), CHUNK)
    squares = torch.empty(0, dtype=torch.uint8)
    for rows, images in zip(chunks, pool.batches(chunks), strict=True):
        if not len(squares):
            squares = images.new_empty(len(pool), 1, *images.shape[2:])
        if squares.shape[1] < images.shape[1] and not is_grey(images):
            squares = squares.repeat(1, 3, 1, 1)
        squares[rows] = images[:, : squares.shape[1]]
    return MemoryPool(squares, pool.targets, pool.framing.side)


def _to_luma(pixels: Tensor) -> Tensor:
    return torch.cat([to_luma(chunk) for chunk in torch.split(pixels, CHUNK)])
