"""Where datasets lie on this machine: found, unpacked or downloaded once, whole or not at all."""

import contextlib
import gzip
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from compress.runtime.errors import UserError, one_line
from compress.runtime.files import PART

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

# Debian's package strips the name and time from each gzip header, so its files differ from those
# whose MD5s torchvision lists, though the compressed bytes after the header are the same. The
# unpacked files are what counts.
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def cache_root() -> Path:
    """The directory that holds datasets: ``$COMPRESS_DATA``, else this user's cache directory."""
    return Path(os.environ.get("COMPRESS_DATA") or platformdirs.user_cache_dir("compress"))


def obtain(name: str, folder: str, fill: Callable[[Path], object], hint: str = "") -> Path:
    """The cache directory, once it holds `folder`.

    A missing folder is made by `fill`, which is given an empty directory to put it in; the folder
    is then moved into the cache whole, and a second process waits for the first.

    Raises:
        UserError: the folder is missing and `fill` could not make it.
    """
    root = cache_root()
    target = root / folder
    if target.exists():
        return root
    try:
        root.mkdir(parents=True, exist_ok=True)
        make_whole(target, fill)
    except (
        Exception
    ) as error:  # networks and archives fail in many ways; each is the user's to mend
        raise UserError(
            f"no {name} data: {target} does not exist and could not be made ({one_line(error)}); "
            f"{hint}put the dataset at {target}, or name another directory in COMPRESS_DATA"
        ) from error
    return root


def make_whole(target: Path, fill: Callable[[Path], object]) -> None:
    """Have `fill` put the directory `target` into the empty one that it is given, beside it, and
    move it to its place: unless it is there, by one process at a time, and whole or not at all."""
    staging = target.with_name(f".{target.name}{PART}")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir()
        try:
            # torchvision prints while it downloads
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
                fill(staging)
            (staging / target.name).replace(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def unpack_fashion_mnist(staging: Path) -> bool:
    """Unpack the system's copy of Fashion-MNIST as torchvision lays it out, if there is one.

    Raises:
        ValueError: a file of the copy is not the published one.
    """
    if not all((SYSTEM_FASHION_MNIST / f"{name}.gz").is_file() for name in FASHION_MNIST_SHA256):
        return False
    raw = staging / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, digest in FASHION_MNIST_SHA256.items():
        packed = SYSTEM_FASHION_MNIST / f"{name}.gz"
        content = gzip.decompress(packed.read_bytes())
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{packed} is not the published file")
        (raw / name).write_bytes(content)
    return True
