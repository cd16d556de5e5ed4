"""Checksums of images, by which a run recognizes its data."""

from __future__ import annotations

import hashlib

from compress.data.source import Files, Images, Pixels

# The contents of files count up to so many bytes together; of more, only names and sizes.
CONTENT_LIMIT_BYTES = 2**29


def checksum_images(images: Images) -> str:
    """Return a SHA-256 of images and their targets, as 64 hex digits.

    Of files, it covers names, sizes and targets, and the contents too if they are small enough; not
    the folder, nor times, so that a copy of the folder has the same checksum.
    """
    return _checksum_pixels(images) if isinstance(images, Pixels) else _checksum_files(images)


def _checksum_pixels(images: Pixels) -> str:
    digest = hashlib.sha256(repr(tuple(images.pixels.shape)).encode())
    digest.update(images.pixels.cpu().contiguous().numpy().data)
    digest.update(images.targets.cpu().contiguous().numpy().data)
    if images.masks is not None:
        digest.update(images.masks.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _checksum_files(images: Files) -> str:
    digest = hashlib.sha256()
    listed = sorted(zip(images.names, images.targets.tolist(), strict=True))
    if images.masks is not None:
        # Their numbers stand in place of targets.
        numbers = repr(images.masks.numbers)
        digest.update(numbers.encode())
        listed += [(name, 0) for name in sorted(images.masks.names)]
    sizes = [(images.root / name).stat().st_size for name, _ in listed]
    contents = sum(sizes) <= CONTENT_LIMIT_BYTES
    for (name, target), size in zip(listed, sizes, strict=True):
        digest.update(f"{name}\0{size}\0{target}\n".encode())
        if contents:
            digest.update((images.root / name).read_bytes())
    return digest.hexdigest()
