"""Where images come from: one function a source, each through torchvision's own dataset class.

A new source is one function here and one line in `SOURCES`, and its name in
`compress.recipe.registry`.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets import imagenet as imagenets
from torchvision.datasets.utils import download_and_extract_archive

from compress.data.cache import cache_root, make_whole, obtain, unpack_fashion_mnist
from compress.data.splits import split
from compress.recipe.registry import DATA_SOURCES, check_data_name
from compress.runtime.errors import UserError, one_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEST_SHARE = 0.2  # of a folder that has no test split of its own


@dataclass(frozen=True)
class Pixels:
    """Images that are pixels already: uint8 (N, C, H, W) with C = 1 or 3, and one int64 class an
    image (N,)."""

    pixels: Tensor
    targets: Tensor

    def take(self, rows: Tensor) -> "Pixels":
        """The images at `rows`, int64 (n,)."""
        return Pixels(self.pixels[rows], self.targets[rows])


@dataclass(frozen=True)
class Files:
    """Images still in files: their names under `root`, and one int64 class an image (N,)."""

    root: Path
    names: tuple[str, ...]
    targets: Tensor

    def take(self, rows: Tensor) -> "Files":
        """The images at `rows`, int64 (n,)."""
        return Files(self.root, tuple(self.names[row] for row in rows.tolist()), self.targets[rows])


@dataclass(frozen=True)
class Source:
    """One dataset. `size` is the side in pixels its images are used at; `mean` and `std` are those
    of its training pixels on a scale of 0 to 1, one value a channel (grey repeated), or None if
    nobody has measured them; `val` is a validation split of the dataset's own, if it has one;
    `test` reads the test split when called, not before. `mirrors`: whether an image's mirror image
    shows the same class."""

    name: str
    classes: tuple[str, ...]
    size: int
    train: Pixels | Files
    test: Callable[[], Pixels | Files]
    val: Pixels | Files | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    mirrors: bool = True


def fashion_mnist() -> Source:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 60,000 + 10,000 grey 28×28 images of
    clothes."""

    def fill(staging: Path) -> None:
        if not unpack_fashion_mnist(staging):
            datasets.FashionMNIST(staging, download=True)

    hint = "install the system's copy (apt-get install dataset-fashion-mnist), "
    root = obtain("fashion-mnist", "FashionMNIST", fill, hint)
    return _grey("fashion-mnist", datasets.FashionMNIST, root, mean=0.2860, std=0.3530)


def mnist() -> Source:
    """MNIST (LeCun et al. 1998): 60,000 + 10,000 grey 28×28 handwritten digits."""
    root = obtain("mnist", "MNIST", partial(datasets.MNIST, download=True))
    source = _grey("mnist", datasets.MNIST, root, mean=0.1307, std=0.3081)
    return dataclasses.replace(source, classes=tuple("0123456789"), mirrors=False)


def _grey(name: str, kind: Any, root: Path, mean: float, std: float) -> Source:
    def images(train: bool) -> Pixels:
        found = _read(name, root, kind, train=train)
        return Pixels(found.data.unsqueeze(1), found.targets.long())

    train, classes = images(True), tuple(kind.classes)
    return Source(name, classes, 28, train, lambda: images(False), None, (mean,) * 3, (std,) * 3)


def cifar10() -> Source:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour 32×32 images of 10 classes."""
    return _cifar("cifar10", datasets.CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def cifar100() -> Source:
    """CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour 32×32 images of 100 classes."""
    return _cifar("cifar100", datasets.CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def _cifar(name: str, kind: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Source:
    root = obtain(name, kind.base_folder, partial(kind, download=True))

    def images(found: Any) -> Pixels:
        pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        return Pixels(pixels, torch.tensor(found.targets))

    train = _read(name, root, kind)
    classes = tuple(word.replace("_", " ") for word in train.classes)

    def test() -> Pixels:
        return images(_read(name, root, kind, train=False))

    return Source(name, classes, 32, images(train), test, None, mean, std)


IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
IMAGEWOOF = {
    "n02086240": "Shih-Tzu",
    "n02087394": "Rhodesian ridgeback",
    "n02088364": "beagle",
    "n02089973": "English foxhound",
    "n02093754": "Border terrier",
    "n02096294": "Australian terrier",
    "n02099601": "golden retriever",
    "n02105641": "Old English sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
}


def _imagenette(suffix: str, size: int) -> Source:
    """Imagenette (Howard 2019): ten easy classes of ImageNet; `suffix` is "", "-320" or "-160"."""
    pixels = f"{suffix[1:]}px" if suffix else "full"
    fill = partial(datasets.Imagenette, size=pixels, download=True)
    return _ten_classes("imagenette", suffix, size, IMAGENETTE, fill)


def _imagewoof(suffix: str, size: int) -> Source:
    """Imagewoof (Howard 2019): ten breeds of dog from ImageNet; `suffix` is "", "-320" or "-160"."""
    address = f"https://s3.amazonaws.com/fast-ai-imageclas/imagewoof2{suffix}.tgz"
    return _ten_classes(
        "imagewoof", suffix, size, IMAGEWOOF, partial(download_and_extract_archive, address)
    )


def _ten_classes(
    name: str, suffix: str, size: int, words: dict[str, str], fill: Callable[[Path], object]
) -> Source:
    tree = obtain(name + suffix, f"{name}2{suffix}", fill) / f"{name}2{suffix}"
    folders, train = _tree(name, tree / "train")
    classes = tuple(words.get(folder, folder) for folder in folders)
    return Source(
        name + suffix,
        classes,
        size,
        train,
        lambda: _matching(name, tree / "val", folders),
        None,
        IMAGENET_MEAN,
        IMAGENET_STD,
    )


def imagenet() -> Source:
    """ImageNet-1k (Russakovsky et al. 2015, arXiv 1409.0575), from a copy the user has; its val
    split is the test."""
    root = cache_root() / "imagenet"
    if not root.is_dir():
        raise UserError(
            f"no imagenet data: put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
            f"ILSVRC2012_devkit_t12.tar.gz (from image-net.org, after registering) at {root}"
        )

    def images(split: str) -> tuple[tuple[str, ...], Files]:
        found = _read("imagenet", root, _unpacked, split=split)
        repeated = Counter(names[0] for names in found.classes)
        classes = tuple(
            names[0] if repeated[names[0]] == 1 else f"{names[0]} ({wnid})"
            for names, wnid in zip(found.classes, found.wnids, strict=True)
        )
        return classes, _files(found, root / split)

    classes, train = images("train")

    def test() -> Files:
        found, files = images("val")
        return _of_classes(found, classes, files, "imagenet", root / "val")

    return Source("imagenet", classes, 224, train, test, None, IMAGENET_MEAN, IMAGENET_STD)


def _unpacked(root: Path, split: str) -> datasets.ImageNet:
    """torchvision's ImageNet; it would take an archive that it was killed while unpacking for a
    whole one."""
    if not (root / split).is_dir():
        if not (root / imagenets.META_FILE).is_file():
            imagenets.parse_devkit_archive(root)
        parse = imagenets.parse_train_archive if split == "train" else imagenets.parse_val_archive
        make_whole(root / split, lambda staging: parse(root, folder=f"{staging.name}/{split}"))
    return datasets.ImageNet(root, split=split)


def folder(path: Path) -> Source:
    """A directory of images: ``train/CLASS/…`` with ``val/`` and/or ``test/`` beside it, or just
    ``CLASS/…``.

    With only ``val/``, it is the test split; with neither, a fifth of each class is set aside for
    the test.
    """
    name = f"folder:{path}"
    if not (path / "train").is_dir():
        classes, everything = _tree(name, path)
        if len(everything.names) < 2:
            raise UserError(f"{name}: too few images to set some aside for a test split")
        count = max(1, round(TEST_SHARE * len(everything.names)))
        held, rest = split(everything.targets, count, seed=0)
        return Source(name, classes, 224, everything.take(rest), lambda: everything.take(held))
    classes, train = _tree(name, path / "train")
    if not ((path / "test").is_dir() or (path / "val").is_dir()):
        raise UserError(
            f"{name}: {path} has train/ but neither val/ nor test/ beside it; add one of them"
        )
    if not (path / "test").is_dir():
        return Source(name, classes, 224, train, lambda: _matching(name, path / "val", classes))
    val = _matching(name, path / "val", classes) if (path / "val").is_dir() else None
    return Source(name, classes, 224, train, lambda: _matching(name, path / "test", classes), val)


def _tree(name: str, root: Path) -> tuple[tuple[str, ...], Files]:
    found = _read(name, root, datasets.ImageFolder)
    return tuple(found.classes), _files(found, root)


def _matching(name: str, root: Path, classes: tuple[str, ...]) -> Files:
    found, files = _tree(name, root)
    return _of_classes(found, classes, files, name, root)


def _of_classes(
    found: tuple[str, ...], classes: tuple[str, ...], files: Files, name: str, root: Path
) -> Files:
    if found != classes:
        odd = sorted(set(found) ^ set(classes))[0]
        raise UserError(
            f"{name}: {root} and the training split have different classes ({odd!r} is in only one)"
        )
    return files


def _files(found: Any, root: Path) -> Files:
    names = tuple(Path(path).relative_to(root).as_posix() for path, _ in found.samples)
    return Files(root, names, torch.tensor(found.targets))


def _read(name: str, root: Path, kind: Any, **options: Any) -> Any:
    """The torchvision dataset under `root`; whatever keeps it from opening becomes one line for the
    user."""
    try:
        return kind(root, **options)
    except (OSError, RuntimeError, ValueError, EOFError, AssertionError, ImportError) as error:
        why = one_line(error).removesuffix(" You can use download=True to download it")
        raise UserError(
            f"cannot read {name} under {root}: {why}; if that copy is damaged, remove it"
        ) from error


imagenette = partial(_imagenette, "", 224)
imagenette_320 = partial(_imagenette, "-320", 224)
imagenette_160 = partial(_imagenette, "-160", 128)
imagewoof = partial(_imagewoof, "", 224)
imagewoof_320 = partial(_imagewoof, "-320", 224)
imagewoof_160 = partial(_imagewoof, "-160", 128)


def open_source(name: str) -> Source:
    """Open a data source: one of `compress.recipe.registry.DATA_SOURCES`, or ``folder:PATH``.

    Raises:
        UserError: there is no such source, or it cannot be had or read; the line says what was
            tried and what to do.
    """
    path = check_data_name(name)
    source: Source = DATA_SOURCES.load(name)() if path is None else folder(path)
    return source
