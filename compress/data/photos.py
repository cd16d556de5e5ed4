"""Photos of a data set: in files, or decoded in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from compress.data.decode import read_photo, read_size
from compress.data.photo import Framing, Photo, is_grey
from compress.data.source import Files
from compress.runtime.errors import UserError

# Files whose size is read to tell how much memory all of them take.
SAMPLED_FILES = 500

# Bytes of photos that a worker sends at once, through shared memory, which is small in containers.
CHUNK_BYTES = 4 * 2**20

Size = tuple[int, int]
Shape = tuple[int, int, int]
# The values of some photos; and of each its start, shape, size and scale.
_Packed = tuple[Tensor, list[tuple[int, Shape, Size, int]]]


class Photos(Protocol):
    """Photos that are read one by one."""

    def __len__(self) -> int:
        """Return the number of photos."""
        ...

    def read(self, row: int) -> Photo:
        """Read a photo.

        Raises:
            UserError: an image file cannot be read; the message names it.
        """
        ...


@dataclass(frozen=True)
class PixelPhotos:
    """Photos of one size.

    Args:
        pixels: uint8 (N, C, H, W), on the CPU.
    """

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, row: int) -> Photo:
        return Photo(self.pixels[row], (self.pixels.shape[2], self.pixels.shape[3]))


@dataclass(frozen=True)
class FilePhotos:
    """Photos in files, decoded each time.

    Args:
        framing: what the photos are for, which decides at which scale they are decoded.
        background: colour behind transparent parts.
        grey: decode to one channel, the luma, instead of RGB.
    """

    files: Files
    framing: Framing
    background: str
    grey: bool

    def __len__(self) -> int:
        return len(self.files.names)

    def read(self, row: int) -> Photo:
        path = self.files.root / self.files.names[row]
        try:
            return read_photo(path, self.background, grey=self.grey, framing=self.framing)
        except UserError as error:
            raise UserError(
                f"cannot read the image {path}: {error}; replace it or remove it"
            ) from error

    def mean_bytes(self) -> float:
        """Return the mean size of a decoded photo, in bytes, from a sample of the files."""
        rows = torch.linspace(0, len(self) - 1, min(len(self), SAMPLED_FILES)).long().tolist()
        sizes = (read_size(self.files.root / self.files.names[row]) for row in rows)
        pixels = [
            (height * width) / self.framing.scale(height, width) ** 2
            for height, width in filter(None, sizes)
        ]
        return (1 if self.grey else 3) * sum(pixels) / max(1, len(pixels))


@dataclass(frozen=True)
class MemoryPhotos:
    """Decoded photos of all sizes, packed into chunks.

    Args:
        chunks: uint8, one-dimensional; photos one after the other, as (h, w, C), and those that
            show only grey as (h, w, 1).
        places: of each photo: number of the chunk, start, and the photo's shape, size and scale.
    """

    chunks: tuple[Tensor, ...]
    places: tuple[tuple[int, int, Shape, Size, int], ...]
    channels: int

    def __len__(self) -> int:
        return len(self.places)

    def read(self, row: int) -> Photo:
        number, start, (height, width, channels), size, scale = self.places[row]
        values = self.chunks[number][start : start + height * width * channels]
        pixels = values.view(height, width, channels).permute(2, 0, 1)
        return Photo(pixels.expand(self.channels, -1, -1), size, scale)


def decode_photos(files: FilePhotos, workers: int) -> MemoryPhotos:
    """Decode photos into memory.

    Raises:
        UserError: an image file cannot be read; the message names it.
    """
    together = max(1, int(CHUNK_BYTES / max(1.0, files.mean_bytes())))
    order = torch.split(torch.arange(len(files)), together)
    loader: Iterable[_Packed | UserError] = DataLoader(
        _Packer(files),  # type: ignore[arg-type]
        sampler=order,
        batch_size=None,
        num_workers=workers,
        # Without a generator, the loader would draw from the global one.
        generator=torch.Generator(),
    )
    chunks: list[Tensor] = []
    places: list[tuple[int, int, Shape, Size, int]] = []
    for packed in loader:
        if isinstance(packed, UserError):
            raise packed
        values, found = packed
        places += [(len(chunks), *place) for place in found]
        # Out of the shared memory.
        chunks.append(values.clone() if workers else values)
    return MemoryPhotos(tuple(chunks), tuple(places), 1 if files.grey else 3)


@dataclass(frozen=True)
class _Packer:
    """The dataset of a DataLoader: rows to their photos, packed.

    An error is returned and not raised, which would wrap it in the worker's traceback.
    """

    files: FilePhotos

    def __getitem__(self, rows: Tensor) -> _Packed | UserError:
        try:
            photos = [self.files.read(row) for row in rows.tolist()]
        except UserError as error:
            return error
        pixels = [photo.pixels[:1] if is_grey(photo.pixels) else photo.pixels for photo in photos]
        values = [each.permute(1, 2, 0) for each in pixels]
        starts = [0, *torch.tensor([each.numel() for each in values]).cumsum(0).tolist()]
        places = [
            (start, (*each.shape,), photo.size, photo.scale)
            for start, each, photo in zip(starts, values, photos, strict=False)
        ]
        return torch.cat([each.reshape(-1) for each in values]), places
