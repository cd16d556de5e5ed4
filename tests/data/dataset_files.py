"""Small real files in the formats of published data sets."""

import gzip
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5


def idx(array: np.ndarray) -> bytes:
    """Encode an array in MNIST's format: two zeros, the type (8: uint8), rank, extents, values."""
    extents = b"".join(extent.to_bytes(4, "big") for extent in array.shape)
    return bytes([0, 0, 8, array.ndim]) + extents + array.astype(np.uint8).tobytes()


def mnist_files(train: int = 200, test: int = 50) -> dict[str, bytes]:
    """Return the four files of an MNIST: ten classes in turn; image n has the grey value n."""
    files = {}
    for prefix, count in (("train", train), ("t10k", test)):
        greys = (np.arange(count) % 256)[:, None, None]
        files[f"{prefix}-images-idx3-ubyte"] = idx(np.broadcast_to(greys, (count, 28, 28)))
        files[f"{prefix}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return files


def write_packed(folder: Path, files: dict[str, bytes]) -> None:
    """Write files with gzip, as Debian's package has them."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write CIFAR-10's pickled batches, of 20 images each, and patch their MD5s in torchvision."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for name in names:
        data = random.integers(0, 256, (20, 3 * 32 * 32), dtype=np.uint8)
        (folder / name).write_bytes(
            pickle.dumps({"data": data, "labels": [n % 10 for n in range(20)]})
        )
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [f"kind_{n}" for n in range(10)]})
    )
    sums = {path.name: calculate_md5(path) for path in folder.iterdir()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)


def write_images(root: Path, classes: list[str], count: int, suffix: str = ".png") -> None:
    """Write `count` images of each class, of several sizes and, for PNG, several modes."""
    random = np.random.default_rng(count)
    modes = ["RGB", "L", "RGBA", "P"] if suffix == ".png" else ["RGB"]
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for n in range(count):
            height, width = (int(extent) for extent in random.integers(20, 50, 2))
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            pixels[..., c % 3] //= 4
            Image.fromarray(pixels).convert(modes[n % len(modes)]).save(
                root / name / f"{n:02}{suffix}"
            )


def write_imagenet(root: Path) -> None:
    """Write an ImageNet as torchvision unpacks it.

    It has 1,000 classes with two training images and one validation image each.
    """
    names = [f"n{n:08}" for n in range(1000)]
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{n}.JPEG")
    write_meta(root, {name: f"kind {name}" for name in names})


def write_meta(root: Path, classes: dict[str, str]) -> None:
    """Write the names of ImageNet's classes by WordNet ID, as torchvision does from the development
    kit."""
    torch.save(({wnid: (name,) for wnid, name in classes.items()}, []), root / "meta.bin")


def write_imagenet_archive(root: Path, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write ImageNet's training archive, and patch its MD5 in torchvision.

    It holds an archive of three images for each class.
    """
    write_images(root / "unpacked", names, 3, ".JPEG")
    for name in names:
        with tarfile.open(root / "unpacked" / f"{name}.tar", "w") as inner:
            inner.add(root / "unpacked" / name, ".")
    archive = root / "ILSVRC2012_img_train.tar"
    with tarfile.open(archive, "w") as outer:
        for name in names:
            outer.add(root / "unpacked" / f"{name}.tar", f"{name}.tar")
    shutil.rmtree(root / "unpacked")
    write_meta(root, {name: f"kind {name}" for name in names})
    known = {"train": (archive.name, calculate_md5(archive))}
    monkeypatch.setattr(datasets.imagenet, "ARCHIVE_META", datasets.imagenet.ARCHIVE_META | known)
