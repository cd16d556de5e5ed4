"""The images of a data set that a trained network is scored on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch

from compress.data.class_order import number_as
from compress.data.dataset import Dataset
from compress.data.open_dataset import hold_out_val
from compress.data.source import Files, Images, Source
from compress.data.sources import open_source
from compress.data.verify import verify_source
from compress.recipe.data_names import expand_home, split_data_name
from compress.runtime.errors import UserError

Split = Literal["test", "val"]


def open_scored(
    name: str,
    classes: tuple[str, ...],
    image_size: int,
    *,
    trained_on: str,
    labels: str = "images",
    split: Split = "test",
    seed: int | None = None,
    whole: bool = False,
    skip_broken: bool = False,
    run_size: int | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Dataset:
    """Open a data set to score a network on its test images, or its validation images.

    They are the test images of the data set that is returned. The data may have some of the
    network's classes, in any order.

    Args:
        name: a data set, as recipes name it.
        classes: the network's classes, in the order of its logits.
        trained_on: data set of the network's training.
        labels: what the network gives a class to, ``images`` or ``pixels``.
        split: ``test`` or ``val``.
        seed: of the training, which chose its validation images; None if it is not known.
        whole: of ``test``, score all images of data without a test split that the network was not
            trained on; otherwise a part that is held out here.
        skip_broken: leave out files that cannot be read.
        run_size: side of the images of the network's training, if that scaled them for some of its
            stages; 0 is the data's own.
        log: called with a line on what is scored, if that is not a test split, and on what is not.

    Raises:
        UserError: the data cannot be opened, has other labels than the network, or a class that it
            does not have.
    """
    source = open_source(name)
    _check_labels(source, labels)
    if skip_broken:
        source = verify_source(source, skip_broken=True, log=log)
    _check_classes(source, classes, trained_on)
    source = number_as(source, classes)
    test = _choose_val(source, seed, log) if split == "val" else source.test()
    if source.held_out and whole and split == "test":
        if same_data(name, trained_on):
            log(f"{name} has no test split: scoring the images held out of training")
        else:
            test = _join(source.train, test)
            log(f"{name} has no test split: scoring all of its {len(test.targets):,} images")
    scaled = run_size is not None and image_size < (run_size or source.image_size)
    if scaled and same_data(name, trained_on):
        log(
            f"{name}: images are resized to {image_size} pixels at once, as for predictions; the"
            f" run scaled its images of {run_size or source.image_size} pixels, so that accuracies"
            " in its table differ a little"
        )
    for note in source.notes:
        log(f"{name}: {note}")
    return Dataset(
        name=source.name,
        classes=classes,
        image_size=image_size,
        train_images=source.train,
        val_images=source.val or source.train,
        test_images=lambda: test,
        normalization=source.normalization,
    )


def _choose_val(source: Source, seed: int | None, log: Callable[[str], None]) -> Images:
    if source.val is None and seed is None:
        log(
            f"{source.name}: the network may have been trained on some of these validation images;"
            " its file does not say how they were chosen"
        )
    val, _ = hold_out_val(source, seed or 0)
    if len(val.targets) == 0:
        raise UserError(f"{source.name}: too few images to hold some out for validation")
    return val


def _check_classes(source: Source, classes: tuple[str, ...], trained_on: str) -> None:
    odd = [each for each in source.classes if each not in classes]
    if odd:
        raise UserError(
            f"{source.name}: its classes are not those of the weights file, trained on"
            f" {trained_on}, which has no {odd[0]!r}"
        )


def _check_labels(source: Source, labels: str) -> None:
    """Check that a data set has the labels of a network: classes of images, or of pixels."""
    if source.train.masks is not None and labels == "images":
        raise UserError(f"{source.name} has masks, and the network classifies images")
    if source.train.masks is None and labels == "pixels":
        raise UserError(
            f"{source.name} has a class for each image, and the network labels pixels; use data"
            " with masks, as masks:PATH"
        )


def same_data(name: str, other: str) -> bool:
    """Return True if two names stand for the same data: paths may be written in several ways."""
    places = [split_data_name(each) for each in (name, other)]
    if places[0] is None or places[1] is None:
        return name == other
    (prefix, place), (other_prefix, other_place) = places[0], places[1]
    paths = [expand_home(each).resolve() for each in (place, other_place)]
    return prefix == other_prefix and paths[0] == paths[1]


def _join(first: Images, second: Images) -> Images:
    """Return the images that one split was held out of, and those that were held out."""
    assert isinstance(first, Files) and isinstance(second, Files)
    targets, masks = torch.cat([first.targets, second.targets]), first.masks
    if masks is not None and second.masks is not None:
        masks = replace(masks, names=masks.names + second.masks.names)
    return Files(first.root, first.names + second.names, targets, masks)
