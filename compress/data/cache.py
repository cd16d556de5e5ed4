"""The cache of data sets: each is unpacked or downloaded once, completely or not at all."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from compress.data.folder_checksums import check_folder, seal_folder
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import PART

# The folder of each data set in the cache.
DATA_FOLDERS = {
    "fashion-mnist": "FashionMNIST",
    "mnist": "MNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "imagenette": "imagenette2",
    "imagenette-320": "imagenette2-320",
    "imagenette-160": "imagenette2-160",
    "imagewoof": "imagewoof2",
    "imagewoof-320": "imagewoof2-320",
    "imagewoof-160": "imagewoof2-160",
    "imagenet": "imagenet",
    "fashion-scenes": "fashion-scenes",
    "oxford-pets": "oxford-iiit-pet",
    "voc2012": "VOCdevkit",
    "camvid": "CamVid",
}
# What is made again when it is needed, by its name in the cache.
LATENCY, VERIFIED, TABLE_IMAGES = "latency", "verified-images.sqlite3", "hugging-face"
WEB_RUNTIME = "onnxruntime-web"
REMADE = {
    LATENCY: "times of layers",
    VERIFIED: "checks of image files",
    TABLE_IMAGES: "images from Hugging Face tables",
    WEB_RUNTIME: "runtime of demo pages",
}

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

# SHA-256 of the unpacked files. Debian's package strips name and time from the gzip headers, so its
# files do not have the MD5s that torchvision lists, though their contents are the same.
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def cache_root() -> Path:
    """Return the folder that holds data sets: ``$COMPRESS_DATA``, else the user's cache folder."""
    return Path(os.environ.get("COMPRESS_DATA") or platformdirs.user_cache_dir("compress"))


def count_bytes(path: Path) -> int:
    """Count the bytes of a file, or of all files in a folder; 0 if there is neither."""
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        # Another process may remove it.
        with contextlib.suppress(OSError):
            found = file.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def clear_cache() -> list[tuple[Path, int]]:
    """Remove from the cache what is made again when it is needed; data sets stay.

    Links are left alone, and so is what they lead to.

    Returns:
        Each file or folder that was removed, and its bytes.

    Raises:
        UserError: one of them cannot be removed.
    """
    removed = []
    for name in REMADE:
        path = cache_root() / name
        if path.is_symlink() or not path.exists():
            continue
        size = count_bytes(path)
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise UserError(f"{path}: cannot be removed ({one_line(error)})") from error
        removed.append((path, size))
    return removed


def ensure_folder(name: str, folder: str, fill: Callable[[Path], object], hint: str = "") -> Path:
    """Return the cache's root, after creating `folder` in it if it is missing.

    Args:
        name: name of the data set, for messages.
        fill: creates the folder inside the empty folder that it is called with.
        hint: another remedy, for the message.

    Raises:
        UserError: the folder is missing and `fill` failed, or a file in it is damaged.
    """
    root = cache_root()
    target = root / folder
    if target.exists():
        check_folder(target)
        return root
    try:
        root.mkdir(parents=True, exist_ok=True)
        create_folder(target, fill)
    # Downloads and archives fail in many ways, and the user can fix most of them.
    except Exception as error:
        raise UserError(
            f"no {name} data: {target} does not exist and could not be made ({one_line(error)}); "
            f"{hint}put the data set at {target}, or name another folder in COMPRESS_DATA"
        ) from error
    return root


def create_folder(target: Path, fill: Callable[[Path], object]) -> None:
    """Create a folder completely or not at all, unless it exists.

    `fill` is called with an empty staging folder beside `target` and creates ``target.name`` in it;
    the result is moved to its place, with checksums of its files. A second process waits for the
    first.
    """
    staging = target.with_name(f".{target.name}{PART}")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return
        # A killed process may have left one.
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            # torchvision prints while it downloads.
            with (
                Path(os.devnull).open("w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                _safe_archives(),
            ):
                fill(staging)
            seal_folder(staging / target.name)
            (staging / target.name).replace(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _safe_archives() -> Iterator[None]:
    """Let tar archives be unpacked as data only: nothing outside of the folder, links within it.

    torchvision unpacks them with whatever is the default, and that of Python before 3.14 lets a
    member of an archive be written anywhere. Zip archives are always unpacked within the folder.
    """
    if not hasattr(tarfile, "data_filter"):
        # Python before 3.11.4, such as Debian 12's.
        extract_all = tarfile.TarFile.extractall

        def extract_files(archive: tarfile.TarFile, path: str = ".") -> None:
            folder = Path(path).resolve()
            for member in archive:
                inside = (folder / member.name).resolve().is_relative_to(folder)
                if not (inside and (member.isfile() or member.isdir())):
                    raise tarfile.ExtractError(f"{member.name!r} is not a file within the folder")
            extract_all(archive, path)

        tarfile.TarFile.extractall = extract_files  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            tarfile.TarFile.extractall = extract_all  # type: ignore[method-assign]
        return
    default = getattr(tarfile.TarFile, "extraction_filter", None)
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        if default is None:
            del tarfile.TarFile.extraction_filter
        else:
            tarfile.TarFile.extraction_filter = staticmethod(default)


def unpack_fashion_mnist(staging: Path) -> bool:
    """Unpack the system's copy of Fashion-MNIST into `staging`, in torchvision's layout.

    Returns:
        False if the system has no copy.

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
