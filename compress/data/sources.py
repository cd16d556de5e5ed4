"""Data sources by name, each read by torchvision's dataset class.

`compress.recipe.registry.DATA_SOURCES` maps names to these functions. Each downloads or unpacks its
data set if the cache does not have it, and raises UserError if that fails.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.datasets import imagenet as imagenets
from torchvision.datasets.utils import download_and_extract_archive

from compress.data.cache import (
    DATA_FOLDERS,
    cache_root,
    create_folder,
    ensure_folder,
    unpack_fashion_mnist,
)
from compress.data.folders import check_classes, list_images, list_split, to_files
from compress.data.masks import check_numbers
from compress.data.source import (
    IMAGENET_NORMALIZATION,
    Files,
    Images,
    Normalization,
    Pixels,
    Source,
    open_torchvision,
)
from compress.recipe.data_names import check_data_name, load_data_place, split_data_name
from compress.recipe.in_memory import find_held, is_in_memory
from compress.recipe.registry import DATA_SOURCES
from compress.runtime.errors import UserError, describe_type

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


def open_source(name: str) -> Source:
    """Open a data source: a name in `compress.recipe.registry.DATA_SOURCES`, or of `DATA_PLACES`.

    Raises:
        UserError: there is no such source, or it cannot be downloaded or read.
    """
    path, place = check_data_name(name), split_data_name(name)
    if is_in_memory(name):
        source = find_held(name)
    elif place is None:
        source = DATA_SOURCES.load(name)()
    else:
        source = load_data_place(place[0])(place[1] if path is None else path)
    if not isinstance(source, Source):
        raise UserError(f"data set {name!r}: returns {describe_type(source)}, not a Source")
    return _check_targets(source)


def _check_targets(source: Source) -> Source:
    """Check that each image of a source has a label, and each label a class.

    Raises:
        UserError: a file of the data is damaged.
    """
    check = partial(_check_labels, source.name, len(source.classes))
    check("training", source.train)
    if source.val is not None:
        check("validation", source.val)
    # Not `source` itself, which would keep its training images in memory.
    read = source.test
    return dataclasses.replace(source, test=lambda: check("test", read()))


def _check_labels(name: str, classes: int, split: str, images: Images) -> Images:
    count = len(images.names if isinstance(images, Files) else images.pixels)
    targets = images.targets
    where = f" under {images.root}" if isinstance(images, Files) else ""
    if len(targets) != count:
        raise UserError(
            f"{name}: {count:,} {split} images{where} have {len(targets):,} labels: a file is"
            " damaged; replace it"
        )
    wrong = targets[(targets < 0) | (targets >= classes)]
    if len(wrong):
        raise UserError(
            f"{name}: {len(wrong):,} labels of {split} images{where}, as {int(wrong[0])}, are none"
            f" of the {classes} classes: a file is damaged; replace it"
        )
    if isinstance(images, Pixels) and images.masks is not None:
        check_numbers(images.masks, classes, f"{name}: masks of {split} images")
    return images


def fashion_mnist() -> Source:
    """Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): grey 28×28 images of clothes.

    It has 60,000 training images and 10,000 test images.
    """

    def fill(staging: Path) -> None:
        if not unpack_fashion_mnist(staging):
            datasets.FashionMNIST(staging, download=True)

    hint = "install the system's copy (apt-get install dataset-fashion-mnist), "
    root = ensure_folder("fashion-mnist", DATA_FOLDERS["fashion-mnist"], fill, hint)
    return _read_mnist("fashion-mnist", datasets.FashionMNIST, root, mean=0.2860, std=0.3530)


def mnist() -> Source:
    """MNIST (LeCun et al. 1998): 60,000 + 10,000 grey 28×28 handwritten digits."""
    root = ensure_folder("mnist", DATA_FOLDERS["mnist"], partial(datasets.MNIST, download=True))
    source = _read_mnist("mnist", datasets.MNIST, root, mean=0.1307, std=0.3081)
    return dataclasses.replace(source, classes=tuple("0123456789"), mirrors=False)


def _read_mnist(name: str, dataset: Any, root: Path, mean: float, std: float) -> Source:
    def read(train: bool) -> Pixels:
        found = open_torchvision(name, root, dataset, train=train)
        return Pixels(found.data.unsqueeze(1), found.targets.long())

    return Source(
        name,
        classes=tuple(dataset.classes),
        image_size=28,
        train=read(train=True),
        test=lambda: read(train=False),
        normalization=((mean,) * 3, (std,) * 3),
        mirrors=True,
        background="#000000",
        test_count=10_000,
    )


def cifar10() -> Source:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour 32×32 images of 10 classes."""
    known = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    return _read_cifar("cifar10", datasets.CIFAR10, known)


def cifar100() -> Source:
    """CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour 32×32 images of 100 classes."""
    known = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    return _read_cifar("cifar100", datasets.CIFAR100, known)


def _read_cifar(name: str, dataset: Any, normalization: Normalization) -> Source:
    root = ensure_folder(name, DATA_FOLDERS[name], partial(dataset, download=True))

    def convert(found: Any) -> Pixels:
        pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        return Pixels(pixels, torch.tensor(found.targets))

    train = open_torchvision(name, root, dataset)
    return Source(
        name,
        classes=tuple(word.replace("_", " ") for word in train.classes),
        image_size=32,
        train=convert(train),
        test=lambda: convert(open_torchvision(name, root, dataset, train=False)),
        normalization=normalization,
        mirrors=True,
        test_count=10_000,
    )


def imagenette() -> Source:
    """Imagenette (Howard 2019): ten easy classes of ImageNet, at full size."""
    return _read_imagenette("", 224)


def imagenette_320() -> Source:
    """Imagenette with a shorter side of 320 pixels."""
    return _read_imagenette("-320", 224)


def imagenette_160() -> Source:
    """Imagenette with a shorter side of 160 pixels."""
    return _read_imagenette("-160", 128)


def imagewoof() -> Source:
    """Imagewoof (Howard 2019): ten breeds of dog from ImageNet, at full size."""
    return _read_imagewoof("", 224)


def imagewoof_320() -> Source:
    """Imagewoof with a shorter side of 320 pixels."""
    return _read_imagewoof("-320", 224)


def imagewoof_160() -> Source:
    """Imagewoof with a shorter side of 160 pixels."""
    return _read_imagewoof("-160", 128)


def _read_imagenette(suffix: str, image_size: int) -> Source:
    size = f"{suffix[1:]}px" if suffix else "full"
    download = partial(datasets.Imagenette, size=size, download=True)
    return _read_ten_classes("imagenette", suffix, image_size, IMAGENETTE, download)


def _read_imagewoof(suffix: str, image_size: int) -> Source:
    address = f"https://s3.amazonaws.com/fast-ai-imageclas/imagewoof2{suffix}.tgz"
    download = partial(download_and_extract_archive, address)
    return _read_ten_classes("imagewoof", suffix, image_size, IMAGEWOOF, download)


def _read_ten_classes(
    name: str,
    suffix: str,
    image_size: int,
    words: dict[str, str],
    download: Callable[[Path], object],
) -> Source:
    """Read a data set of ten classes whose folders have WordNet IDs for names."""
    name += suffix
    folder = DATA_FOLDERS[name]
    root = ensure_folder(name, folder, download) / folder
    wnids, train = list_images(name, root / "train")
    return Source(
        name,
        classes=tuple(words.get(wnid, wnid) for wnid in wnids),
        image_size=image_size,
        train=train,
        test=lambda: list_split(name, root / "val", wnids),
        normalization=IMAGENET_NORMALIZATION,
        mirrors=True,
    )


def imagenet() -> Source:
    """ImageNet-1k (Russakovsky et al. 2015, arXiv:1409.0575), from the user's own copy.

    Its validation split is the test split.
    """
    root = cache_root() / DATA_FOLDERS["imagenet"]
    if not root.is_dir():
        raise UserError(
            "no imagenet data: put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and"
            f" ILSVRC2012_devkit_t12.tar.gz (from image-net.org, after registering) at {root}"
        )
    classes, train = _list_imagenet(root, "train")

    def list_test() -> Files:
        found, files = _list_imagenet(root, "val")
        check_classes("imagenet", root / "val", found, classes)
        return files

    return Source(
        "imagenet",
        classes,
        224,
        train,
        list_test,
        normalization=IMAGENET_NORMALIZATION,
        mirrors=True,
    )


def _list_imagenet(root: Path, split: str) -> tuple[tuple[str, ...], Files]:
    """List a split of ImageNet, after unpacking it.

    A class is called by its first name, with its WordNet ID if another class has the same name.
    """
    found = open_torchvision("imagenet", root, _unpack_imagenet, split=split)
    uses = Counter(names[0] for names in found.classes)
    classes = tuple(
        names[0] if uses[names[0]] == 1 else f"{names[0]} ({wnid})"
        for names, wnid in zip(found.classes, found.wnids, strict=True)
    )
    return classes, to_files(found, root / split)


def _unpack_imagenet(root: Path, split: str) -> datasets.ImageNet:
    # torchvision alone would take a split for complete after a kill while it was unpacking it.
    if not (root / split).is_dir():
        if not (root / imagenets.META_FILE).is_file():
            imagenets.parse_devkit_archive(root)
        parse = imagenets.parse_train_archive if split == "train" else imagenets.parse_val_archive
        create_folder(root / split, lambda staging: parse(root, folder=f"{staging.name}/{split}"))
    return datasets.ImageNet(root, split=split)
