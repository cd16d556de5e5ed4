"""Image folders: the layouts, and the splits of each."""

from pathlib import Path

import pytest
from dataset_files import write_images
from PIL import Image

from compress.data.decode import read_photo
from compress.data.folders import list_images, open_folder
from compress.data.open_dataset import open_dataset
from compress.data.scoring import open_scored
from compress.data.source import Files
from compress.runtime.errors import UserError

FOUND = ("kaggle", "jupyter", "mixed")


def files(images: object) -> Files:
    assert isinstance(images, Files)
    return images


def test_a_folder_with_three_splits(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        write_images(tmp_path / split, ["cat", "dog"], count)
    source = open_folder(tmp_path)
    assert source.classes == ("cat", "dog") and source.image_size == 32
    assert files(source.train).root == tmp_path / "train"
    assert files(source.val).root == tmp_path / "val"
    assert files(source.test()).root == tmp_path / "test"
    data = open_dataset(f"folder:{tmp_path}", image_size=16)
    assert (data.train_count, data.val_count, len(data.test())) == (12, 6, 4)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_single_split_beside_train_is_the_test_split(tmp_path: Path, split: str) -> None:
    write_images(tmp_path / "train", ["cat", "dog"], 10)
    write_images(tmp_path / split, ["cat", "dog"], 3)
    source = open_folder(tmp_path)
    assert source.val is None and files(source.test()).root == tmp_path / split
    data = open_dataset(f"folder:{tmp_path}", image_size=16)
    assert (data.train_count, data.val_count, len(data.test())) == (18, 2, 6)


def test_a_folder_without_splits_holds_a_fifth_of_each_class_out(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["cat", "dog"], 10)
    first, again = (open_folder(tmp_path / "images") for _ in range(2))
    train, test = files(first.train), files(first.test())
    assert train.names == files(again.train).names and test.names == files(again.test()).names
    assert not set(train.names) & set(test.names) and len(train.names + test.names) == 20
    assert test.targets.bincount().tolist() == [2, 2]


def test_classes_of_splits_must_agree(tmp_path: Path) -> None:
    """They are compared when the folder is opened, before anything is trained."""
    write_images(tmp_path / "train", ["cat", "dog"], 5)
    write_images(tmp_path / "test", ["cat", "cow"], 2)
    with pytest.raises(UserError, match="'cow' is in only one"):
        open_dataset(f"folder:{tmp_path}", image_size=16)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    write_images(tmp_path / "val", ["cat"], 2)
    with pytest.raises(UserError, match="'dog' is in only one"):
        open_dataset(f"folder:{tmp_path}", image_size=16)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "Validation", "Testing"),
        ("seg_train", "valid", "seg_test"),
        ("TRAIN", "val", "Test"),
    ],
)
def test_splits_are_known_under_their_usual_names(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    for split, count in ((train, 6), (val, 3), (test, 2)):
        write_images(tmp_path / split, ["cat", "dog"], count)
    source = open_folder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert files(source.train).root == tmp_path / train
    assert files(source.val).root == tmp_path / val
    assert files(source.test()).root == tmp_path / test


def test_a_split_inside_a_folder_of_its_name_is_found(tmp_path: Path) -> None:
    for split in ("seg_train", "seg_test"):
        write_images(tmp_path / split / split, ["cat", "dog"], 3)
    source = open_folder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert files(source.train).root == tmp_path / "seg_train" / "seg_train"


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "Training", "test"):
        write_images(tmp_path / split, ["cat", "dog"], 2)
    with pytest.raises(UserError, match="Training/ and train/ are both train splits"):
        open_folder(tmp_path)


def test_splits_without_a_training_split_are_refused(tmp_path: Path) -> None:
    for split in ("valid", "Testing"):
        write_images(tmp_path / split, ["cat", "dog"], 2)
    with pytest.raises(UserError, match="no train/"):
        open_folder(tmp_path)


def test_hidden_and_system_folders_are_no_classes_and_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat", "dog", ".ipynb_checkpoints", "__MACOSX"], 4)
    source = open_folder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.notes == ("skipped folders: .ipynb_checkpoints, __MACOSX",)


def test_files_that_are_not_read_are_counted_by_their_endings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "train", ["cat", "dog"], 6)
    write_images(tmp_path / "test", ["cat", "dog"], 2)
    monkeypatch.setattr("compress.data.folder_entries.SUFFIXES", (".png", ".jpg"))
    for number, file in enumerate(sorted((tmp_path / "train" / "cat").iterdir())[:3]):
        file.rename(file.with_suffix(".heic" if number else ".PDF"))
    source = open_folder(tmp_path)
    assert len(files(source.train).names) == 9
    (note,) = source.notes
    assert "2 .heic" in note and "1 .pdf" in note and "compress[heif]" in note
    assert open_dataset(f"folder:{tmp_path}", image_size=16).notes == source.notes


def test_train_needs_another_split_beside_it(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["cat", "dog"], 3)
    with pytest.raises(UserError, match="neither val/ nor test/"):
        open_folder(tmp_path)


@pytest.mark.parametrize("classes", [[], ["cat"]])
def test_a_folder_with_no_or_one_image_is_refused(tmp_path: Path, classes: list[str]) -> None:
    write_images(tmp_path, classes, 1)
    with pytest.raises(UserError, match=f"folder:{tmp_path}") as error:
        open_folder(tmp_path)
    assert "\n" not in str(error.value)
    assert str(error.value).count(str(tmp_path)) == 1


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat", "dog"], 3)
    (tmp_path / "emu").mkdir()
    with pytest.raises(UserError, match=r"cannot read folder:.*emu"):
        open_folder(tmp_path)


@pytest.mark.parametrize("odd", ["val2", "Training_data", "test-images", "eval", "holdout"])
def test_classes_that_look_like_splits_are_refused(tmp_path: Path, odd: str) -> None:
    write_images(tmp_path, ["cat", "dog", odd], 3)
    with pytest.raises(UserError, match=f"{odd}/ looks like a split") as error:
        open_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_splits_that_are_only_close_to_their_usual_names_are_refused(tmp_path: Path) -> None:
    for split in ("train1", "test1"):
        write_images(tmp_path / split, ["cat", "dog"], 3)
    with pytest.raises(UserError, match="test1/, train1/ look like splits"):
        open_folder(tmp_path)


def test_a_class_called_train_is_asked_about(tmp_path: Path) -> None:
    write_images(tmp_path, ["bus", "car", "train"], 3)
    with pytest.raises(UserError, match=r"is train/ a class or a split.*beside bus/"):
        open_folder(tmp_path)
    for split in ("train", "test"):
        write_images(tmp_path / "split" / split, ["bus", "car", "train"], 3)
    assert open_folder(tmp_path / "split").classes == ("bus", "car", "train")


def test_the_folder_inside_is_suggested(tmp_path: Path) -> None:
    write_images(tmp_path / "archive", ["cat", "dog"], 3)
    with pytest.raises(UserError, match=f"did you mean folder:{tmp_path}/archive"):
        open_folder(tmp_path)


def test_splits_inside_of_classes_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / name, ["train", "test"], 3)
    with pytest.raises(UserError, match=r"cat/ holds splits \(test, train\)"):
        open_folder(tmp_path)


@pytest.mark.parametrize("inside", ["", "train"])
def test_folders_that_all_hold_the_same_folders_are_asked_about(
    tmp_path: Path, inside: str
) -> None:
    for outer in ("day", "night"):
        write_images(tmp_path / inside / outer, ["cat", "dog"], 3)
    if inside:
        write_images(tmp_path / "test", ["day", "night"], 1)
    with pytest.raises(UserError, match="day/, night/ all hold cat/, dog/"):
        open_folder(tmp_path)


def test_classes_may_hold_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", ["left", "right"], 3)
    write_images(tmp_path / "dog", ["left", "front"], 3)
    assert open_folder(tmp_path).classes == ("cat", "dog")
    for name in ("cat", "dog"):
        write_images(tmp_path / "single" / name, ["images"], 3)
        (tmp_path / "single" / name / "labels").mkdir()
        (tmp_path / "single" / name / "labels" / "0.txt").touch()
    assert open_folder(tmp_path / "single").classes == ("cat", "dog")


def test_accents_have_one_spelling(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write_images(tmp_path / "train", [composed, "tea"], 4)
    write_images(tmp_path / "test", [decomposed, "tea"], 2)
    source = open_folder(tmp_path)
    assert source.classes == (composed, "tea")
    assert source.test().targets.bincount().tolist() == [2, 2]
    write_images(tmp_path / "train", [decomposed], 3)
    assert open_folder(tmp_path).train.targets.bincount().tolist() == [7, 4]
    name = f"folder:{tmp_path}"
    scored = open_scored(name, ("tea", composed), 32, trained_on=name)
    assert scored.test_images().targets.bincount().tolist() == [2, 2]


def test_what_lies_beside_splits_and_classes_is_named(tmp_path: Path) -> None:
    for split in ("train", "test", "pred"):
        write_images(tmp_path / split, ["cat", "dog"], 3)
    image = next((tmp_path / "pred" / "cat").iterdir())
    image.rename(tmp_path / "train" / "loose.png")
    assert open_folder(tmp_path).notes == (
        "skipped folders: pred",
        "skipped images outside of the folders of classes: 1",
    )


def test_hidden_folders_inside_of_classes_are_skipped(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat", "dog"], 5)
    write_images(tmp_path / "cat", [".ipynb_checkpoints", "deeper"], 2)
    source = open_folder(tmp_path)
    names = files(source.train).names + files(source.test()).names
    assert len(names) == 12 and not any("checkpoints" in name for name in names)


def test_every_format_that_pillow_decodes_is_listed(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat", "dog"], 3)
    for ending in ("gif", "jp2", "tga", "JFIF", "avif"):
        try:
            format = {"JFIF": "JPEG"}.get(ending)
            Image.new("RGB", (8, 8)).save(tmp_path / "cat" / f"image.{ending}", format=format)
        except (KeyError, ValueError, OSError):
            assert ending == "avif"  # not in every build of Pillow
    source = open_folder(tmp_path)
    assert len(source.train.targets) + len(source.test().targets) >= 10
    assert all(read_photo(file) for file in (tmp_path / "cat").iterdir())


def test_the_folders_of_kaggle_jupyter_and_phones(tmp_path: Path) -> None:
    """Folders as people have them; none of their oddities becomes a class or goes unsaid."""
    for split, count in (("Training", 15), ("Testing", 5)):
        write_images(tmp_path / "kaggle" / split, ["glioma", "no tumor"], count)
    write_images(tmp_path / "jupyter", ["cat", "dog"], 20)
    write_images(tmp_path / "jupyter", [".ipynb_checkpoints"], 3)
    write_images(tmp_path / "mixed", ["cat", "dog"], 20)
    for name in ("cat", "dog"):
        for file in sorted((tmp_path / "mixed" / name).iterdir())[:8]:
            file.rename(file.with_suffix(".raw"))
    kaggle, jupyter, mixed = (open_folder(tmp_path / each) for each in FOUND)
    assert kaggle.classes == ("glioma", "no tumor") and not kaggle.held_out
    assert (len(kaggle.train.targets), len(kaggle.test().targets)) == (30, 10)
    assert jupyter.classes == mixed.classes == ("cat", "dog")
    assert jupyter.notes == ("skipped folders: .ipynb_checkpoints",)
    assert mixed.notes == ("skipped files that are not read as images: 16 .raw",)
    assert len(mixed.train.targets) + len(mixed.test().targets) == 24


def test_links_are_followed_but_not_back_to_their_own_parents(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", ["more"], 3)
    write_images(tmp_path / "data", ["a", "b"], 4)
    inside = tmp_path / "data" / "a"
    (inside / "more").symlink_to(tmp_path / "elsewhere" / "more")
    for name, target in (("all", "data"), ("self", "data/a"), ("top", ".")):
        (inside / name).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere" / "more" / "back").symlink_to(inside)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for root in (tmp_path / "data", tmp_path / "link"):
        _, found = list_images("folder", root)
        assert found.targets.bincount().tolist() == [7, 4]
        assert sum(name.startswith("a/more/") for name in found.names) == 3


@pytest.mark.parametrize("val", [False, True])
def test_a_test_split_without_classes_is_refused_with_what_to_do(tmp_path: Path, val: bool) -> None:
    for split in ("train", "val") if val else ("train",):
        write_images(tmp_path / split, ["cat", "dog"], 3)
    write_images(tmp_path, ["test"], 5)
    remedy = "move test/ away" if val else f"pass folder:{tmp_path / 'train'}"
    with pytest.raises(UserError, match=rf"test/ has 5 images.*{remedy}.*compress predict"):
        open_folder(tmp_path)


def test_images_beside_each_other_are_refused_with_what_to_do(tmp_path: Path) -> None:
    write_images(tmp_path, ["images"], 5)
    with pytest.raises(UserError, match=r"5 images, and no folder of a class.*csv:"):
        open_folder(tmp_path / "images")


def test_files_without_an_ending_are_called_that(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat", "dog"], 2)
    for file in (tmp_path / "dog").iterdir():
        file.rename(file.with_suffix(""))
    with pytest.raises(UserError, match=r"no images in dog/.*2 without an ending"):
        open_folder(tmp_path)
