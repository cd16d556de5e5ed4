"""Splits of data in memory: by position, by name, or as columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from compress.data.in_memory import to_source
from compress.runtime.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 3
FIRST = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)


class Named(TensorDataset):
    """A dataset that knows its classes."""

    classes = ("ant", "bee", "cow")

    def __init__(self) -> None:
        super().__init__(FIRST, torch.from_numpy(LABELS))


def test_splits_by_position_and_by_name() -> None:
    full, half = (IMAGES, LABELS), (IMAGES[:10], LABELS[:10])
    source, _ = to_source((full, half))
    assert len(source.train.targets) == 20 and source.val is not None
    assert (
        torch.equal(source.test().targets, source.val.targets) and "validation" in source.notes[0]
    )
    source, _ = to_source((full, half, (IMAGES[:5], LABELS[:5])))
    assert source.val is not None
    assert (len(source.val.targets), len(source.test().targets)) == (10, 5)
    source, _ = to_source({"train": Named(), "test": Named()})
    assert source.val is None and len(source.test().targets) == 20
    assert source.classes == ("ant", "bee", "cow")
    source, _ = to_source(full)
    assert (len(source.train.targets), len(source.test().targets)) == (16, 4)
    for wrong in ({"train": full, "extra": half}, {"test": full}):
        with pytest.raises(UserError, match="train"):
            to_source(wrong)


def test_a_list_of_datasets_is_one_of_splits() -> None:
    data = TensorDataset(FIRST, torch.from_numpy(LABELS))
    source, _ = to_source([data, Subset(data, range(5))])
    assert source.val is not None and len(source.val.targets) == 5


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("X_train", "y_train", "X_valid", "y_valid", "X_test", "y_test"),
        ("train_data", "train_labels", "val_data", "val_labels", "test_data", "test_labels"),
    ],
)
def test_arrays_by_name_are_splits(names: tuple[str, ...]) -> None:
    arrays = [each[:count] for count in (9, 6, 3) for each in (IMAGES, LABELS)]
    source, _ = to_source(dict(zip(names, arrays, strict=True)))
    assert source.val is not None
    found = [len(each.targets) for each in (source.train, source.val, source.test())]
    assert found == [9, 6, 3]
    beside = {"id": range(9), "num_classes": 3}
    two, _ = to_source(dict(zip(names[:4], arrays[:4], strict=True)) | beside)
    assert two.val is not None and len(two.test().targets) == 6
    with pytest.raises(UserError, match=names[4]):
        to_source(dict(zip(names[:5], arrays[:5], strict=True)))
    tables = (
        {"image": IMAGES, "label": LABELS, "id": range(20)},
        {"image": IMAGES[:5], "label": LABELS[:5]},
    )
    for splits in (tables, dict(zip(("train", "test"), tables, strict=True))):
        assert len(to_source(splits)[0].test().targets) == 5
