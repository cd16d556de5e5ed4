"""Data in memory: datasets, arrays and tables become sources with the same pixels."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from compress.data.arrays import image_to_pixels, images_to_pixels, list_scales
from compress.data.in_memory import to_scored_source, to_source
from compress.data.labels import read_class_names, to_class_numbers
from compress.data.source import Pixels
from compress.runtime.errors import UserError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 3


def pixels_of(data: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all pixels and targets of a split that is passed as training and validation data."""
    source, _ = to_source((data, data), **options)
    assert isinstance(source.train, Pixels)
    return source.train.pixels, source.train.targets


FIRST = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)


class Table:
    """A table as Hugging Face's: columns with features."""

    class Image: ...

    class ClassLabel:
        names = ("ant", "bee", "cow")

    features = {"picture": Image(), "kind": ClassLabel(), "id": None}  # noqa: RUF012

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"id": row, "picture": Image.fromarray(IMAGES[row]), "kind": int(LABELS[row])}


class Column:
    """Labels as a column of a table, such as a Series of pandas."""

    def __len__(self) -> int:
        return 20

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return LABELS


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS),
        (IMAGES, LABELS.tolist()),
        (IMAGES, np.eye(3)[LABELS]),
        (IMAGES, torch.from_numpy(LABELS)),
        (IMAGES, Column()),
        ([Image.fromarray(image) for image in IMAGES], Column()),
        ([Image.fromarray(image) for image in IMAGES], list(torch.from_numpy(LABELS)[:, None])),
        (IMAGES / 255, LABELS),
        (IMAGES.astype(np.float32), LABELS[:, None]),
        (IMAGES.astype(np.uint16) * 257, LABELS),
        (FIRST, torch.from_numpy(LABELS)),
        (FIRST.int(), torch.from_numpy(LABELS)),
        ([Image.fromarray(image) for image in IMAGES], LABELS),
        ([Image.fromarray(image) for image in IMAGES], LABELS.tolist()),
        ([Image.fromarray(image) for image in IMAGES], LABELS.astype(float).tolist()),
        {"image": IMAGES, "label": LABELS},
        [(Image.fromarray(image), label) for image, label in zip(IMAGES, LABELS, strict=True)],
        TensorDataset(FIRST, torch.from_numpy(LABELS)),
        TensorDataset(FIRST.float() / 255, torch.from_numpy(LABELS)),
        DataLoader(TensorDataset(FIRST, torch.from_numpy(LABELS)), batch_size=4, shuffle=True),
        Table(),
    ],
)
def test_the_same_images_have_the_same_pixels_in_every_form(data: Any) -> None:
    pixels, targets = pixels_of(data)
    assert pixels.dtype == torch.uint8 and torch.equal(pixels, FIRST)
    assert targets.tolist() == LABELS.tolist()


@given(
    shape=st.tuples(*[st.integers(4, 7)] * 2),
    channels=st.sampled_from([1, 3]),
    kind=st.sampled_from(["uint8", "float", "uint16", "int64"]),
    first=st.booleans(),
)
def test_layouts_and_types_of_one_image_agree(
    shape: tuple[int, int], channels: int, kind: str, first: bool
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (channels, *shape), dtype=np.uint8)
    given: Any = image if first else np.moveaxis(image, 0, -1)
    if kind == "float":
        given = (given / 255).astype(np.float32)
    elif kind == "uint16":
        given = given.astype(np.uint16) * 257
    elif kind == "int64":
        given = given.astype(np.int64)
    assert torch.equal(image_to_pixels(given), torch.from_numpy(image))
    if kind != "uint16":
        assert torch.equal(image_to_pixels(torch.from_numpy(given.copy())), torch.from_numpy(image))


def test_a_normalization_is_undone_if_it_is_named() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    data = (IMAGES / 255 - np.array(mean)) / np.array(std)
    assert torch.equal(images_to_pixels(data, list_scales((mean, std))), FIRST)
    source, _ = to_source((data, LABELS), normalization=(mean, std))
    assert source.normalization == (mean, std)
    with pytest.raises(UserError, match=r"mean= and std="):
        images_to_pixels(data)


def test_floats_are_taken_as_they_come_and_bytes_normalized_by_their_own_values() -> None:
    assert to_source((IMAGES / 255, LABELS))[0].normalization == ((0.0,) * 3, (1.0,) * 3)
    assert to_source((IMAGES, LABELS))[0].normalization is None


DARK = np.array([0, 1], np.uint8)[RANDOM.integers(0, 2, (2, 6, 6, 3))]
BRIGHT = 128 + IMAGES[:2] // 2
SEVERAL = np.concatenate([DARK, BRIGHT, IMAGES])
SCALED = {
    "unit": (SEVERAL / 255).astype(np.float32),
    "bytes": SEVERAL.astype(np.float32),
    "normalized": ((SEVERAL / 255 - 0.5) / 0.5).astype(np.float32),
}


@pytest.mark.parametrize("scale", list(SCALED))
@pytest.mark.parametrize("form", ["items", "tensors", "arrays", "splits"])
def test_all_floats_of_a_data_set_are_on_one_scale(scale: str, form: str) -> None:
    """Dark and bright images alone would be taken for others."""
    floats, labels = SCALED[scale], np.arange(len(SEVERAL)) % 3
    data: Any = (floats, labels)
    if form == "items":
        data = list(zip(floats, labels, strict=True))
    elif form == "tensors":
        data = TensorDataset(torch.from_numpy(floats).permute(0, 3, 1, 2), torch.from_numpy(labels))
    elif form == "splits":
        data = ((floats[4:], labels[4:]), (floats[:2], labels[:2]), (floats[2:4], labels[:2]))
    normalization = ((0.5,) * 3, (0.5,) * 3) if scale == "normalized" else None
    source, _ = to_source(data if form == "splits" else (data, data), normalization=normalization)
    assert isinstance(source.train, Pixels) and isinstance(source.val, Pixels)
    found = source.train.pixels
    if form == "splits":
        test = source.test()
        assert isinstance(test, Pixels)
        found = torch.cat([source.val.pixels, test.pixels, found])
    assert torch.equal(found, torch.from_numpy(SEVERAL).permute(0, 3, 1, 2))


def test_transparent_parts_get_the_background() -> None:
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    for background, value in (("white", 255), ("#000000", 0)):
        source, _ = to_source(([clear] * 4, [0, 1, 0, 1]), background=background)
        assert isinstance(source.train, Pixels) and source.train.pixels.unique().tolist() == [value]
        assert source.background == f"#{value:02x}{value:02x}{value:02x}"


def test_images_of_several_sizes_are_resized_and_cropped() -> None:
    sizes = [(9, 6), (6, 9), (12, 12)]
    images = [Image.new("RGB", size, "red") for size in sizes]
    source, _ = to_source((images * 2, ["a", "b", "a"] * 2), image_size=5)
    assert isinstance(source.train, Pixels) and source.train.pixels.shape[1:] == (3, 5, 5)
    assert source.image_size == 5 and source.classes == ("a", "b")
    wide, _ = to_source((IMAGES[:, :4], LABELS))
    assert isinstance(wide.train, Pixels) and wide.train.pixels.shape[1:] == (3, 4, 4)


def test_a_line_says_what_is_kept_of_images_that_are_not_square() -> None:
    wide = IMAGES[:, :4]
    for data in ((wide, LABELS), list(zip(wide, LABELS, strict=True))):
        lines = [note for note in to_source((data, data))[0].notes if "4×6" in note]
        assert len(lines) == 1 and "4×4" in lines[0]
    assert not any("×" in note for note in to_source((IMAGES, LABELS))[0].notes)


def test_grey_images_keep_one_channel() -> None:
    grey = [Image.fromarray(image[..., 0]) for image in IMAGES]
    assert pixels_of((grey, LABELS))[0].shape == (20, 1, 6, 6)
    assert pixels_of((IMAGES[..., 0], LABELS))[0].shape == (20, 1, 6, 6)
    mixed = [*grey[:10], *[Image.fromarray(image) for image in IMAGES[10:]]]
    assert pixels_of((mixed, LABELS))[0].shape == (20, 3, 6, 6)


def test_class_names_of_wrapped_datasets_are_found() -> None:
    class Named(TensorDataset):
        classes = ("x", "y", "z")

    data = Named(FIRST, torch.from_numpy(LABELS))
    assert to_source(Subset(data, range(10)))[0].classes == ("x", "y", "z")
    assert to_source(data, classes=["p", "q", "r"])[0].classes == ("p", "q", "r")


class Noisy(Dataset[Any]):
    """A dataset with an augmentation at random."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> Any:
        noise = torch.randint(0, 9, (3, 6, 6), dtype=torch.uint8) + random.randrange(5)
        return noise + np.random.randint(5), row % 2


def test_a_dataset_with_random_transforms_is_read_alike_and_said() -> None:
    before = torch.random.get_rng_state(), random.getstate()
    (one, name), (two, other) = to_source(Noisy()), to_source(Noisy())
    assert name == other and any("random" in note for note in one.notes) and one.name == two.name
    assert torch.equal(before[0], torch.random.get_rng_state()) and before[1] == random.getstate()


def test_the_fingerprint_is_of_all_pixels_labels_and_classes() -> None:
    changed, moved = IMAGES.copy(), LABELS.copy()
    changed[-1, -1, -1, -1] ^= 1
    moved[-1] = 0
    cases: list[Any] = [(IMAGES, LABELS), (changed, LABELS), (IMAGES, moved)]
    found = {to_source(case)[1] for case in cases}
    found.add(to_source((IMAGES, LABELS), classes=["a", "b", "c"])[1])
    assert len(found) == 4 and to_source((IMAGES.copy(), LABELS))[1] in found


class Endless(IterableDataset[Any]):
    """A dataset without items by number."""

    def __iter__(self) -> Any:
        yield FIRST[0], 0


class Frame:
    """A table as pandas has them."""

    iloc = None


class Counted(Endless):
    """One that has a length even so."""

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (Endless(), "Endless"),
        ((IMAGES, LABELS[:5]), "20 images and 5 labels"),
        ((IMAGES.astype(float) - 3, LABELS), "-3"),
        ((IMAGES.astype(int) * 2, LABELS), "integers"),
        ((np.zeros((20, 6, 6, 4), np.uint8), LABELS), "RGB"),
        ((IMAGES, LABELS - 1), "-1"),
        ((IMAGES, LABELS + 2), "2 to 4"),
        ((IMAGES, LABELS * 0 + 2), "all labels are 2"),
        ((IMAGES, (LABELS + 1) * 10), "10 to 30"),
        ((IMAGES, [None, *LABELS[1:]]), "NoneType, int"),
        ((IMAGES, np.eye(3, dtype=int)[LABELS] | np.eye(3, dtype=int)[0]), "several classes"),
        ((IMAGES, np.zeros((20, 3), bool)), "several classes, or none"),
        ((IMAGES, np.ones((20, 3))), "several classes"),
        (((IMAGES, LABELS), (IMAGES, ["a"] * 20)), "names in another"),
        ((IMAGES, LABELS + 0.5), "whole"),
        (([1] * 20, LABELS), "item 0"),
        ([], "no images"),
        (42, "int"),
        ([FIRST[0]], "items are"),
        (([(FIRST[0], 0), (FIRST[0], 1)], [(FIRST[0], 5)]), "label 5"),
        ([{"image": FIRST[0], "name": "x"}], "no label"),
        ((IMAGES, IMAGES, LABELS, LABELS), "4 arrays"),
        ([IMAGES, LABELS, IMAGES, LABELS], "4 arrays"),
        (((IMAGES, IMAGES), (LABELS, LABELS)), "for each split"),
        ((IMAGES, IMAGES, LABELS), "without labels"),
        (((IMAGES[..., 0], LABELS), (IMAGES, LABELS)), "grey, others have colours"),
        (((list(IMAGES[..., 0]), LABELS), (list(IMAGES), LABELS)), "grey, others have colours"),
        ({"x_train": IMAGES, "y_test": LABELS}, "no split"),
        (Counted(), "Counted"),
        (Frame(), "Frame.*csv:"),
    ],
)
def test_data_that_cannot_be_used_is_refused_in_one_line(data: Any, word: str) -> None:
    with pytest.raises(UserError, match=word) as refused:
        to_source(data)
    assert len(str(refused.value).splitlines()) == 1


def test_labels_in_words_get_numbers_by_the_training_split() -> None:
    targets, classes = to_class_numbers({"train": ["dog", "cat", "dog"], "val": ["cat"]})
    assert classes == ("cat", "dog") and targets["val"].tolist() == [0]
    with pytest.raises(UserError, match="'cow'"):
        to_class_numbers({"train": ["dog", "cat"], "val": ["cow"]})


def test_numbers_from_1_are_the_names_of_as_many_classes() -> None:
    """A class that is missing in one split shifts nothing."""
    targets, classes = to_class_numbers({"train": [1, 2, 3, 1], "val": [3, 2]})
    assert classes == ("1", "2", "3")
    assert targets["train"].tolist() == [0, 1, 2, 0] and targets["val"].tolist() == [2, 1]
    targets, classes = to_class_numbers({"train": [1, 2, 1], "val": [0, 2]})
    assert classes == ("0", "1", "2") and targets["train"].tolist() == [1, 2, 1]


def test_a_network_of_classes_1_to_n_is_scored_by_their_numbers() -> None:
    classes, plain = ("1", "2", "3"), ((0.0,) * 3, (1.0,) * 3)

    def targets_of(data: Any) -> list[int]:
        source = to_scored_source(
            data, image_size=6, background="white", classes=classes, normalization=plain
        )
        return source.test().targets.tolist()

    assert targets_of((IMAGES[:2], [2, 3])) == [1, 2]
    assert targets_of((IMAGES[:3], [0, 1, 2])) == [0, 1, 2]
    with pytest.raises(UserError, match="from 0 or from 1"):
        targets_of((IMAGES[:2], [1, 2]))
    assert targets_of((IMAGES[:2], ["1", "2"])) == [0, 1]

    class Named(TensorDataset):
        classes = ("1", "2", "3")

    assert targets_of(Named(FIRST[:2], torch.tensor([1, 2]))) == [1, 2]


@pytest.mark.parametrize(
    "classes",
    [["x", "y", "z"], {"z": 2, "y": 1, "x": 0}, {2: "z", 0: "x", 1: "y"}],
)
def test_classes_are_names_in_order_or_mapped_to_numbers(classes: Any) -> None:
    assert read_class_names(classes) == ("x", "y", "z")
    assert to_source((IMAGES, LABELS), classes=classes)[0].classes == ("x", "y", "z")


@pytest.mark.parametrize("classes", [{"x": 0, "y": 2}, {1: "x", 2: "y"}, {"x": 0, "y": 0}, "xy"])
def test_classes_without_an_order_are_refused(classes: Any) -> None:
    with pytest.raises(UserError, match="classes"):
        read_class_names(classes)


def test_probabilities_stand_for_the_likeliest_class() -> None:
    soft = np.full((20, 3), 0.1)
    soft[np.arange(20), LABELS] = 0.8
    assert pixels_of((IMAGES, soft))[1].tolist() == LABELS.tolist()
