"""Data sets of Hugging Face, on local ones; the hub is not asked."""

from pathlib import Path
from typing import Any

import pytest
from dataset_files import write_images
from PIL import Image

from compress.data.hugging_face import open_hugging_face
from compress.data.in_memory import to_source
from compress.data.open_dataset import open_dataset
from compress.data.source import Files
from compress.runtime.errors import UserError

datasets = pytest.importorskip("datasets")

CLASSES = ["wolf", "bear"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))


def make_table(count: int, kind: Any = None, labels: list[Any] | None = None) -> Any:
    images = [Image.new("RGB", (8, 8), (10 * number, 0, 0)) for number in range(count)]
    columns = {"img": images, "label": labels or [number % 2 for number in range(count)]}
    features = datasets.Features(
        {"img": datasets.Image(), "label": kind or datasets.ClassLabel(names=CLASSES)}
    )
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_saved_table_with_splits(tmp_path: Path) -> None:
    saved = datasets.DatasetDict(
        train=make_table(12), validation=make_table(6), test=make_table(4, labels=[-1] * 4)
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    source = open_hugging_face(str(tmp_path / "saved"))
    # The order is that of ClassLabel; the test split has no labels.
    assert source.classes == ("wolf", "bear") and source.val is None
    assert source.train.targets.tolist() == [0, 1] * 6 and len(source.test().targets) == 6
    data = open_dataset(f"hf:{tmp_path / 'saved'}", image_size=8, val_fraction=0.2)
    assert data.name == f"hf:{tmp_path / 'saved'}"
    reds = data.train.batches([data.train.targets.new_tensor(range(len(data.train)))])
    assert {int(each) % 10 for each in next(iter(reds))[:, 0, 0, 0]} == {0}
    again = open_hugging_face(str(tmp_path / "saved"))
    assert isinstance(again.train, Files) and isinstance(source.train, Files)
    assert again.train.root == source.train.root and again.train.names == source.train.names


def save_splits(folder: Path, **tables: Any) -> str:
    datasets.DatasetDict(**tables).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


@pytest.mark.parametrize("first", [False, True])
def test_a_split_without_labels_is_left_out(first: bool, tmp_path: Path) -> None:
    bare, full = {"test": make_table(4).remove_columns("label")}, {"train": make_table(12)}
    saved = save_splits(tmp_path, **(bare | full if first else full | bare))
    source = open_hugging_face(saved)
    assert source.held_out and len(source.train.targets) + len(source.test().targets) == 12
    assert source.notes == ("its test split has no labels in the column 'label': left out",)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: make_table(4).remove_columns("img"), "its test split has no column 'img'"),
        (lambda: make_table(4).rename_column("img", "image"), "no column 'img'"),
        (lambda: make_table(4, datasets.Value("string"), CLASSES * 2), "different classes"),
        (lambda: make_table(4, datasets.ClassLabel(names=["a", "b"])), "different classes"),
    ],
)
def test_a_split_with_other_columns_is_refused(other: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as refused:
        open_hugging_face(save_splits(tmp_path, train=make_table(12), test=other()))
    assert "\n" not in str(refused.value)


def test_parquet_files_with_labels_in_words(tmp_path: Path) -> None:
    table = make_table(10, datasets.Value("string"), ["wolf", "bear"] * 5)
    (tmp_path / "data").mkdir()
    table.to_parquet(str(tmp_path / "data" / "train.parquet"))
    source = open_hugging_face(str(tmp_path / "data"))
    assert source.classes == ("bear", "wolf") and source.held_out
    assert len(source.train.targets) == 8 and len(source.test().targets) == 2


def test_labels_in_two_spellings_are_one_class(tmp_path: Path) -> None:
    names = ["caf\u00e9", "cafe\u0301", "bar"] * 4
    make_table(12, datasets.Value("string"), names).save_to_disk(str(tmp_path / "saved"))
    source = open_hugging_face(str(tmp_path / "saved"))
    assert source.classes == ("bar", "caf\u00e9")


def test_a_folder_of_images_is_not_copied(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "photos" / split, ["cat", "dog"], 4)
    source = open_hugging_face(str(tmp_path / "photos"))
    assert source.classes == ("cat", "dog")
    assert isinstance(source.train, Files) and source.train.root == tmp_path / "photos" / "train"
    assert len(source.train.names) == len(source.test().targets) == 8


def test_a_table_without_images_or_labels_is_refused(tmp_path: Path) -> None:
    for column, missing in (("img", "images"), ("label", "labels")):
        make_table(4).remove_columns([column]).save_to_disk(str(tmp_path / missing))
        with pytest.raises(UserError, match=f"no column of {missing}") as error:
            open_hugging_face(str(tmp_path / missing))
        assert "\n" not in str(error.value)


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\n(offline)")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError, match=r"hf:owner/photos: .*Hub \(offline\).*network") as error:
        open_hugging_face("owner/photos")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"compress\[hf\]"):
        open_hugging_face("owner/photos")


def test_a_row_without_an_image_is_a_broken_one(tmp_path: Path) -> None:
    table = make_table(12)
    rows = [None if row in (0, 5) else image for row, image in enumerate(table["img"])]
    columns = {"img": rows, "label": table["label"]}
    datasets.Dataset.from_dict(columns, features=table.features).save_to_disk(str(tmp_path / "t"))
    name = f"hf:{tmp_path / 't'}"
    with pytest.raises(UserError, match=r"2 of 12.*0000005\.img"):
        open_dataset(name, image_size=8, verify=True)
    data = open_dataset(name, image_size=8, val_fraction=0.2, skip_broken=True)
    assert data.train_count + data.val_count + len(data.test()) == 10


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("bool", [False, True]), ("uint8", [1, 2]), ("large_string", ["1", "2"])],
)
def test_labels_of_other_types(tmp_path: Path, kind: str, labels: list[Any]) -> None:
    make_table(10, datasets.Value(kind), labels * 5).save_to_disk(str(tmp_path / "t"))
    source = open_hugging_face(str(tmp_path / "t"))
    assert source.classes == tuple(map(str, labels)) and source.train.targets.sum() == 4


def test_a_line_says_which_of_several_columns_is_taken(tmp_path: Path) -> None:
    table = make_table(10).rename_column("label", "fine_label")
    table = table.add_column("coarse_label", [0, 0] * 5)
    table = table.cast_column("coarse_label", datasets.ClassLabel(names=["animal"]))
    table.save_to_disk(str(tmp_path / "t"))
    for notes in (open_hugging_face(str(tmp_path / "t")).notes, to_source(table)[0].notes):
        assert any("'fine_label', and not 'coarse_label'" in note for note in notes)
    items = [dict(row) for row in table]
    assert any("'coarse_label'" in note for note in to_source(items)[0].notes)


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    make_table(4, datasets.Value("float64"), [0.0, 1.0] * 2).save_to_disk(str(tmp_path / "floats"))
    paths = datasets.Dataset.from_dict({"image": ["a.png"] * 4, "label": [0, 1] * 2})
    paths.save_to_disk(str(tmp_path / "paths"))
    for folder, words in (
        ("floats", "'label', of type float64"),
        ("paths", "'image', of type str"),
    ):
        with pytest.raises(UserError, match=words) as refused:
            open_hugging_face(str(tmp_path / folder))
        assert "cast" in str(refused.value) and "\n" not in str(refused.value)
