"""Names of classes: those that data sets in memory know, or that are passed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset

from compress.data.in_memory import to_scored_source, to_source
from compress.data.source import WHITE, Pixels, Source
from compress.runtime.errors import UserError

ANIMALS = ("ant", "bee", "cow")
SWAPPED = ("cow", "ant", "bee")


def draw(animal: str) -> Image.Image:
    """Return an image whose grey value says what it shows."""
    return Image.new("L", (4, 4), ANIMALS.index(animal))


class Animals(Dataset[Any]):
    """Images of animals, whose classes have numbers in the order of `names`."""

    def __init__(
        self, names: tuple[str, ...] = ANIMALS, of: tuple[str, ...] = ANIMALS, classes: Any = None
    ) -> None:
        self.names, self.of = names, of
        self.classes = names if classes is None else classes

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return draw(self.of[row]), self.names.index(self.of[row])


class Unnamed(Animals):
    """A data set that does not know the names of its classes."""

    def __init__(self) -> None:
        super().__init__()
        del self.classes


class ClassLabel:
    """A column of labels of a table of Hugging Face."""

    names = [*SWAPPED]  # noqa: RUF012


class Table:
    """A table of Hugging Face."""

    features = {"image": None, "label": ClassLabel()}  # noqa: RUF012

    def __len__(self) -> int:
        return len(SWAPPED)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"image": draw(SWAPPED[row]), "label": row}


def list_animals(source: Source) -> list[str]:
    """Return the names of the test images, which must be those of what they show."""
    test = source.test()
    assert isinstance(test, Pixels)
    named = [source.classes[number] for number in test.targets.tolist()]
    assert [ANIMALS[grey] for grey in test.pixels[:, 0, 0, 0].tolist()] == named
    return named


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Animals(SWAPPED), ANIMALS),
        (Animals(("bee", "cow"), ("cow", "bee", "cow")), ("cow", "bee", "cow")),
        (Animals(("eel", "cow"), ("cow",)), ("cow",)),
        (Subset(Animals(SWAPPED), [2]), ("cow",)),
        (Table(), SWAPPED),
        (Subset(Table(), [1]), ("ant",)),  # type: ignore[arg-type]
        (([draw("bee")], ["bee"]), ("bee",)),
        (([draw("bee")], [1]), ("bee",)),
    ],
)
def test_splits_agree_by_the_names_of_their_classes(other: Any, expected: tuple[str, ...]) -> None:
    source, _ = to_source((Animals(), other))
    assert source.classes == ANIMALS and list_animals(source) == [*expected]
    assert list_animals(score(other)) == [*expected]


def test_a_class_that_is_not_trained_on_is_refused() -> None:
    with pytest.raises(UserError, match="val: label 'ant' is none of 2 classes, 'bee', 'cow'"):
        to_source((Animals(("bee", "cow"), ("bee", "cow")), Animals()))
    with pytest.raises(UserError, match="label 2 is none of 2 classes, numbered from 0"):
        to_source(Animals(classes=("ant", "bee")))


@pytest.mark.parametrize(
    "classes",
    [
        np.array(ANIMALS),
        {"ant": 0, "bee": 1, "cow": 2},
        [*ANIMALS],
        [("ant", "emmet"), ("bee",), ("cow",)],
    ],
)
def test_names_are_found_however_a_data_set_has_them(classes: Any) -> None:
    assert to_source(Animals(classes=classes))[0].classes == ANIMALS


@pytest.mark.parametrize("classes", [3, "animals", [], {"n02206856": "bee"}])
def test_what_names_no_classes_is_passed_over(classes: Any) -> None:
    assert to_source(Animals(classes=classes))[0].classes == ("0", "1", "2")


def test_joined_data_sets_keep_the_names_that_they_share() -> None:
    joined = ConcatDataset([Animals(), Subset(Animals(), [0]), Unnamed()])
    assert to_source(joined)[0].classes == ANIMALS
    for other, why in ((Animals(SWAPPED), "order"), (Animals(ANIMALS[:2], ("bee",)), "'cow'")):
        with pytest.raises(UserError, match=why):
            to_source(ConcatDataset([Animals(), other]))


def test_names_of_the_whole_or_passed_ones_are_those_of_joined_data_sets() -> None:
    joined = ConcatDataset([Animals(), Animals(classes=("Ant", "Bee", "Cow"))])
    assert to_source(joined, classes=ANIMALS)[0].classes == ANIMALS
    joined.classes = ANIMALS
    assert list_animals(to_source((joined, joined))[0]) == [*ANIMALS, *ANIMALS]
    assert list_animals(score(joined)) == [*ANIMALS, *ANIMALS]


class Counted(Unnamed):
    """A data set whose labels are numbers from 1."""

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        image, number = super().__getitem__(row)
        return image, number + 1


def test_classes_that_are_the_labels_themselves_match_by_value() -> None:
    data: Any = Counted()
    for classes in (None, 3):
        source, _ = to_source((data, Subset(data, [0, 1])), classes=classes)
        assert source.classes == ("1", "2", "3") and source.test().targets.tolist() == [0, 1]
    data.classes = [1, 2, 3]
    source, _ = to_source((data, Subset(data, [0, 1])))
    assert source.classes == ("1", "2", "3") and source.test().targets.tolist() == [0, 1]


def test_passed_names_rename_classes_or_order_them() -> None:
    renamed, _ = to_source((Animals(), Animals()), classes=["Ameise", "Biene", "Kuh"])
    assert renamed.classes == ("Ameise", "Biene", "Kuh")
    assert renamed.test().targets.tolist() == [0, 1, 2]
    ordered, _ = to_source((Animals(), Animals(SWAPPED)), classes=SWAPPED)
    assert ordered.classes == SWAPPED and list_animals(ordered) == [*ANIMALS]
    with pytest.raises(UserError, match="'ant'"):
        to_source((Animals(), Animals(SWAPPED)), classes=["Ameise", "Biene", "Kuh"])


def score(data: Any, classes: tuple[str, ...] = ANIMALS) -> Source:
    """Open data that a network of `classes` is scored on."""
    plain = ((0.0,) * 3, (1.0,) * 3)
    return to_scored_source(
        data, image_size=4, background=WHITE, classes=classes, normalization=plain
    )


@pytest.mark.parametrize(
    "classes", [("0", "1", "2"), ("Ameise", "Biene", "Kuh"), ("Ant", "B", "C")]
)
@pytest.mark.parametrize("data", [Animals(), (Subset(Animals(), [0]), Animals())])
def test_a_network_whose_names_are_all_others_is_scored_by_number(
    data: Any, classes: tuple[str, ...]
) -> None:
    source = score(data, classes)
    assert source.classes == classes and source.test().targets.tolist() == [0, 1, 2]
    (note,) = [each for each in source.notes if "by number" in each]
    assert "'ant'" in note and repr(classes[0]) in note


@pytest.mark.parametrize("classes", [("ant", "bee", "Kuh"), ("Ameise", "Biene")])
def test_a_network_that_lacks_a_class_by_name_is_not_scored_on_it(classes: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"is none of the network's \d classes.*\(images, labels\)"):
        score(Animals(), classes)


def test_accents_have_one_spelling() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    images = [draw("ant"), draw("bee")]
    source, _ = to_source(((images, [composed, "tea"]), (images, [decomposed, "tea"])))
    assert source.classes == (composed, "tea") and source.test().targets.tolist() == [0, 1]
